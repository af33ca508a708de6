"""Broken files of every allowed format: each is decoded or refused with a reason, and harms nobody else."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glimpse.models.decoding.limits import ImageLimits
from glimpse.models.prestem.recipe import Recipe
from glimpse.server.decoding.prepare import prepare
from glimpse.server.domain import EncodedImage
from glimpse.server.errors import InvalidImageError, Reason
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.conftest import ROOT, RunningServer
from tests.server.conftest import TIMEOUT
from tests.server.hostile import tell
from tests.server.hostile.__main__ import outcome
from tests.server.hostile.batches import decode_all
from tests.server.hostile.memory import MIB, needs_proc, resident
from tests.server.hostile.mutants import LIMITS, RECIPES, Mutant, mutant, numbered
from tests.server.hostile.seeds import seeds
from tests.variations import mostly_in_ci

IMAGE_REASONS = {
    Reason.EMPTY_IMAGE,
    Reason.IMAGE_BYTES_EXCEEDED,
    Reason.IMAGE_PIXELS_EXCEEDED,
    Reason.NOT_AN_IMAGE,
    Reason.UNSUPPORTED_FORMAT,
    Reason.TRUNCATED_IMAGE,
    Reason.CORRUPT_IMAGE,
    Reason.DECODER_FAILED,
}
# The most that any of 200,000 took was 203 MiB, for the 25 million pixels that a few bytes promised.
MOST_MEMORY = 300 * MIB
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "WEBP": ".webp", "BMP": ".bmp"}
Scrape = Callable[[], dict[str, float]]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: f"{recipe.geometry} {recipe.filter}")
@pytest.mark.parametrize("limits", LIMITS, ids=["reduced", "whole"])
def test_every_file_is_a_picture_before_it_is_broken(recipe: Recipe, limits: ImageLimits) -> None:
    found = {name: outcome(Mutant(name, data, recipe, limits)) for name, data in seeds().items()}
    refused = {name: reason for name, reason in found.items() if reason != "decoded"}
    # Run-length coded bitmaps are refused on purpose; broken ones may look like any other.
    assert refused == dict.fromkeys((name for name in found if name.startswith("BMP runs")), "UNSUPPORTED_FORMAT")


# As the server does.
@pytest.mark.filterwarnings(r"ignore:::PIL\.")
@pytest.mark.parametrize("examples", mostly_in_ci([150, 500], 150))
def test_a_broken_file_is_decoded_or_refused_for_a_reason(examples: int) -> None:
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.randoms(use_true_random=False))
    def broken_somehow(rng: Random) -> None:
        broken = mutant(rng)
        result = outcome(broken)
        assert result == "decoded" or result in IMAGE_REASONS, broken

    broken_somehow()


@needs_proc
@pytest.mark.parametrize("number", [*mostly_in_ci([300, 1000], 300), pytest.param(3000, marks=pytest.mark.slow)])
def test_broken_files_are_decoded_or_refused_within_bounds(number: int) -> None:
    check(range(number))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@needs_proc
def test_100_000_broken_files_are_decoded_or_refused_within_bounds() -> None:
    check(range(1_000_000, 1_100_000))


def check(numbers: range) -> None:
    found = decode_all(numbers)
    tell(found.report())
    assert found.defects == []
    assert found.outcomes.total() == len(numbers)
    results = {name.split()[1] for name in found.outcomes}
    assert results <= {"decoded", *IMAGE_REASONS}
    for form in SUFFIXES:
        of_it = Counter({name: n for name, n in found.outcomes.items() if name.startswith(form)})
        # Neither are they all refused at once, nor are they hardly broken.
        assert 0.1 < of_it[f"{form} decoded"] / of_it.total() < 0.9, of_it
    assert found.largest[0][0] < MOST_MEMORY, found.report()


@pytest.mark.filterwarnings(r"ignore:::PIL\.")
@pytest.mark.parametrize("every", [*mostly_in_ci([29, 7], 29), pytest.param(1, marks=pytest.mark.slow)])
def test_a_file_that_ends_anywhere_is_refused_or_shows_the_whole_picture(every: int) -> None:
    recipe, shown = Recipe(height=32, width=32, smaller="resize"), 0
    for name, data in seeds().items():
        if name.startswith("BMP runs"):
            continue
        whole = prepare(EncodedImage(data), recipe, LIMITS[1]).pixels
        for length in range(len(data) - 1, 0, -every):
            with contextlib.suppress(InvalidImageError):
                pixels = prepare(EncodedImage(data[:length]), recipe, LIMITS[1]).pixels
                assert np.array_equal(pixels, whole), f"{name}, {length} of {len(data)} bytes"
                shown += 1
    assert shown  # such as those without the end mark, or without the frames after the first


class Good:
    """Pictures whose answers are known."""

    def __init__(self, stub: ImageClassifierStub, picture: Callable[[int], pb.Image]) -> None:
        self.images = [picture(seed) for seed in range(4)]
        results = stub.Classify(pb.ClassifyRequest(images=self.images), timeout=TIMEOUT).results
        self.answers = [self.told(result) for result in results]

    @staticmethod
    def told(result: pb.ImageResult) -> tuple[str, float]:
        assert not result.HasField("error"), result.error
        return result.predictions[0].label, result.predictions[0].probability


def request(rng: Random, good: Good, numbers: Iterator[int]) -> tuple[pb.ClassifyRequest, list[int | None]]:
    """1 to 32 images, some of them good; for each the number of the good one, or None."""
    which = [rng.choice((0, 1, 2, 3, None, None, None, None)) for _ in range(rng.choice((1, 2, 8, 32)))]
    images = [pb.Image(encoded=numbered(next(numbers)).data) if n is None else good.images[n] for n in which]
    return pb.ClassifyRequest(images=images), which


def count(response: pb.ClassifyResponse, which: list[int | None], good: Good) -> Counter[str]:
    """The ends of the broken ones; the good ones must have their answers."""
    ends: Counter[str] = Counter()
    for result, number in zip(response.results, which, strict=True):
        if number is not None:
            label, probability = good.told(result)
            assert label == good.answers[number][0]
            assert probability == pytest.approx(good.answers[number][1], abs=1e-4)
        else:
            assert bool(result.predictions) != result.HasField("error")
            ends[result.error.reason or "classified"] += 1
    assert set(ends) <= {"classified", *IMAGE_REASONS}
    return ends


def defects(server: RunningServer, scrape: Scrape) -> list[str]:
    """What went wrong by the server's own fault, in its metrics and its log."""
    wrong = re.compile('grpc_code="(INTERNAL|UNKNOWN)"|glimpse_images_total{outcome="failed"}')
    counted = [f"{name} {value}" for name, value in scrape().items() if value and wrong.search(name)]
    return counted + [str(line) for line in server.log if line["level"] == "error"] + server.stray


