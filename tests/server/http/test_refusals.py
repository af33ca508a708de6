"""What is wrong with a request is told by a status and by the reasons of gRPC, and nothing is lost."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.server.http.asking import (
    MODEL,
    V1,
    V2,
    V2_PIXELS,
    ask,
    base64_of,
    binary,
    form,
    inference,
    instances,
    picture,
    pixels,
    post,
)
from tests.server.rig import SIZE, Rig

BAD = (400, "MALFORMED_MESSAGE")
TENSOR, PARAMETER = (400, "INVALID_TENSOR"), (400, "INVALID_PARAMETER")


def tensor(**changed: object) -> dict[str, Any]:
    """A request of version 2, whose input is changed."""
    content: dict[str, Any] = inference(picture())
    return {"inputs": [{**content["inputs"][0], **changed}]}


def test_nothing_is_held_after_all_of_them(rig: Rig, port: int) -> None:
    post(port, V2, tensor(datatype="FP32"))
    rig.wait_until(lambda: not any(rig.held().values()))


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        pytest.param(V1, b"{", BAD, id="JSON that is none"),
        pytest.param(V1, b"\xff\xfe{}", BAD, id="JSON that is no text"),
        pytest.param(V1, b"[]", BAD, id="an array"),
        pytest.param(V1, b"{}", BAD, id="no instances"),
        pytest.param(V1, b'{"instances": NaN}', BAD, id="a number that JSON does not have"),
        pytest.param(V1, b"[" * 100_000, BAD, id="JSON that is deep"),
        pytest.param(V1, b'{"instances": [' + b"{}," * 400_000 + b"{}]}", BAD, id="JSON of too many values"),
        pytest.param(V1, b'{"n": ' + b"9" * 10_000 + b"}", BAD, id="a number of too many digits"),
        pytest.param(V1, b'{"instances": []}', (400, "NO_IMAGES"), id="no images"),
        pytest.param(V1, b'{"instances": [1]}', BAD, id="an instance that is a number"),
        pytest.param(V1, b'{"instances": [{"b64": 1}]}', BAD, id="base64 that is a number"),
        pytest.param(V1, b'{"instances": [{"b64": "a"}]}', BAD, id="base64 that is cut"),
        pytest.param(V1, '{"instances": [{"b64": "é"}]}'.encode(), BAD, id="base64 of other letters"),
        pytest.param(V1, b'{"instances": [{"b64": ""}]}', (400, "EMPTY_IMAGE"), id="an empty image"),
        pytest.param(V2, b"{}", BAD, id="no inputs"),
        pytest.param(V2, b'{"inputs": []}', TENSOR, id="inputs of none"),
        pytest.param(V2, b'{"inputs": [1]}', BAD, id="inputs of numbers"),
        pytest.param("/classify", b"", (400, "EMPTY_IMAGE"), id="an empty body"),
        pytest.param("/classify", b"GIF89a", (400, "TRUNCATED_IMAGE"), id="an image that is cut"),
        pytest.param("/classify?top_k=0", picture(), (400, "TOP_K_OUT_OF_RANGE"), id="no labels"),
        pytest.param("/classify?top_k=x", picture(), BAD, id="a number of labels that is none"),
        pytest.param("/classify?min_probability=2", picture(), (400, "MIN_PROBABILITY_OUT_OF_RANGE"), id="above 1"),
        pytest.param("/classify?min_probability=nan", picture(), BAD, id="not a number"),
        pytest.param("/classify?geometry=crop", picture(), (400, "GEOMETRY_NOT_ALLOWED"), id="a geometry"),
        pytest.param("/classify?labels=2", picture(), BAD, id="a parameter that does not exist"),
        pytest.param("/classify?model=none", picture(), (404, "MODEL_NOT_FOUND"), id="another model"),
        pytest.param("/v1/models/none:predict", b'{"instances": []}', (404, "MODEL_NOT_FOUND"), id="version 1 of it"),
        pytest.param("/v2/models/none/infer", b"{}", (404, "MODEL_NOT_FOUND"), id="version 2 of it"),
        pytest.param(f"/v2/models/{MODEL}/versions/9/infer", b"{}", (404, "MODEL_NOT_FOUND"), id="another version"),
    ],
)
def test_a_bad_request_is_refused_by_name(port: int, path: str, body: bytes, expected: tuple[int, str]) -> None:
    answer = ask(port, path, body)
    assert (answer.status, answer.reason) == expected
    assert answer.json["error"]


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "pixels"},
        {"name": 1},
        {"datatype": "UINT8"},
        {"datatype": None},
        {"shape": [2]},
        {"shape": [1, 2]},
        {"shape": [1, 1, 1]},
        {"shape": [-1]},
        {"shape": ["1"]},
        {"shape": [True]},
        {"shape": 1},
        {"shape": [10**30]},
        {"shape": [2, 10**4000]},
        {"shape": [1] * 1000},
        {"data": "text"},
        {"data": [1]},
        {"data": ["?"]},
        {"data": [["a", 1]]},
        {"parameters": []},
        {"parameters": {"binary_data_size": 4}},
    ],
    ids=lambda value: str(value)[:60],
)
def test_an_input_of_version_2_that_is_none_is_refused(port: int, changed: dict[str, object]) -> None:
    answer = post(port, V2, tensor(**changed))
    # Of so many images, that is found first.
    assert (answer.status, answer.reason) in {BAD, TENSOR, (400, "TOO_MANY_IMAGES")}


def test_many_inputs_are_counted_and_none_is_read(port: int) -> None:
    wrong = {"name": 1, "parameters": {"binary_data_size": -1}}
    head = json.dumps({"inputs": [wrong] * 50_000}).encode()
    answer = ask(port, V2, head + bytes(100_000), {"Inference-Header-Content-Length": str(len(head))})
    assert (answer.status, answer.reason, answer.json["field"]) == (*TENSOR, "inputs")
    assert "50000" in answer.json["error"]


@pytest.mark.parametrize(
    "more",
    [
        {"id": 1},
        {"id": "\ud800"},
        {"parameters": {"min_probability": 10**400}},
        {"parameters": {"timeout": 10**400}},
        {"parameters": {"top_k": 2**64}},
        {"parameters": {"priority": -(2**63) - 1}},
        {"outputs": [{"name": "\udfff"}]},
        {"outputs": [{"name": "probabilities", "parameters": {"classification": 10**400}}]},
        {"parameters": 1},
        {"parameters": {"timeout": "soon"}},
        {"parameters": {"binary_data_output": 1}},
        {"parameters": {"geometry": 1}},
        {"parameters": {"top_k": []}},
        {"parameters": {"priority": -1}},
        {"outputs": 1},
        {"outputs": [{"name": "logits"}]},
        {"outputs": [{"name": "probabilities"}] * 2},
        {"outputs": [{"name": "probabilities", "parameters": 1}]},
        {"outputs": [{"name": "probabilities", "parameters": {"classification": -1}}]},
        {"outputs": [{"name": "probabilities", "parameters": {"classification": 1.5}}]},
        {"outputs": [{"name": "probabilities", "parameters": {"binary_data": "no"}}]},
    ],
    ids=lambda value: ascii(value)[:60],
)
def test_parameters_and_outputs_of_a_wrong_type_are_refused(port: int, more: dict[str, object]) -> None:
    answer = post(port, V2, inference(picture(), **more))
    assert (answer.status, answer.reason) in {BAD, TENSOR, PARAMETER}


@pytest.mark.parametrize(
    "more",
    [
        {"top_k": "5"},
        {"top_k": 1.5},
        {"top_k": True},
        {"min_probability": "0"},
        {"geometry": 1},
        {"geometry": "\ud800"},
        {"min_probability": 10**400},
        [],
    ],
    ids=ascii,
)
def test_options_of_version_1_of_a_wrong_type_are_refused(port: int, more: object) -> None:
    answer = post(port, V1, instances(picture(), parameters=more))
    assert (answer.status, answer.reason) == BAD


@pytest.mark.parametrize(
    ("length", "reason"),
    [
        ("x", "MALFORMED_MESSAGE"),
        ("99999999", "MALFORMED_MESSAGE"),
        ("3", "MALFORMED_MESSAGE"),
        ("-1", "MALFORMED_MESSAGE"),
    ],
)
def test_a_length_of_the_json_that_is_wrong_is_refused(port: int, length: str, reason: str) -> None:
    body, _ = binary(picture())
    answer = ask(port, V2, body, {"Inference-Header-Content-Length": length})
    assert (answer.status, answer.reason) == (400, reason)


@pytest.mark.parametrize(
    "raw",
    [b"abc", b"\xff\xff\xff\xffabcd", b"\x02\x00\x00\x00ab\x01", b"\x00" * 8],
    ids=["amid a length", "a length beyond the end", "a rest", "two elements"],
)
def test_binary_tensors_of_bytes_are_refused_where_they_are_none(port: int, raw: bytes) -> None:
    given = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [given]}).encode()
    answer = ask(port, V2, head + raw, {"Inference-Header-Content-Length": str(len(head))})
    assert (answer.status, answer.reason) == TENSOR


@pytest.mark.parametrize("size", [-1, 10**9, 3.5])
def test_a_size_of_binary_data_that_cannot_be_is_refused(port: int, size: float) -> None:
    given = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [given]}).encode()
    assert ask(port, V2, head + b"rest", {"Inference-Header-Content-Length": str(len(head))}).reason == BAD[1]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"shape": [1, SIZE, SIZE, 2]}, "INVALID_TENSOR"),
        ({"shape": [2, SIZE, SIZE, 3]}, "INVALID_TENSOR"),
        ({"shape": [SIZE, SIZE, 3]}, "INVALID_TENSOR"),
        ({"name": "image"}, "INVALID_TENSOR"),
        ({"datatype": "FP32"}, "INVALID_TENSOR"),
        ({"data": [256] * 3 * SIZE * SIZE}, "INVALID_TENSOR"),
        ({"data": [10**400] * 3 * SIZE * SIZE}, "INVALID_TENSOR"),
        ({"shape": [1, 10**1500, 10**1500, 3]}, "MALFORMED_MESSAGE"),
        ({"shape": [1, 2**62, 2**62, 3]}, "INVALID_TENSOR"),
        ({"data": [0.5] * 3 * SIZE * SIZE}, "MALFORMED_MESSAGE"),
        ({"data": [True] * 3 * SIZE * SIZE}, "MALFORMED_MESSAGE"),
        ({"data": None}, "MALFORMED_MESSAGE"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_pixels_that_do_not_fit_are_refused(port: int, changed: dict[str, object], reason: str) -> None:
    answer = post(port, V2_PIXELS, {"inputs": [{**pixels(), **changed}]})
    assert (answer.status, answer.reason) == (400, reason)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "multipart/form-data"),
        (b"", "multipart/form-data; boundary=" + "x" * 71),
        (b"nothing", "multipart/form-data; boundary=xyz"),
        (form(("image", picture(), "a"))[0][:-8], "multipart/form-data; boundary=xyz"),
        (b"--xyz\r\n\r\n\r\n--xyz--", "multipart/form-data; boundary=xyz"),
        (b"--xyz\r\nContent-Disposition: form-data\r\n\r\n\r\n--xyz--", "multipart/form-data; boundary=xyz"),
        (form(("note", bytes(2000), ""))[0], "multipart/form-data; boundary=xyz"),
        (form(("other", b"1", ""))[0], "multipart/form-data; boundary=xyz"),
        (b"--xyz\r\n" * 2000 + b"--xyz--", "multipart/form-data; boundary=xyz"),
    ],
    ids=["none", "long boundary", "no parts", "cut", "no headers", "no name", "long field", "unknown", "many parts"],
)
def test_a_form_that_is_none_is_refused(port: int, body: bytes, kind: str) -> None:
    answer = ask(port, "/classify", body, {"Content-Type": kind})
    assert (answer.status, answer.reason) == BAD


@pytest.mark.parametrize("encoding", ["gzip", "deflate, gzip", "br"])
def test_a_compressed_body_is_refused_before_it_is_read(port: int, encoding: str) -> None:
    answer = ask(port, "/classify", b"x", {"Content-Encoding": encoding})
    assert (answer.status, answer.reason) == (415, "MALFORMED_MESSAGE")


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "soon", "1e9"])
def test_a_deadline_that_is_none_is_refused(port: int, seconds: str) -> None:
    answer = ask(port, "/classify", picture(), {"glimpse-timeout": seconds})
    assert (answer.status, answer.reason, answer.json["field"]) == (400, "MALFORMED_MESSAGE", "glimpse-timeout")


def test_parameters_of_others_are_passed_over_whatever_they_are(port: int) -> None:
    assert post(port, V2, inference(picture(), parameters={"theirs": 10**400, "more": "\ud800"})).status == 200


def test_too_many_images_are_refused_before_any_is_looked_at(port: int) -> None:
    answer = post(port, V1, {"instances": [{"b64": base64_of(b"none")}] * 65})
    assert (answer.status, answer.reason) == (400, "TOO_MANY_IMAGES")


def test_a_bad_image_among_good_ones_fails_a_request_by_its_place(port: int) -> None:
    answer = post(port, V1, instances(picture(), b"none"))
    assert (answer.status, answer.reason, answer.json["field"]) == (400, "NOT_AN_IMAGE", "instances[1]")
    answer = post(port, V2, inference(picture(), b"none"))
    assert (answer.status, answer.reason, answer.json["field"]) == (400, "NOT_AN_IMAGE", "inputs[0].data[1]")


def test_a_path_and_a_verb_that_do_not_exist_are_told(port: int) -> None:
    assert ask(port, "/nothing").status == 404
    assert "/classify" in ask(port, "/nothing").json["error"]
    wrong = ask(port, "/classify")
    assert (wrong.status, wrong.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("path", "body", "headers", "told"),
    [
        (V1, b"", {}, "it is empty"),
        (V1, b'{"instances": [}', {}, "at character 15"),
        (V1, b"\xff\xff{}", {}, "UTF-8"),
        (V2, b'{"inputs": []}rest', {}, "at character 14, extra data"),
        (V2, b'{"inputs": 1}', {}, "array of objects. Received: a number."),
        (V2, b'{"inputs": [1]}', {}, "Received: others among them."),
        (
            V1,
            b'{"instances": [{"b64": "data:image/png;base64,iVBO"}]}',
            {},
            "without 'data:image/png;base64,' in front",
        ),
        (
            "/classify",
            b"x",
            {"glimpse-timeout": "10S"},
            "a number of seconds, above 0 and up to 86400. Received: '10S'",
        ),
    ],
    ids=["empty", "cut", "no text", "more behind it", "a number", "numbers", "a data URI", "a deadline of gRPC"],
)
def test_a_refusal_tells_what_was_received(
    port: int, path: str, body: bytes, headers: dict[str, str], told: str
) -> None:
    answer = ask(port, path, body, headers)
    assert (answer.status, answer.reason) == BAD
    assert told in answer.json["error"]


def test_null_is_what_may_be_left_out_and_was(port: int) -> None:
    for path, content in (
        (V1, instances(picture(), parameters=None)),
        (V1, instances(picture(), parameters={"top_k": None})),
        (V2, inference(picture(), id=None, outputs=None, parameters=None)),
        (V2, inference(picture(), outputs=[{"name": "probabilities", "parameters": None}])),
    ):
        assert post(port, path, content).status == 200
    assert post(port, V1, {"instances": None}).status == 400


def test_a_parameter_of_a_description_that_is_misspelt_is_refused(port: int) -> None:
    answer = ask(port, "/describe?modle=cifar10")
    assert (answer.status, answer.reason, answer.json["field"]) == (*BAD, "modle")
    assert ask(port, f"/describe?model={MODEL}").status == 200


def test_what_a_caller_sends_is_never_sent_back_as_html(port: int) -> None:
    answer = ask(port, "/%3Cscript%3E")
    assert answer.headers["content-type"] == "application/json"
