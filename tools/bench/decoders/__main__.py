"""`python -m tools.bench.decoders`: other libraries that decode JPEG files, beside what the service does with Pillow.

From the bytes of a file to the network's input, by the recipes of the two models that come with Glimpse. Each library
has an environment and a process of its own, in which it takes turns with the service's own way: a ratio is of the CPU
time of the same process in the same moment. A library that is not there is told with the reason; the others go on.

Beside it stands how far the network's input differs, and, with `--answers`, the default model's answers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glimpse.models.comparison import names
from glimpse.models.prestem.recipe import Recipe
from tools.bench import decoding, machine
from tools.bench.decoders.libraries import LIBRARIES, Library
from tools.bench.decoders.ways import SERVICE
from tools.bench.peers import environment
from tools.bench.peers.environment import EnvironmentFailedError
from tools.bench.worker import Worker, WorkerError

_KINDS = decoding.KINDS[:3]  # JPEG files of 0.2, 2 and 12 million pixels
_MODELS = ("imagenet", "cifar10")
_BASE = "pillow"
_BUILDS_OF_PILLOW = frozenset((_BASE, "pillow-simd"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; the table goes to standard output, progress to standard error."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench.decoders", description=__doc__)
    every = ",".join(library.name for library in LIBRARIES)
    parser.add_argument("--libraries", default=every, help=f"which, by commas (all: {every})")
    parser.add_argument("--photos", type=Path, help="folder with large photos; default: the samples of scikit-image")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each way")
    parser.add_argument("--answers", action="store_true", help="compare the answers of the default model, too")
    parser.add_argument("--json", type=Path, help="write the figures here")
    chosen = parser.parse_args(arguments)
    wanted = [library for library in LIBRARIES if library.name in chosen.libraries.split(",")]
    recipes = {model: names.resolve(model).recipe for model in _MODELS}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        files = _files(chosen.photos, Path(folder))
        workers, missing = _started(wanted, stack)
        result: dict[str, Any] = {"machine": machine.description(), "missing": missing}
        result["rows"] = measured(workers, files, recipes, chosen.rounds, Path(folder))
        if chosen.answers:
            _compare_answers(result["rows"], Path(folder))
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(markdown(result))
    return 0


def _files(photos: Path | None, folder: Path) -> dict[str, list[str]]:
    """JPEG files of each kind, by its name."""
    pictures = decoding._photos(photos)
    found: dict[str, list[str]] = {}
    for kind in _KINDS:
        paths = []
        for i in range(kind.files):
            path = folder / f"{len(found)}-{i}.jpg"
            path.write_bytes(decoding._file(pictures[i % len(pictures)], kind.form, kind.size, kind.options))
            paths.append(str(path))
        found[kind.name] = paths
    return found


def _started(wanted: Sequence[Library], stack: ExitStack) -> tuple[dict[str, Worker], dict[str, str]]:
    """A process for each library, and why there is none for the others."""
    workers, missing = {}, {}
    for library in wanted:
        try:
            python = environment.prepare(f"decode-{library.name}", library.packages, library.build)
            worker = Worker("tools.bench.decoders.ways", _ALONE, python=python, arguments=[library.name])
            stack.callback(worker.close)
            worker.do("ways")
        except (EnvironmentFailedError, WorkerError) as error:
            missing[library.name] = f"{error}{f' It needs {library.needs}.' if library.needs else ''}"
            _tell(f"{library.name} is missing: {missing[library.name]}")
        else:
            workers[library.name] = worker
    return workers, missing


# One thread each: what is told is the CPU time of one core. The package is imported from this checkout.
_ALONE = {
    "PYTHONPATH": str(environment.ROOT / "src"),
    "VIPS_CONCURRENCY": "1",
    "OMP_NUM_THREADS": "1",
    "OPENCV_FOR_THREADS_NUM": "1",
}


def measured(
    workers: Mapping[str, Worker],
    files: Mapping[str, list[str]],
    recipes: Mapping[str, Recipe],
    rounds: int,
    folder: Path,
) -> list[dict[str, Any]]:
    """A row for each recipe, kind of file, library and way: its time, its ratio, and how far its pixels differ."""
    rows = []
    for model, recipe in recipes.items():
        for kind, paths in files.items():
            _tell(f"{model}, {kind}")
            told = {"recipe": asdict(recipe), "paths": paths}
            ways = {library: worker.do("ways") for library, worker in workers.items()}
            seconds: dict[tuple[str, str], list[float]] = {(name, way): [] for name in ways for way in ways[name]}
            for turn in range(rounds + 1):
                for name, way in seconds if turn % 2 else reversed(seconds):
                    took = workers[name].do("turn", way=way, **told)
                    if turn:  # the first is only to warm up
                        seconds[name, way].append(took)
            expected = None
            for (name, way), turns in seconds.items():
                saved = folder / f"{model}-{kind}-{name}-{way}.npy".replace(" ", "-")
                workers[name].do("pixels", way=way, to=str(saved), **told)
                pixels = np.load(saved)
                expected = pixels if expected is None else expected
                if way == SERVICE and name not in _BUILDS_OF_PILLOW:
                    continue
                rows.append(
                    {
                        "model": model,
                        "kind": kind,
                        "library": name,
                        "way": way,
                        "milliseconds": 1e3 * statistics.median(turns),
                        "ratio": ratio(seconds, name, way),
                        "mean_difference": float(np.abs(pixels.astype(int) - expected).mean()),
                        "largest_difference": int(np.abs(pixels.astype(int) - expected).max()),
                        "pixels": str(saved),
                    }
                )
                _tell(json.dumps(rows[-1]))
    return rows


def ratio(seconds: Mapping[tuple[str, str], Sequence[float]], name: str, way: str) -> float:
    """How many times as fast as the service's own way: the median of the ratios within a turn.

    The service's own way is that of the same process; another build of Pillow is compared with Pillow's process.
    """
    base = seconds.get((name, SERVICE))
    if way == SERVICE or base is None:
        base = seconds.get((_BASE, SERVICE), seconds[name, way])
    return statistics.median(theirs / ours for theirs, ours in zip(base, seconds[name, way], strict=True))


def _compare_answers(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """How far the default model's probabilities move, for each way that gives it other pixels."""
    from glimpse.models.outputs import PROBABILITIES
    from glimpse.server.runtime import conversion
    from glimpse.server.runtime.openvino_graphs import compiled

    model = _MODELS[0]
    compute = compiled(conversion.get_or_convert(names.resolve(model)).graph)

    def answers(row: Mapping[str, Any]) -> NDArray[np.float32]:
        return np.asarray(compute(np.load(row["pixels"]))[PROBABILITIES])

    ours = (model, _BASE, SERVICE)
    of_kind = {row["kind"]: answers(row) for row in rows if (row["model"], row["library"], row["way"]) == ours}
    for row in rows:
        if row["model"] == model and row["kind"] in of_kind and row["largest_difference"]:
            expected, got = of_kind[row["kind"]], answers(row)
            row["probability_moved"] = float(np.abs(got - expected).max(axis=1).mean())
            row["same_answers"] = float((got.argmax(axis=1) == expected.argmax(axis=1)).mean())


