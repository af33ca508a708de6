from __future__ import annotations

import gzip
import io

import pytest
from hpack import Decoder
from PIL import Image

from glimpse.v1 import classifier_pb2 as pb
from tools.load.attack import messages
from tools.load.attack.connection import block
from tools.load.attack.messages import LARGEST, body


def image(name: str) -> bytes:
    return pb.ClassifyRequest.FromString(body(name)[5:]).images[0].encoded


@pytest.mark.parametrize("name", ["hidden scans", "scans hidden by many markers", "scans between tables"])
def test_scans_that_are_hidden_are_decoded_by_whoever_believes_the_file(name: str) -> None:
    file = image(name)
    assert file.count(b"\xff\xda") > 800
    few = file[: file.index(b"\xff\xda") + 200] + b"\xff\xd9"  # the first of them take a moment
    with Image.open(io.BytesIO(few)) as opened:
        opened.load()
        assert opened.size == (4096, 4096)


def test_25_megapixels_weigh_34_bytes() -> None:
    with Image.open(io.BytesIO(image("25 megapixels"))) as opened:
        assert opened.size == (5000, 5000)
    assert len(image("25 megapixels")) <= 40


def test_an_unfinished_upload_lacks_one_byte_of_the_limit() -> None:
    made = body("16 MiB but for a byte")
    assert int.from_bytes(made[1:5]) == LARGEST
    assert len(made) == 5 + LARGEST - 1


def test_a_packed_message_is_the_same_message() -> None:
    packed = body("hidden scans", packed=True)
    assert packed[0] == 1
    assert len(packed) < len(body("hidden scans")) // 20
    assert gzip.decompress(packed[5:]) == body("hidden scans")[5:]


def test_headers_are_said_so_that_they_may_be_repeated() -> None:
    fields = [("a", "b"), ("long", "x" * 8000), ("n" * 127, "")]
    decoder = Decoder(max_header_list_size=1 << 20)
    for _ in range(2):
        assert [(str(name), str(value)) for name, value in decoder.decode(block(fields))] == fields


def test_every_kind_of_message_can_be_put_together() -> None:
    for name in messages.KINDS:
        assert len(body(name)) <= LARGEST + 1024, name
