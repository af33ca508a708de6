"""Small files that ask for gigabytes or for ever: each is refused in a sentence, and costs what its size explains.

The files are read by a program with limits of its own (`tests.models.held`), so that a test which fails harms nobody.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glimpse.models.weights import WeightsError, isolated, limits, read
from tests.models import attacks
from tests.models.weight_makers import equal, storage, tensor, torch_zip

_ROOT = Path(__file__).parents[2]
_SECONDS = 400  # by the clock, for all of them: that they end, not how fast
# Bytes: what importing a package for a format may take, and the most that a file of a few megabytes is allowed.
_HERE, _APART = 400 << 20, 450 << 20
# What harms nobody any more is read: a name that is too long is passed over, factors of false shapes are no factors.
_READ = {"pickle: a long name in front of many", "onnx: factors spread over all pairs"}


def _outcomes(how: str) -> Mapping[str, Mapping[str, Any]]:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.models.held", how],
        cwd=_ROOT,
        capture_output=True,
        timeout=_SECONDS,
        check=False,
    )
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert ended.returncode == 0, (lines[-1:], ended.stderr[-2000:])
    return {line["name"]: line for line in lines}


def _assert_harmless(outcomes: Mapping[str, Mapping[str, Any]], most: int) -> None:
    faults = []
    for name, found in outcomes.items():
        refused = found["said"] and len(found["said"]) < 1000 and "\n" not in found["said"]
        if found["raised"] or not (refused or name in _READ) or found["peak"] > most:
            faults.append(found)
    assert not faults


def test_no_file_of_weights_costs_more_than_its_size_explains() -> None:
    pytest.importorskip("onnx", reason="ONNX files are read with the package onnx")
    outcomes = _outcomes("here")
    assert outcomes.keys() == attacks.ALL.keys()
    _assert_harmless(outcomes, _HERE)


@pytest.mark.slow
def test_nor_does_the_process_that_reads_a_file_of_weights() -> None:
    pytest.importorskip("onnx", reason="ONNX files are read with the package onnx")
    outcomes = _outcomes("apart")
    assert outcomes.keys() == attacks.ALL.keys()
    _assert_harmless(outcomes, _APART)


@pytest.mark.slow
def test_no_whole_model_costs_more_than_its_file_explains() -> None:
    from tests.models.keras_attacks import MODELS

    outcomes = _outcomes("own")
    assert outcomes.keys() == MODELS.keys()
    _assert_harmless(outcomes, _HERE)


# --- the process that reads


@pytest.mark.parametrize("name", ["a tuple of tuples as the protocol", "a tuple of tuples as a storage's name"])
def test_tuples_of_tuples_are_neither_shown_nor_hashed(name: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"an unknown form of the file, tuple|a list of storages that is not that"):
        read(attacks.PICKLES[name](tmp_path))


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is Linux's")
def test_a_file_that_takes_more_memory_than_its_size_explains_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is told that the file is empty, so that what it explains is the least that there is."""
    count = 200 << 20  # bfloat16, which becomes float32
    path = torch_zip(
        tmp_path / "w.pth",
        {"w": tensor(storage(count=count, kind="BFloat16Storage"), size=(count,), stride=(1,))},
        {"0": bytes(2 * count)},
    )
    run = isolated._run

    def smaller(arguments: list[str], file: Any, outputs: Any, size: int) -> None:
        run([arguments[0], "0", *arguments[2:]], file, outputs, size)

    monkeypatch.setattr(isolated, "_run", smaller)
    with pytest.raises(WeightsError, match=r"could not be read within \d+ MiB of memory"):
        read(path)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import os; os.abort()", "reading it ended with SIGABRT"),
        ("import sys; sys.exit(9)", "reading it ended with exit code 9"),
        ("pass", "the process that reads it returned nothing"),
        ("import sys; sys.stdout.write('x' * 100)", "a malformed response"),
        ("import sys; sys.stdout.buffer.write(b'{}' + bytes([2]) + bytes(7))", "a malformed response"),
        ("import sys; sys.stdout.buffer.write(bytes(40 << 20))", "returned more than was allowed"),
        ("import time; time.sleep(60)", r"could not be read within \d+ seconds"),
    ],
    ids=["abort", "exit", "nothing", "no length", "no answer", "endless", "silent"],
)
def test_a_reader_that_fails_is_told_in_a_sentence(
    program: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text(program)
    monkeypatch.setattr(isolated, "_MODULE", "broken")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(limits, "PATIENCE", 1)
    monkeypatch.setattr(limits, "SECONDS", 2)
    with pytest.raises(WeightsError, match=message):
        read(torch_zip(tmp_path / "w.pth", {"w": tensor()}))


@pytest.mark.parametrize(
    "array",
    [
        ["file", 0, "<f4", [1 << 40], [4]],
        ["file", -4, "<f4", [1], [4]],
        ["file", 0, "<f4", [2], [1 << 40]],
        ["file", 0, "<f4", [2], [-4]],
        ["here", 0, "<f4", [1 << 20], [4]],
        ["file", 0, "|O", [1], [8]],
        ["/etc/passwd", 0, "u1", [1], [1]],
    ],
)
def test_an_answer_that_leads_out_of_the_file_is_refused(
    array: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = json.dumps({"sets": [{"place": "", "tensors": [["w", 0]]}], "graph": None, "arrays": [array]})
    program = f"import sys; t = {text!r}.encode(); sys.stdout.buffer.write(t + len(t).to_bytes(8, 'little'))"
    (tmp_path / "broken.py").write_text(program)
    monkeypatch.setattr(isolated, "_MODULE", "broken")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(WeightsError, match="a malformed response"):
        read(torch_zip(tmp_path / "w.pth", {"w": tensor()}))


def test_tensors_that_share_their_numbers_are_read(tmp_path: Path) -> None:
    whole = np.arange(6, dtype=np.float32)
    made = {
        "a": tensor(),
        "b": tensor(),
        "c": tensor(size=(3, 2), stride=(1, 3)),
        "d": tensor(offset=5, size=(1,), stride=(1,)),
    }
    found = read(torch_zip(tmp_path / "w.pth", made))
    equal(found, {"a": whole.reshape(2, 3), "b": whole.reshape(2, 3), "c": whole.reshape(2, 3).T, "d": whole[5:]})


@pytest.mark.parametrize("count", [100, 3000, 1 << 20])
def test_numbers_at_the_beginning_of_a_file_and_far_behind_it_are_read(count: int, tmp_path: Path) -> None:
    """The process that tells where they are reads through the same open file, and moves its position."""
    first, second = (np.random.default_rng(seed).normal(size=count).astype(np.float32) for seed in (1, 2))
    made = {
        "first": tensor(storage("0", count), size=(count,), stride=(1,)),
        "second": tensor(storage("1", count), size=(count,), stride=(1,)),
    }
    found = read(torch_zip(tmp_path / "w.pth", made, {"0": first.tobytes(), "1": second.tobytes()}))
    equal(found, {"first": first, "second": second})