def markdown(result: Mapping[str, Any]) -> str:
    """A table for each recipe, and what is missing."""
    kinds = list(dict.fromkeys(row["kind"] for row in result["rows"]))
    lines = []
    for model in dict.fromkeys(row["model"] for row in result["rows"]):
        heads = " | ".join(kinds)
        lines += [
            f"| {model}: library | way | {heads} | input: mean, largest difference | probability |",
            "|---" * (4 + len(kinds)) + "|",
        ]
        rows = [row for row in result["rows"] if row["model"] == model]
        for name, way in dict.fromkeys((row["library"], row["way"]) for row in rows):
            found = {row["kind"]: row for row in rows if (row["library"], row["way"]) == (name, way)}
            ratios = " | ".join(f"{found[kind]['ratio']:.2f}x" for kind in kinds)
            mean = max(row["mean_difference"] for row in found.values())
            most = max(row["largest_difference"] for row in found.values())
            moved = max((row.get("probability_moved", 0.0) for row in found.values()), default=0.0)
            told = "the same" if not most else f"{mean:.2f}, {most}"
            lines.append(f"| {name} | {way} | {ratios} | {told} | {f'{moved:.4f}' if moved else ''} |")
        lines.append("")
    lines += [f"{name} is missing: {reason}" for name, reason in result["missing"].items()]
    return "\n".join(lines)


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
