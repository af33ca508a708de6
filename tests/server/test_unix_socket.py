"""A server that listens on a Unix socket besides its port."""

from __future__ import annotations

import hashlib
import signal
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.conftest import RunningServer

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no Unix sockets")
Start = Callable[..., RunningServer]


@pytest.fixture
def path() -> Iterator[Path]:
    """Short, because the name of a socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder, "glimpse.sock")


def answered(target: str, *, bearer: str = "") -> str:
    """The label of a grey picture."""
    metadata = (("authorization", f"Bearer {bearer}"),) if bearer else None
    request = pb.ClassifyRequest(images=[pb.Image(raw=pb.RawPixels(height=32, width=32, data=bytes([128]) * 3072))])
    with grpc.insecure_channel(target) as channel:
        return str(
            ImageClassifierStub(channel)
            .Classify(request, timeout=30, metadata=metadata)
            .results[0]
            .predictions[0]
            .label
        )


def test_it_answers_on_the_socket_as_on_the_port(start_server: Start, path: Path) -> None:
    left = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    left.bind(str(path))
    left.close()  # as a server that crashed leaves it
    running = start_server(f"--unix-socket={path}")
    running.wait_for("serving")
    assert running.wait_for("listening")["unix_socket"] == str(path)
    assert answered(f"unix:{path}") == answered(running.target)
    running.terminate(signal.SIGTERM)
    assert running.exit_code() == 0
    assert running.stray == []
    assert not path.exists()


def test_callers_on_the_socket_need_a_token_as_on_the_port(start_server: Start, path: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(f'[[token]]\nidentity = "alice"\nsha256 = "{hashlib.sha256(b"secret").hexdigest()}"\n')
    running = start_server(f"--unix-socket={path}", f"--tokens={tokens}")
    running.wait_for("serving")
    with pytest.raises(grpc.RpcError) as refused:
        answered(f"unix:{path}")
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert running.wait_for("rpc")["peer"].startswith("unix:")
    assert answered(f"unix:{path}", bearer="secret")


def test_a_socket_on_which_a_program_listens_is_left_to_it(start_server: Start, path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(path))
        other.listen()
        running = start_server(f"--unix-socket={path}")
        assert "a program listens there" in running.wait_for("cannot start")["detail"]
        assert running.exit_code() == 3
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
            caller.connect(str(path))


def test_a_file_in_the_place_of_the_socket_is_not_overwritten(start_server: Start, path: Path) -> None:
    path.write_text("mine")
    running = start_server(f"--unix-socket={path}")
    assert f"Cannot listen on unix:{path}" in running.wait_for("cannot start")["detail"]
    assert running.exit_code() == 3
    assert stat.S_ISREG(path.stat().st_mode)
    assert path.read_text() == "mine"
