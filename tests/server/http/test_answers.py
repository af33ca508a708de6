"""What each path answers to a request that is as it should be."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any

import numpy as np

from glimpse.models.labels import ClassLabel
from glimpse.models.prestem.area import Area
from glimpse.server.domain import Explanation, ImageResult, Novelty, Prediction, Timing
from glimpse.server.errors import InvalidImageError, Reason
from glimpse.server.http import answers
from glimpse.v1 import classifier_pb2 as pb
from tests.server.http.asking import (
    MODEL,
    V1,
    V2,
    V2_PIXELS,
    ask,
    binary,
    form,
    inference,
    instances,
    picture,
    pixels,
    post,
)
from tests.server.rig import SIZE

LABELS = 10


def names(message: Any) -> set[str]:
    return {field.name for field in message.fields}


def test_a_photo_whose_parts_all_count_alike_has_a_map_of_zeros(port: int) -> None:
    """The network answers the same to whatever it is shown, so that covering a part of the photo changes nothing."""
    answer = ask(port, "/classify?explain=occlusion", picture())
    assert answer.status == 200
    (result,) = answer.json["results"]
    found = result["explanation"]
    assert found["lowest"] == found["highest"] == 0
    assert found["values"] == [[0] * 7] * 7


def test_a_photo_as_the_body_is_classified(port: int) -> None:
    answer = ask(port, "/classify?top_k=2", picture(), {"Content-Type": "application/x-www-form-urlencoded"})
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json["model"]["name"] == MODEL
    (result,) = answer.json["results"]
    assert [each["label"] for each in result["predictions"]] == ["airplane", "automobile"]


def test_the_json_of_an_answer_has_the_names_of_the_contract(port: int) -> None:
    content = ask(port, "/classify", picture()).json
    (result,) = content["results"]
    assert content.keys() == names(pb.ClassifyResponse.DESCRIPTOR) - {"request_id"}  # for those who take feedback
    assert content["model"].keys() == names(pb.ModelIdentity.DESCRIPTOR)
    assert result.keys() == {"predictions", "timing"}  # what was not asked for is not there
    assert result["predictions"][0].keys() == names(pb.Prediction.DESCRIPTOR) - {"is_group", "over_threshold"}
    assert result["timing"].keys() == names(pb.Timing.DESCRIPTOR)


def test_the_json_of_all_that_can_be_asked_for_has_the_names_of_the_contract() -> None:
    whole = ImageResult(
        Timing(),
        (Prediction(0, "cat", "n02123045", 0.9, is_group=True, over_threshold=True),),
        {name: np.ones(3, np.float32) for name in ("embedding", "logits")},
        InvalidImageError(Reason.NOT_AN_IMAGE, "No image."),
        Novelty(1.0, 2.0),
        outside=0.1,
        explanation=Explanation(0, ClassLabel("cat"), "cam", np.eye(2, dtype=np.uint8), -1.0, 1.0, Area(0, 0, 1, 1)),
    )
    told = answers.result(whole)
    assert told.keys() == names(pb.ImageResult.DESCRIPTOR) - {"embedding_float16"}  # for bytes, which JSON has not
    assert told["predictions"][0].keys() == names(pb.Prediction.DESCRIPTOR)
    assert told["novelty"].keys() == names(pb.Novelty.DESCRIPTOR)
    assert told["explanation"].keys() == names(pb.Explanation.DESCRIPTOR)
    assert told["explanation"]["area"].keys() == names(pb.PhotoArea.DESCRIPTOR)
    assert told["error"].keys() == names(pb.ImageError.DESCRIPTOR)


def test_many_embeddings_are_written_while_others_have_the_event_loop() -> None:
    """As a whole they would hold it for tenths of a second; what is written is the same."""
    rng = np.random.default_rng(0)
    results = [ImageResult(Timing(), (), {"embedding": rng.random(1280, np.float32)}) for _ in range(64)]
    texts = [f"0.5:{index}:cat" for index in range(50_000)]
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def written() -> list[bytes]:
        task = asyncio.ensure_future(others())
        found = [(await answers.with_results({"model": 1}, "results", some)).body for some in (results, results[:2])]
        found.append(await answers.array(np.arange(100_000, dtype=np.float32)))
        found.append(await answers.array(texts))
        task.cancel()
        return [bytes(each) for each in found]

    many, few, numbers, strings = asyncio.run(written())
    assert turns >= 64 + 100_000 // answers.AT_ONCE + 50_000 // answers.AT_ONCE - 1
    assert json.loads(strings) == texts
    assert many == answers.json_bytes({"model": 1, "results": [answers.result(each) for each in results]})
    assert few == answers.json_bytes({"model": 1, "results": [answers.result(each) for each in results[:2]]})
    assert json.loads(numbers) == list(range(100_000))
    assert asyncio.run(answers.array(np.zeros(0, np.float32))) == b"[]"


def test_all_classes_of_many_photos_are_written_in_turns_with_others() -> None:
    predictions = tuple(Prediction(index, f"class {index}", "", 0.001) for index in range(1000))
    results = [ImageResult(Timing(), predictions) for _ in range(64)]
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def written() -> bytes:
        task = asyncio.ensure_future(others())
        found = await answers.with_results({}, "results", results)
        task.cancel()
        return bytes(found.body)

    assert len(json.loads(asyncio.run(written()))["results"][63]["predictions"]) == 1000
    assert turns >= 63


def test_the_stages_of_an_answer_follow_one_another(port: int) -> None:
    timing = ask(port, "/classify", picture()).json["results"][0]["timing"]
    assert timing["batch_size"] == 1
    assert all(value > 0 for name, value in timing.items() if name != "decode_wait_seconds")


def test_several_photos_of_a_form_are_answered_each_by_itself(port: int) -> None:
    body, headers = form(("image", picture(), "a.png"), ("image", b"none", "b.png"), ("top_k", b"3", ""))
    good, bad = ask(port, "/classify", body, headers).json["results"]
    assert len(good["predictions"]) == 3
    assert (bad["predictions"], bad["error"]["reason"], bad["error"]["code"]) == ([], "NOT_AN_IMAGE", 3)


def test_a_lone_photo_that_is_none_fails_its_request(port: int) -> None:
    answer = ask(port, "/classify", b"none")
    assert (answer.status, answer.reason, answer.json["code"]) == (400, "NOT_AN_IMAGE", "INVALID_ARGUMENT")


def test_version_1_classifies_instances_in_their_order(port: int) -> None:
    answer = post(port, V1, instances(picture(1), picture(2), parameters={"top_k": 1}))
    assert [len(each["predictions"]) for each in answer.json["predictions"]] == [1, 1]


def test_version_1_takes_the_name_of_an_input_around_an_image(port: int) -> None:
    content = instances(picture())
    content = {"instances": [{"image_bytes": each} for each in content["instances"]]}  # type: ignore[attr-defined]
    assert post(port, V1, content).status == 200
    assert post(port, V1.replace(":predict", "/versions/1:predict"), content).status == 200


def test_version_1_tells_of_models_as_both_protocols_have_it(port: int) -> None:
    assert ask(port, "/v1/models").json == {"models": [MODEL]}
    told = ask(port, f"/v1/models/{MODEL}").json
    assert (told["name"], told["ready"]) == (MODEL, True)
    assert told["model_version_status"][0]["state"] == "AVAILABLE"


def test_version_2_tells_what_it_is_and_takes(port: int) -> None:
    assert ask(port, "/v2").json["extensions"] == [
        "binary_tensor_data",
        "classification",
        "model_configuration",
        "parameters",
        "schedule_policy",
        "statistics",
    ]
    assert ask(port, "/v2/health/live").json == {"live": True}
    assert ask(port, "/v2/health/ready").json == {"ready": True}
    assert ask(port, f"/v2/models/{MODEL}/ready").json == {"name": MODEL, "ready": True}
    told = ask(port, f"/v2/models/{MODEL}/versions/1").json
    assert told["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1, 1]}]
    assert told["outputs"] == [{"name": "probabilities", "datatype": "FP32", "shape": [-1, LABELS]}]
    told = ask(port, f"/v2/models/{MODEL}.pixels").json
    assert told["inputs"] == [{"name": "pixels", "datatype": "UINT8", "shape": [-1, SIZE, SIZE, 3]}]


def test_version_2_answers_the_probabilities_of_all_classes(port: int) -> None:
    answer = post(port, V2, inference(picture(1), picture(2), id="mine")).json
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("mine", MODEL, "1")
    (output,) = answer["outputs"]
    assert (output["datatype"], output["shape"]) == ("FP32", [2, LABELS])
    assert output["data"] == [float(np.float32(0.1))] * 2 * LABELS


def test_version_2_takes_and_answers_binary_tensors(port: int) -> None:
    body, headers = binary(picture(1), picture(2), parameters={"binary_data_output": True})
    answer = ask(port, V2, body, headers)
    length = int(answer.headers["inference-header-content-length"])
    assert answer.headers["content-type"] == "application/octet-stream"
    values = np.frombuffer(answer.body[length:], "<f4")
    assert values.tolist() == [float(np.float32(0.1))] * 2 * LABELS


def test_the_classification_extension_gives_value_index_and_label(port: int) -> None:
    asked = {"name": "probabilities", "parameters": {"classification": 2}}
    (output,) = post(port, V2, inference(picture(), outputs=[asked])).json["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [1, 2])
    assert output["data"] == ["0.100000:0:airplane", "0.100000:1:automobile"]


def test_more_classes_than_there_are_are_cut_not_refused(port: int) -> None:
    asked = {"name": "probabilities", "parameters": {"classification": 999, "binary_data": True}}
    answer = ask(port, V2, *binary(picture(), outputs=[asked]))
    raw = answer.body[int(answer.headers["inference-header-content-length"]) :]
    (length,) = struct.unpack_from("<I", raw)
    assert raw[4 : 4 + length] == b"0.100000:0:airplane"
    assert raw.count(b"0.100000:") == LABELS


def test_pixels_are_taken_as_they_are(port: int) -> None:
    answer = post(port, V2_PIXELS, {"inputs": [pixels()]})
    assert answer.json["outputs"][0]["shape"] == [1, LABELS]
    assert answer.json["model_name"] == f"{MODEL}.pixels"


def test_a_model_is_described_as_the_contract_does(port: int) -> None:
    told = ask(port, f"/describe?model={MODEL}").json
    assert told["model"]["name"] == MODEL
    assert told["classes"][3]["label"] == "cat"
    assert told["input"] == {"height": SIZE, "width": SIZE, "channels": 3}
    assert isinstance(told["limits"]["max_image_bytes"], int)
    assert names(pb.DescribeModelResponse.DESCRIPTOR) == told.keys()


def test_the_document_of_the_api_names_each_path_that_answers(port: int) -> None:
    document = ask(port, "/openapi.json").json
    known = ask(port, "/nothing").json["error"].partition("Known: ")[2].rstrip(".").split(", ")
    pages = {path for path in known if path in {"/", "/docs", "/openapi.json"}}
    versions = {path.replace("{model}", "{model}/versions/{version}") for path in known if "{model}" in path}
    assert set(document["paths"]) == set(known) - pages | versions
    assert "security" not in document


def test_the_document_refers_to_schemas_that_it_has(port: int) -> None:
    document = ask(port, "/openapi.json")
    schemas = document.json["components"]["schemas"]
    found = {each.split('"')[0] for each in document.body.decode().split("#/components/schemas/")[1:]}
    assert found <= schemas.keys()
    assert "Problem" in found


def test_every_answer_has_the_id_of_its_request(port: int) -> None:
    assert ask(port, "/v2", headers={"x-request-id": "mine"}).headers["x-request-id"] == "mine"
    assert ask(port, "/classify", b"none", {"x-request-id": "ours"}).headers["x-request-id"] == "ours"
    assert len(ask(port, "/v2").headers["x-request-id"]) == 32


def test_head_is_get_without_the_body(port: int) -> None:
    answer = ask(port, "/v2/health/ready", verb="HEAD")
    assert (answer.status, answer.body) == (200, b"")


def test_every_reason_has_a_status(port: int) -> None:
    from glimpse.server.errors import Code, InvalidRequestError
    from glimpse.server.http.problems import status_of

    assert all(status_of(InvalidRequestError(each, "")) in {400, 408} for each in Reason)
    made = [type(each.name, (InvalidRequestError,), {"code": each})(Reason.INTERNAL, "") for each in Code]
    assert sorted(status_of(each) for each in made) == [400, 400, 401, 403, 404, 429, 500, 503, 504]
