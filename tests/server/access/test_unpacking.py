"""Compressed messages: seen, unpacked within the limit, few at once."""

from __future__ import annotations

import asyncio
import gzip
import threading
import zlib
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from glimpse.server.grpc.decompression import Decompressor, TooLargeError, is_compressed
from glimpse.v1 import classifier_pb2 as pb

_LARGEST = 1 << 20


def unpacked(message: bytes) -> bytes:
    return asyncio.run(Decompressor(_LARGEST).decompress(message))


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, _LARGEST])
def test_what_was_packed_comes_out_as_it_was(pack: Any, size: int) -> None:
    message = bytes(range(256)) * (size // 256) + bytes(size % 256)
    assert is_compressed(pack(message))
    assert unpacked(pack(message)) == message


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
@pytest.mark.parametrize("size", [_LARGEST + 1, 50 * _LARGEST])
def test_what_is_larger_than_a_message_may_be_is_refused(pack: Any, size: int) -> None:
    with pytest.raises(TooLargeError, match="exceeds GLIMPSE_MAX_MESSAGE_BYTES"):
        unpacked(pack(bytes(size)))


@pytest.mark.parametrize("size", [100, 500_000])
@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_what_is_broken_or_cut_is_no_message(pack: Any, size: int) -> None:
    whole = pack(bytes(size))
    for broken in (whole[:-1], whole[:-5], whole[:3], whole[:-3] + b"xyz"):
        with pytest.raises(DecodeError):
            unpacked(broken)


@given(st.text(), st.binary(), st.integers(0, 5))
def test_no_message_of_ours_looks_packed(name: str, data: bytes, images: int) -> None:
    request = pb.ClassifyRequest(images=[pb.Image(encoded=data)] * images, model=pb.ModelSelector(name=name))
    for message in (request, pb.ClassifyStreamRequest(id=name, request=request), pb.DescribeModelRequest()):
        assert not is_compressed(message.SerializeToString())


def test_no_more_than_two_are_unpacked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, most, lock = 0, 0, threading.Lock()
    real = asyncio.to_thread

    async def counted(*arguments: Any) -> Any:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        try:
            return await real(*arguments)
        finally:
            at_once -= 1

    monkeypatch.setattr(asyncio, "to_thread", counted)

    async def all_of_them() -> list[bytes]:
        decompressor = Decompressor(_LARGEST)
        return await asyncio.gather(*(decompressor.decompress(gzip.compress(bytes(_LARGEST))) for _ in range(20)))

    assert asyncio.run(all_of_them()) == [bytes(_LARGEST)] * 20
    assert most == 2
