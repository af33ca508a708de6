"""The stubs and the contract's documentation say what the .proto and the server say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from glimpse.server.errors import Code, Reason
from glimpse.v1 import classifier_pb2 as pb

PROTO = Path(__file__).parents[2] / "proto"
OPEN_INFERENCE = PROTO.parent / "server" / "open_inference"
CONTRACT = PROTO / "glimpse" / "v1" / "classifier.proto"


def stubs(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (folder / "glimpse" / "v1").glob("*_pb2*.py*")}


def messages(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.glob("*_pb2*.py*")}


def documented_reasons() -> dict[str, str]:
    """Reason -> status code, from the table at the top of the .proto."""
    return dict(re.findall(r"^// \| `([A-Z_]+)` \| ([A-Z_]+) \|", CONTRACT.read_text(), re.MULTILINE))


def test_the_stubs_are_what_the_contract_generates(tmp_path: Path) -> None:
    subprocess.run([sys.executable, PROTO / "generate.py", tmp_path, tmp_path / "server"], check=True)

    fresh, fresh_messages = stubs(tmp_path), messages(tmp_path / "server")

    assert sorted(fresh) == [
        "classifier_pb2.py",
        "classifier_pb2.pyi",
        "classifier_pb2_grpc.py",
        "classifier_pb2_grpc.pyi",
    ]
    assert stubs(PROTO) == fresh, "The stubs are not those of classifier.proto; run `make proto`."
    assert sorted(fresh_messages) == ["open_inference_pb2.py", "open_inference_pb2.pyi"]
    assert messages(OPEN_INFERENCE) == fresh_messages, "They are not those of open_inference.proto; run `make proto`."


def test_the_stubs_load_on_the_oldest_protobuf_that_tensorflow_takes() -> None:
    assert "# Protobuf Python Version: 6.31.1\n" in stubs(PROTO)["classifier_pb2.py"]


def test_every_reason_of_the_server_is_documented_and_no_other() -> None:
    assert set(documented_reasons()) == {reason.value for reason in Reason}


def test_the_documented_status_codes_are_those_in_use() -> None:
    assert set(documented_reasons().values()) == {code.name for code in Code}


def test_every_field_number_of_a_message_is_used_without_a_gap() -> None:
    # Nothing has been removed yet; a removed field must be reserved, and then this test must learn of it.
    for message in pb.DESCRIPTOR.message_types_by_name.values():
        numbers = sorted(field.number for field in message.fields)
        assert numbers == list(range(1, len(numbers) + 1)), message.full_name
