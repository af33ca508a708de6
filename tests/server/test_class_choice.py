"""Which classes may answer: exactly the softmax over these, the rest told beside it, and groups in place of doubt."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import grpc
import numpy as np
import pytest
from PIL import Image
from skimage import data

from glimpse.client import Client, InvalidRequestError
from glimpse.models import bundle
from glimpse.models.groups import ClassGroup
from glimpse.models.labels import ClassLabel
from glimpse.models.outputs import PROBABILITIES
from glimpse.server import errors
from glimpse.server.answers.class_choice import Classes, Group
from glimpse.server.answers.postprocessing import postprocess, rolled_up
from glimpse.server.domain import ClassChoice
from tests.conftest import RunningServer
from tests.server.http.asking import V1
from tests.server.open_inference.caller import OpenInferenceCaller, numbers, photos
from tests.variations import with_two_workers_too

ANIMALS = ["bird", "cat", "deer", "dog", "frog", "horse"]


def softmax(scores: np.ndarray) -> np.ndarray:
    raised = np.exp(scores.astype(np.float64) - scores.max())
    return np.asarray(raised / raised.sum())


@with_two_workers_too
def test_allowed_classes_get_exactly_the_softmax_over_them(
    start_server: Callable[..., RunningServer], cat_photo: Path
) -> None:
    """At the model's temperature; and what all others have together is told."""
    server = start_server()
    server.wait_for("serving")
    with Client(server.target) as client:
        description = client.describe()
        index = {each.label: each.index for each in description.classes}
        allowed = sorted(index[each] for each in ANIMALS)
        every = client.classify(cat_photo, top_k=10, outputs=["logits"])
        found = client.classify(cat_photo, top_k=10, allow=ANIMALS, outputs=["logits"])
        assert every.logits is not None
        assert found.logits is not None
        expected = softmax(np.asarray(found.logits)[allowed] / description.temperature)
        probabilities = {each.index: each.probability for each in found.predictions}
        np.testing.assert_allclose([probabilities[each] for each in allowed], expected, rtol=1e-6)
        assert set(probabilities) == set(allowed)
        outside = sum(each.probability for each in every.predictions if each.index not in allowed)
        assert found.probability_outside == pytest.approx(outside, abs=1e-3)
        assert [each.label for each in found.predictions] == sorted(
            ANIMALS, key=lambda label: probabilities[index[label]], reverse=True
        )
        without_cat = client.classify(cat_photo, deny=["cat"])
        assert "cat" not in {each.label for each in without_cat.predictions}
        assert without_cat.probability_outside == pytest.approx(every.predictions[0].probability, abs=1e-3)
        assert without_cat.logits is None


@with_two_workers_too
def test_a_server_may_choose_for_requests_that_do_not(
    start_server: Callable[..., RunningServer], cat_photo: Path
) -> None:
    """Over every protocol; a request's own choice comes first."""
    server = start_server("--allow-classes=cat, dog, horse", "--deny-classes=horse")
    server.wait_for("serving")
    with Client(server.target) as client:
        assert {each.label for each in client.classify(cat_photo).predictions} == {"cat", "dog"}
        assert [each.label for each in client.classify(cat_photo, allow=["frog"]).predictions] == ["frog"]
    with grpc.insecure_channel(server.target) as channel:
        (probabilities,) = numbers(OpenInferenceCaller(channel).infer(photos(cat_photo.read_bytes())))
    assert np.flatnonzero(probabilities).tolist() == [3, 5]
    assert probabilities.sum() == pytest.approx(1, abs=1e-6)


@with_two_workers_too
def test_a_model_of_several_may_have_classes_of_its_own(
    start_server: Callable[..., RunningServer], tmp_path: Path, cat_photo: Path
) -> None:
    listing = tmp_path / "models.toml"
    listing.write_text('[a]\nweights = "cifar10"\n[b]\nweights = "cifar10"\nallow_classes = ["ship", "frog"]\n')
    server = start_server("--allow-classes=cat,dog", environment={"GLIMPSE_MODELS": str(listing)}, model={})
    server.wait_for("serving")
    with Client(server.target) as client:
        for model, classes in (("a", {"cat", "dog"}), ("b", {"ship", "frog"})):
            found = client.classify(cat_photo, model=model).raise_for_error()
            assert {each.label for each in found.predictions} == classes
        assert [each.label for each in client.classify(cat_photo, model="b", allow=["bird"]).predictions] == ["bird"]


def test_a_server_whose_model_lacks_its_classes_does_not_start(start_server: Callable[..., RunningServer]) -> None:
    server = start_server("--allow-classes=cat,hrse")
    assert server.exit_code() == 4
    assert any("Did you mean horse? Check GLIMPSE_ALLOW_CLASSES" in str(line) for line in server.log)


def test_an_unknown_class_is_refused_with_a_similar_one(server: RunningServer, cat_photo: Path) -> None:
    with (
        Client(server.target) as client,
        pytest.raises(InvalidRequestError, match=r"no class or group 'hrse'\. Did you mean horse") as refused,
    ):
        client.classify(cat_photo, allow=["hrse"])
    assert (refused.value.reason, refused.value.field) == ("UNKNOWN_CLASS", "options.classes.allow")


