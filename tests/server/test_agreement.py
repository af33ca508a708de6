"""A reduced precision against float32, on plain functions: what is compared, what earns its place, what is kept."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from numpy.typing import NDArray

from glimpse.server.machine import cores
from glimpse.server.processes.cleanup import Cleanup, StoppedError, within
from glimpse.server.runtime import agreement
from glimpse.server.runtime.agreement import Agreement, cached, measure, size

FACTS = agreement.facts(network="n", runtime="openvino", processor="p", precision="bfloat16", pictures="d", number=200)
FOUND = Agreement("bfloat16", 199, 200, 12)


def numbered() -> Iterator[NDArray[np.uint8]]:
    """Pictures of one pixel that tell their number."""
    number = 0
    while True:
        yield np.array([[[number % 256, number // 256, 0]]], np.uint8)
        number += 1


class Computes:
    """Probabilities of two classes for `numbered` pictures; in the reduced precision some are the other way round."""

    def __init__(self, *, differs: Callable[[int], bool], clear: Callable[[int], bool] = lambda _: True) -> None:
        self.asked: list[tuple[str, int]] = []
        self._differs, self._clear = differs, clear

    def __call__(self, precision: str, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.asked.append((precision, len(pixels)))
        rows = []
        for picture in pixels.astype(int):
            number = int(picture[0, 0, 0] + 256 * picture[0, 0, 1])
            row = [0.6, 0.4] if self._clear(number) else [0.51, 0.49]
            rows.append(row[::-1] if precision != "float32" and self._differs(number) else row)
        return np.array(rows, np.float32)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(("lost", "earned"), [(0, True), (2, True), (3, False), (200, False)])
def test_ninety_nine_in_a_hundred_must_keep_their_first_class(lost: int, *, earned: bool) -> None:
    answer = Computes(differs=lambda number: number < lost)
    found = measure(answer, numbered(), precision="bfloat16", number=200)
    assert found == Agreement("bfloat16", 200 - lost, 200, 0)
    assert found.share == (200 - lost) / 200
    assert found.sufficient == earned
    assert answer.asked == [("float32", 200), ("bfloat16", 200)], "never both at a time"


def test_of_100_pictures_one_may_differ_and_fewer_than_100_say_too_little() -> None:
    assert Agreement("bfloat16", 99, 100, 0).sufficient
    assert not Agreement("bfloat16", 98, 100, 0).sufficient
    assert not Agreement("bfloat16", 99, 99, 300).sufficient


def test_pictures_without_a_clear_answer_in_float32_are_replaced_by_others() -> None:
    """Pictures to which float32 has no clear answer are left out, and others looked at in their place."""

    def every_third(number: int) -> bool:
        return number % 3 == 0

    answer = Computes(differs=every_third, clear=lambda number: not every_third(number))
    found = measure(answer, numbered(), precision="bfloat16", number=120)
    assert found == Agreement("bfloat16", 120, 120, 80)
    assert answer.asked == [("float32", 120), ("float32", 120), ("bfloat16", 120)]


def test_a_network_without_any_clear_answer_gets_float32_and_the_reason() -> None:
    answer = Computes(differs=lambda _: False, clear=lambda _: False)
    found = measure(answer, numbered(), precision="bfloat16", number=100)
    assert found == Agreement("bfloat16", 0, 0, 400)
    assert (found.sufficient, found.share) == (False, 0.0)
    assert {precision for precision, _ in answer.asked} == {"float32"}
    assert "float32 is decided about 0 of 400 pictures, and 100 are needed" in str(found)


def test_answers_that_are_no_numbers_are_not_the_same_and_not_clear() -> None:
    def answer(precision: str, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        found = np.full((len(pixels), 3), [0.8, 0.1, 0.1], np.float32)
        found[:10] = np.nan if precision == "float32" else [np.nan, 0, 0]
        return found

    found = measure(answer, numbered(), precision="bfloat16", number=100)
    assert (found.same, found.pictures, found.unclear) == (90, 100, 20)


def test_a_single_class_is_always_clear() -> None:
    found = measure(lambda _, pixels: np.ones((len(pixels), 1), np.float32), numbered(), precision="int8", number=100)
    assert found == Agreement("int8", 100, 100, 0)


@pytest.mark.parametrize(("multiply_adds", "pictures"), [(0, 200), (41e6, 200), (8e8, 125), (4e9, 100), (15e9, 100)])
def test_the_smaller_the_network_the_more_pictures(multiply_adds: float, pictures: int) -> None:
    assert size(int(multiply_adds)) == pictures


def test_what_was_found_is_known_at_the_next_start(cache: Path) -> None:
    assert cached(FACTS) is None
    assert agreement.store(FACTS, FOUND)
    assert cached(FACTS) == FOUND
    (path,) = (cache / "agreement").iterdir()
    assert path.stat().st_mode & 0o044 == 0o044, "servers of other users read it"


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("fact", [*FACTS])
def test_a_comparison_of_something_else_is_not_taken_for_it(fact: str) -> None:
    agreement.store(FACTS, FOUND)
    assert cached({**FACTS, fact: "another"}) is None


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"null",
        lambda kept: {"follows_from": kept["follows_from"]},
        lambda kept: {**kept, "follows_from": {**kept["follows_from"], "processor": "another"}},
        lambda kept: {**kept, "agreement": {**kept["agreement"], "precision": "int8"}},
        lambda kept: {**kept, "agreement": {**kept["agreement"], "same": 201}},
        lambda kept: {**kept, "agreement": {**kept["agreement"], "same": "200"}},
        lambda kept: {**kept, "agreement": {**kept["agreement"], "pictures": True}},
        lambda kept: {**kept, "agreement": {**kept["agreement"], "unclear": -1}},
        lambda kept: {**kept, "agreement": {**kept["agreement"], "more": 1}},
    ],
)
def test_what_is_damaged_or_belongs_to_another_is_told_and_not_used(cache: Path, damage: Any) -> None:
    agreement.store(FACTS, FOUND)
    (path,) = (cache / "agreement").iterdir()
    kept = json.loads(path.read_text())
    path.write_bytes(damage if isinstance(damage, bytes) else json.dumps(damage(kept)).encode())
    with structlog.testing.capture_logs() as logs:
        assert cached(FACTS) is None
    assert [line["event"] for line in logs] == ["kept agreement cannot be used"]
    assert agreement.store(FACTS, FOUND)
    assert cached(FACTS) == FOUND


def test_where_nothing_can_be_kept_it_says_so_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path / "file" / "cache"))
    with structlog.testing.capture_logs() as logs:
        assert not agreement.store(FACTS, FOUND)
    assert [line["event"] for line in logs] == ["agreement not kept"]
    assert "GLIMPSE_CACHE" in logs[0]["detail"]


def test_a_start_told_to_end_leaves_nothing_half_made_and_keeps_what_is_whole(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Cleanup()
    with within(told):
        assert agreement.store(FACTS, FOUND)
        told.end()
        assert cached(FACTS) == FOUND
        with pytest.raises(StoppedError):
            agreement.store({**FACTS, "network": "other"}, FOUND)
    assert len(list(cache.rglob("*.json"))) == 1

    monkeypatch.setenv("GLIMPSE_CACHE", str(cache / "another"))
    meanwhile = Cleanup()
    chmod = Path.chmod

    def told_now(path: Path, mode: int) -> None:
        chmod(path, mode)
        meanwhile.end()

    monkeypatch.setattr(Path, "chmod", told_now)
    with within(meanwhile), pytest.raises(StoppedError):
        agreement.store(FACTS, FOUND)
    assert not (cache / "another").exists()


def test_what_no_start_has_used_for_a_month_goes(cache: Path) -> None:
    agreement.store(FACTS, FOUND)
    other = {**FACTS, "network": "other"}
    agreement.store(other, FOUND)
    month = time.time() - 31 * 24 * 3600
    for path in (cache / "agreement").iterdir():
        os.utime(path, (month, month))
    assert cached(FACTS) == FOUND  # used today
    agreement.store({**FACTS, "network": "third"}, FOUND)
    assert cached(other) is None
    assert cached(FACTS) == FOUND
    assert len(list((cache / "agreement").iterdir())) == 2


INTEL = """\
processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Platinum 8480C
cpu MHz\t\t: {mhz}
flags\t\t: fpu sse2 avx2 fma avx512_bf16 {flags}

processor\t: 1
"""


def test_a_processor_is_told_by_its_model_and_its_vector_instructions_alone(tmp_path: Path) -> None:
    said = []
    for number, (mhz, flags) in enumerate([("2000", "amx_bf16"), ("3100", "amx_bf16 hypervisor"), ("2000", "")]):
        path = tmp_path / str(number)
        path.write_text(INTEL.format(mhz=mhz, flags=flags))
        said.append(cores.processor(path))
    assert said[0] == said[1] != said[2]
    assert "143 Intel(R) Xeon(R) Platinum 8480C amx_bf16 avx2 avx512_bf16 fma sse2" in said[0]
    assert cores.processor(tmp_path / "missing")
