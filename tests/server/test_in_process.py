"""`glimpse.Classifier`: the server's answers without a server."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glimpse import Classifier, Client, ImageRefusedError, ImageResult, InvalidRequestError
from tests.conftest import RunningServer
from tests.variations import mostly_in_ci

SMALL = 32  # sides of the network's input


@pytest.fixture(scope="module")
def classifier() -> Iterator[Classifier]:
    with Classifier.load("cifar10", compute_streams=1024) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.target) as calling:
        yield calling


def bits(result: ImageResult) -> list[tuple[int, str, int]]:
    """What was answered, with the bits of each probability as a float32."""
    return [(each.index, each.label, int(np.float32(each.probability).view(np.uint32))) for each in result.predictions]


def pixels(seed: int, side: int = SMALL) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8)


def unthreaded(result: ImageResult) -> dict[str, Any]:
    """A result without its times, which differ at every turn."""
    return {each.name: getattr(result, each.name) for each in fields(result) if each.name != "timing"}


@pytest.mark.parametrize("geometry", mostly_in_ci(["", "letterbox"], ""))
def test_each_way_of_giving_an_image_gets_the_server_s_bits(
    classifier: Classifier, start_server: Any, client: Client, cat_photo: Path, geometry: str
) -> None:
    photo = Image.open(cat_photo)
    ways: list[Any] = [
        cat_photo,
        str(cat_photo),
        cat_photo.read_bytes(),
        photo,
        np.asarray(photo),
        np.asarray(photo.convert("L")),
    ]
    if geometry:
        running = start_server(f"--allow-geometries={geometry}")
        running.wait_for("serving")
        client = Client(running.target)
    for image in ways:
        wanted = client.classify(image, top_k=10, geometry=geometry)
        found = classifier.classify(image, top_k=10, geometry=geometry)
        assert bits(found) == bits(wanted)
        assert unthreaded(found) == unthreaded(wanted)
        assert found.timing is not None
        assert found.timing.batch_size == 1
        assert found.timing.total_seconds > 0


def test_it_describes_itself_as_the_server_does(classifier: Classifier, client: Client) -> None:
    found, wanted = classifier.describe(), client.describe()
    assert (found.model, found.classes, found.pre_stem, found.runtime) == (
        wanted.model,
        wanted.classes,
        wanted.pre_stem,
        wanted.runtime,
    )
    assert set(found.limits.geometries) == {"crop", "squash", "letterbox", "pad"}


def test_a_bad_image_has_the_server_s_error_alone_and_in_a_list(classifier: Classifier, client: Client) -> None:
    bad = [b"", b"no photo", b"\x89PNG\r\n\x1a\n" + bytes(20), b"II*\x00" + bytes(100), b"\xff\xd8\xff" + bytes(9)]
    for image in bad:
        with pytest.raises(ImageRefusedError) as wanted:
            client.classify(image)
        with pytest.raises(ImageRefusedError) as found:
            classifier.classify(image)
        assert (found.value.code, found.value.reason, found.value.message) == (
            wanted.value.code,
            wanted.value.reason,
            wanted.value.message,
        )
    good = pixels(1)
    results = classifier.classify([good, *bad, good])
    assert [result.error is None for result in results] == [True, *[False] * len(bad), True]
    assert results[0].predictions


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 0},
        {"top_k": 11},
        {"min_probability": 1.5},
        {"roll_up": 2.0},
        {"allow": ["lion"]},
        {"outputs": ["maps"]},
    ],
)
def test_an_option_out_of_range_has_the_server_s_error(
    classifier: Classifier, client: Client, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequestError) as wanted:
        client.classify(pixels(1), **options)
    for ask in (
        lambda: classifier.classify(pixels(1), **options),
        lambda: classifier.classify([pixels(1)], **options),
        lambda: list(classifier.classify_all([pixels(1)], **options)),
    ):
        with pytest.raises(InvalidRequestError) as found:
            ask()
        assert (found.value.reason, found.value.field) == (wanted.value.reason, wanted.value.field)


def test_embeddings_logits_and_chosen_classes_are_the_server_s(
    classifier: Classifier, client: Client, cat_photo: Path
) -> None:
    asked: dict[str, Any] = {"outputs": ["embedding", "logits"], "allow": ["dog", "cat", "ship"], "deny": ["ship"]}
    found, wanted = classifier.classify(cat_photo, **asked), client.classify(cat_photo, **asked)
    assert unthreaded(found) == unthreaded(wanted)
    assert found.embedding is not None
    assert [each.label for each in found.predictions] == ["cat", "dog"]
    (listed,) = classifier.classify([cat_photo], **asked)
    assert listed.logits == found.logits


@pytest.mark.parametrize("asked", [{"novelty": True}, {"require_known": True}])
def test_what_shows_none_of_the_classes_is_unknown_as_to_the_server(
    classifier: Classifier, client: Client, asked: dict[str, Any]
) -> None:
    found, wanted = classifier.classify(pixels(1), **asked), client.classify(pixels(1), **asked)
    assert unthreaded(found) == unthreaded(wanted)
    assert found.novelty is not None


def test_an_option_that_there_is_not_is_told_with_those_that_there_are(classifier: Classifier) -> None:
    with pytest.raises(TypeError, match=r"no option 'topk'\. There are: top_k, "):
        classifier.classify(pixels(1), topk=3)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"allow must be a list of names, such as \['cat'\]"):
        classifier.classify_all([pixels(1)], allow="cat")


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        pytest.param({"allow": [3]}, r"allow must be a list of names, such as \['3'\]. Received: \[3\]", id="an index"),
        pytest.param({"top_k": "3"}, "top_k must be a whole number. Received: '3'", id="a text for a number"),
        pytest.param({"roll_up": None}, "roll_up must be a number. Received: None", id="nothing for a number"),
        pytest.param({"explain": True}, "explain must be a text. Received: True", id="yes for a text"),
    ],
)
def test_an_option_of_another_kind_is_told(classifier: Classifier, asked: dict[str, Any], complaint: str) -> None:
    with pytest.raises(TypeError, match=complaint):
        classifier.classify(pixels(1), **asked)


def test_an_unknown_geometry_is_refused_with_those_that_there_are(classifier: Classifier) -> None:
    with pytest.raises(InvalidRequestError, match="crop, letterbox, pad, squash") as caught:
        classifier.classify(pixels(1), geometry="zoom")
    assert caught.value.reason == "GEOMETRY_NOT_ALLOWED"


def test_what_is_no_image_is_an_error_of_the_caller_s_code(classifier: Classifier) -> None:
    with pytest.raises(TypeError, match="int"):
        classifier.classify(5)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="uint8"):
        classifier.classify([np.zeros((4, 4, 3), np.float32)])
    with pytest.raises(FileNotFoundError):
        classifier.classify("nowhere.jpg")


def test_files_that_cannot_be_read_are_results_among_others(
    classifier: Classifier, tmp_path: Path, cat_photo: Path
) -> None:
    results = classifier.classify([cat_photo, tmp_path, tmp_path / "nowhere.jpg", cat_photo])
    assert [None if each.error is None else each.error.reason for each in results] == [
        None,
        "NOT_A_FILE",
        "FILE_NOT_FOUND",
        None,
    ]


def test_many_images_keep_their_order_and_their_keys(classifier: Classifier) -> None:
    images = [pixels(seed, side) for seed, side in zip(range(60), itertools.cycle([SMALL, 300, 50]), strict=False)]
    wanted = [classifier.classify(image).predictions[0] for image in images]
    results = list(classifier.classify_many(enumerate(images)))
    assert [key for key, _ in results] == list(range(60))
    for (_, found), alone in zip(results, wanted, strict=True):
        # The last digits of a probability depend on the batch that the image rode in.
        assert found.predictions[0].index == alone.index
        assert found.predictions[0].probability == pytest.approx(alone.probability, abs=5e-3)
    assert max(result.timing.batch_size for _, result in results if result.timing) > 1


def test_no_more_images_are_taken_than_may_be_in_flight(classifier: Classifier) -> None:
    taken = 0

    def endless() -> Iterator[Any]:
        nonlocal taken
        for seed in itertools.count():
            taken += 1
            yield pixels(seed)

    results = classifier.classify_all(endless(), in_flight=5)
    assert taken == 0
    for number in range(1, 20):
        assert next(results).error is None
        assert taken <= number + 5
    results.close()  # type: ignore[attr-defined]  # it is a generator
    assert classifier.classify(pixels(1)).predictions  # what was in flight does no harm


def test_a_result_need_not_wait_for_images_that_are_long_in_coming(classifier: Classifier) -> None:
    got: list[ImageResult] = []

    def camera() -> Iterator[Any]:
        yield pixels(0)
        for seed in range(20):  # meanwhile the first image is computed
            classifier.classify(pixels(seed))
        yield pixels(1)
        assert len(got) == 1
        yield pixels(2)

    for result in classifier.classify_all(camera()):
        got.append(result)  # noqa: PERF402 - the camera looks at it meanwhile
    assert len(got) == 3


def test_what_the_iterable_raises_arrives(classifier: Classifier) -> None:
    def broken() -> Iterator[Any]:
        yield pixels(0)
        raise LookupError("the disk is gone")

    with pytest.raises(LookupError, match="the disk is gone"):
        list(classifier.classify_all(broken()))
    with pytest.raises(ValueError, match="in_flight must be at least 1"):
        list(classifier.classify_all([pixels(0)], in_flight=0))


def test_an_array_may_be_changed_as_soon_as_the_next_is_taken(classifier: Classifier) -> None:
    shared = np.zeros((SMALL, SMALL, 3), np.uint8)

    def frames() -> Iterator[Any]:
        for seed in range(20):
            shared[:] = pixels(seed)
            yield shared

    found = [result.predictions[0].index for result in classifier.classify_all(frames())]
    assert found == [classifier.classify(pixels(seed)).predictions[0].index for seed in range(20)]