@pytest.mark.parametrize("roll_up", [-0.1, 1.5])
def test_a_roll_up_outside_of_0_to_1_is_refused(roll_up: float, server: RunningServer, cat_photo: Path) -> None:
    with Client(server.target) as client, pytest.raises(InvalidRequestError, match="roll_up must be from 0 to 1") as no:
        client.classify(cat_photo, roll_up=roll_up)
    assert (no.value.reason, no.value.field) == ("ROLL_UP_OUT_OF_RANGE", "options.roll_up")


def test_http_takes_the_same_choice(server: RunningServer, cat_photo: Path) -> None:
    with Client(server.target) as client:
        expected = client.classify(cat_photo, allow=["dog", "horse"], deny=["horse"])
    query = f"allow={quote('dog, horse')}&deny=horse"
    request = urllib.request.Request(f"http://{server.http}/classify?{query}", cat_photo.read_bytes())
    with urllib.request.urlopen(request) as response:  # noqa: S310 - our own server
        (told,) = json.load(response)["results"]
    assert [(each["label"], each["probability"]) for each in told["predictions"]] == [("dog", 1.0)]
    assert told["probability_outside"] == pytest.approx(expected.probability_outside, abs=1e-3)


def test_a_group_means_its_classes_and_answers_where_none_alone_is_sure(default_server: RunningServer) -> None:
    """A photo of a cat, with the default model: no breed is certain, and that it is a cat is."""
    with Client(default_server.target) as client:
        groups = {each.name: each.classes for each in client.describe().groups}
        assert len(groups["dog"]) == 118
        photo = Image.fromarray(data.chelsea())
        rolled = client.classify(photo, roll_up=0.9, top_k=3)
        cat, *breeds = rolled.predictions
        assert (cat.label, cat.is_group, cat.class_id) == ("cat", True, "")
        assert cat.probability > 0.9
        assert cat.index == breeds[0].index
        assert len(breeds) == 2
        assert not any(each.is_group for each in breeds)
        only = client.classify(photo, allow=["cat", "dog"], top_k=1000)
        assert {each.index for each in only.predictions} == {*groups["cat"], *groups["dog"]}
        assert sum(each.probability for each in only.predictions) == pytest.approx(1, abs=1e-5)
        assert client.classify(photo).predictions == client.classify(photo, roll_up=0.01).predictions


LABELS = [ClassLabel(name) for name in ("tabby", "tiger cat", "pug", "cab")]
GROUPS = [
    Group(each.name, np.array(each.classes)) for each in (ClassGroup("cat", (0, 1)), ClassGroup("animal", (0, 1, 2)))
]


@pytest.mark.parametrize(
    ("probabilities", "label"),
    [
        ([0.85, 0.05, 0.05, 0.05], None),  # a class is sure
        ([0.45, 0.40, 0.05, 0.10], "cat"),  # the smallest group that is
        ([0.30, 0.25, 0.30, 0.15], "animal"),
        ([0.30, 0.10, 0.20, 0.40], None),  # none is
    ],
)
def test_an_answer_is_rolled_up_no_farther_than_necessary(probabilities: list[float], label: str | None) -> None:
    found = rolled_up(np.array(probabilities, np.float32), GROUPS, 0.8)
    assert (found and found.label) == label
    predictions, _ = postprocess(
        {PROBABILITIES: np.array(probabilities, np.float32)}, LABELS, k=2, min_probability=0, groups=GROUPS, roll_up=0.8
    )
    assert len(predictions) == 2
    assert predictions[0].is_group == (label is not None)


def test_http_takes_no_more_names_than_grpc(server: RunningServer, cat_photo: Path) -> None:
    body = {"instances": [{"b64": b64encode(cat_photo.read_bytes()).decode()}], "parameters": {"allow": ["cat"] * 4097}}
    with pytest.raises(urllib.error.HTTPError) as no:
        urllib.request.urlopen(f"http://{server.http}{V1}", json.dumps(body).encode())
    told = json.load(no.value)
    assert (no.value.code, told["reason"]) == (400, "MALFORMED_MESSAGE")
    assert "at most 4,096 names. Received: 4,097" in told["error"]


def test_choices_that_are_remembered_are_small() -> None:
    """Of many names, or of long ones, callers could fill the memory."""
    classes = Classes(bundle.read(bundle.EMBEDDED_DEFAULT))
    many = ClassChoice(("cat", "dog") * 2000)
    assert classes.chosen(many).classes.tolist() == [3, 5]
    assert classes.chosen(many) is not classes.chosen(many)
    few = ClassChoice(("cat", "dog"))
    assert classes.chosen(few) is classes.chosen(few)
    with pytest.raises(errors.InvalidRequestError, match="There is no class or group 'cat"):
        classes.chosen(ClassChoice(("cat" + " " * 1000,)))
