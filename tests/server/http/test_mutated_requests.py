"""Broken requests: each gets a status and a reason, and harms nobody else."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glimpse.server.errors import InvalidRequestError
from glimpse.server.http import form as forms
from glimpse.server.http import json_body
from tests.server.conftest import TIMEOUT
from tests.server.http.asking import (
    V1,
    V2,
    V2_PIXELS,
    Answer,
    ask,
    asked,
    base64_of,
    binary,
    form,
    inference,
    instances,
    picture,
    pixels,
)
from tests.server.rig import Rig
from tests.variations import mostly_in_ci

PHOTO = picture()
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(base64_of(PHOTO)),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=8), inside, max_size=4),
    max_leaves=12,
)
KNOWN = ["inputs", "name", "shape", "datatype", "data", "parameters", "outputs", "id", "instances", "b64", "image"]
objects = st.dictionaries(st.sampled_from(KNOWN), values, max_size=6)


def seeds() -> list[tuple[str, bytes, dict[str, str]]]:
    """Requests that are as they should be."""
    return [
        ("/classify", PHOTO, {}),
        ("/classify", *form(("image", PHOTO, "a.png"), ("top_k", b"2", ""))),
        (V1, json.dumps(instances(PHOTO, parameters={"top_k": 2})).encode(), {}),
        (V2, json.dumps(inference(PHOTO, id="a", outputs=[{"name": "probabilities"}])).encode(), {}),
        (V2, *binary(PHOTO, parameters={"binary_data_output": True})),
        (V2_PIXELS, json.dumps({"inputs": [pixels()]}).encode(), {}),
    ]


def mutants(number: int, seed: int = 0) -> Iterator[tuple[str, bytes, dict[str, str]]]:
    """So many requests of which some bytes, or headers, are others."""
    random = Random(seed)
    known = seeds()
    for _ in range(number):
        path, body, headers = known[random.randrange(len(known))]
        changed = bytearray(body)
        for _ in range(random.choice([1, 1, 2, 8])):
            # The beginning has what says how the rest is to be read.
            most = len(changed) if random.random() < 0.5 else min(len(changed), 160)
            at = random.randrange(most) if most else 0
            match random.randrange(5):
                case 0:
                    changed[at : at + 1] = bytes([random.randrange(256)])
                case 1:
                    del changed[at : at + random.choice([1, 4, 64])]
                case 2:
                    changed[at:at] = changed[at : at + random.choice([1, 4, 64])]
                case 3:
                    changed[at:at] = random.choice([b"{", b"[", b'"', b"\x00", b"\xff\xff\xff\x7f", b"-1", b"9" * 30])
                case _:
                    del changed[at:]
        if random.random() < 0.1:
            headers = {**headers, "Inference-Header-Content-Length": str(random.randrange(-5, 2 * len(body) + 5))}
        yield path, bytes(changed), headers


def is_told(answer: Answer) -> bool:
    """Whether an answer is one, or a refusal by name."""
    if answer.status == 200:
        return True
    return answer.status in {400, 404} and bool(answer.json["reason"]) and answer.json["code"] != "INTERNAL"


@pytest.mark.parametrize("number", [*mostly_in_ci([150, 2000], 150), pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_broken_request_is_answered_or_refused_by_name(rig: Rig, port: int, number: int) -> None:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)) as connection:
        found = [asked(connection, *each) for each in mutants(number, seed=number)]
    wrong = [each for each in found if not is_told(each)]
    assert not wrong, wrong[:3]
    assert {each.status for each in found} >= {200, 400}
    assert ask(port, "/classify", PHOTO).status == 200
    rig.wait_until(lambda: not any(rig.held().values()))


@settings(max_examples=25)
@given(content=objects | values)
def test_any_json_is_answered_or_refused_by_name(port: int, content: object) -> None:
    body = json.dumps(content).encode()
    assert all(is_told(ask(port, path, body)) for path in (V1, V2, V2_PIXELS))


@given(
    files=st.lists(st.binary(max_size=64), min_size=1, max_size=4),
    boundary=st.from_regex("[a-z]{8,20}", fullmatch=True),
)
def test_a_form_gives_back_the_files_that_it_was_made_of(files: list[bytes], boundary: str) -> None:
    body, headers = form(*(("image", each, "a.png") for each in files), ("top_k", b"2", ""), boundary=boundary)
    found = forms.read(body, headers["Content-Type"])
    assert (found.files, found.texts) == (files, {"top_k": "2"})
    assert forms.read(b"what is before\r\n" + body, f'multipart/form-data; boundary="{boundary}"') == found


@given(body=st.binary(max_size=400), kind=st.text(max_size=40))
def test_any_bytes_are_a_form_or_refused(body: bytes, kind: str) -> None:
    for content_type in (kind, "multipart/form-data; boundary=xyz"):
        with contextlib.suppress(InvalidRequestError):
            forms.read(b"--xyz\r\n" + body + b"\r\n--xyz--", content_type)


@pytest.mark.parametrize("alphabet", [b"+/", b"-_"])
def test_base64_is_read_in_both_alphabets_and_without_padding(alphabet: bytes) -> None:
    data = bytes(range(256))
    text = base64.b64encode(data, alphabet).decode()
    assert json_body.image(text, "b64") == data
    assert json_body.image(text.rstrip("="), "b64") == data