def check_idle(server: RunningServer, scrape: Scrape) -> None:
    """It serves, and nothing is left in flight."""
    with grpc.insecure_channel(server.target) as channel:
        status = HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT).status
    assert status == health_pb2.HealthCheckResponse.SERVING
    now = scrape()
    assert (now["glimpse_images_in_flight"], now["glimpse_queue_depth"]) == (0, 0)


@needs_proc
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("images", [400, pytest.param(30_000, marks=pytest.mark.slow)])
def test_broken_files_do_not_harm_their_neighbours_or_the_server(
    stub: ImageClassifierStub,
    server: RunningServer,
    picture: Callable[[int], pb.Image],
    scrape: Scrape,
    images: int,
) -> None:
    before = defects(server, scrape)
    good, rng, numbers = Good(stub, picture), Random(images), iter(range(2_000_000, 3_000_000))
    ends: Counter[str] = Counter()

    def one_by_one(until: int) -> None:
        while ends.total() < until:
            call, which = request(rng, good, numbers)
            ends.update(count(stub.Classify(call, timeout=TIMEOUT), which, good))

    def streamed(until: int) -> None:
        sent: dict[str, list[int | None]] = {}
        pieces: list[pb.ClassifyStreamRequest] = []
        broken = ends.total()
        while broken < until:
            call, which = request(rng, good, numbers)
            name = str(len(pieces))
            sent[name] = which
            broken += which.count(None)
            pieces.append(pb.ClassifyStreamRequest(id=name, request=call))
        for answer in stub.ClassifyStream(iter(pieces), timeout=10 * TIMEOUT):
            assert answer.WhichOneof("outcome") == "response", answer.error
            ends.update(count(answer.response, sent.pop(answer.id), good))
        assert sent == {}

    one_by_one(images // 4)
    streamed(images // 2)
    warm = resident(server.process.pid)
    one_by_one(images * 3 // 4)
    streamed(images)
    grown = resident(server.process.pid) - warm
    tell(f"{dict(ends)} memory: {warm / MIB:.0f} MiB, then {grown / MIB:+.0f}")
    assert defects(server, scrape) == before
    check_idle(server, scrape)
    # What the allocator keeps of its pieces; were every file kept, it would grow with their number.
    assert grown < 150 * MIB


@pytest.mark.parametrize("files", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_the_command_line_reports_every_broken_file_of_a_folder(
    server: RunningServer, scrape: Scrape, tmp_path: Path, files: int
) -> None:
    before = defects(server, scrape)
    paths = []
    for number in range(4_000_000, 4_000_000 + files):
        broken = numbered(number)
        paths.append(tmp_path / f"{number}{SUFFIXES[broken.name.split()[0]]}")
        paths[-1].write_bytes(broken.data)
    run = subprocess.run(
        [sys.executable, ROOT / "client" / "cli.py", "classify", "--json", "--target", server.target, tmp_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=10 * TIMEOUT,
    )
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert [line["path"] for line in lines] == [str(path) for path in paths]
    ends = Counter("classified" if line["error"] is None else line["error"]["reason"] for line in lines)
    tell(f"{dict(ends)} {run.stderr[-300:]}")
    assert 0 < ends["classified"] < files
    assert set(ends) <= {"classified", *IMAGE_REASONS}
    assert run.returncode == 1  # some images failed, the others were answered
    assert defects(server, scrape) == before
    check_idle(server, scrape)
