"""Golden answers: a few pictures in a bundle, and the probabilities that its network gave them where it was made.

    golden/answers.json   the answers, and with what they were recorded
    golden/*.png          the pictures

A server computes them again before it serves: on this machine, with its own decoder, runtime and precision. No Keras
is imported here; whoever records brings the network.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glimpse.models import bounded_files, messages
from glimpse.models import bundle as bundles
from glimpse.models.bounded_files import shown
from glimpse.models.bundle import Bundle, BundleError
from glimpse.models.decoding.decode import decode
from glimpse.models.decoding.limits import OWN_FILES
from glimpse.models.decoding.refusals import RefusedImageError
from glimpse.models.prestem import host

FOLDER = "golden"
ANSWERS = "answers.json"
FORMAT = 1
# Of the most probable class before the next, or the picture is left out: with a narrow one, two precisions that are
# both right may name different classes. In bfloat16 a probability moves by up to a tenth.
CLEAR = 0.2
# Of a bundle, which may come from anybody. Each picture is read and decoded before a server serves.
MOST_PICTURES = 64
PICTURE_BYTES = 16 << 20  # of one picture's file
PICTURES_BYTES = 64 << 20  # of all together
ANSWERS_BYTES = 16 << 20  # of the recorded answers: eight pictures for 100,000 classes take half of it
_TO_DO = "Record them anew: python -m glimpse.models golden"


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as a file, and where it comes from."""

    name: str  # of the file: "chelsea.png"
    data: bytes
    source: str  # for people: photographer, licence, what was done to it


@dataclass(frozen=True, slots=True)
class Golden:
    """A picture and its recorded answer."""

    picture: Picture
    probabilities: NDArray[np.float32]  # [classes], in the order of the bundle's labels


def read(bundle: Bundle) -> tuple[Golden, ...]:
    """The golden answers of a bundle; none where it names none.

    Raises:
        BundleError: they are missing or malformed, or were recorded with other weights or behind another pre-stem.
    """
    if not bundle.golden:
        return ()
    path = bundle.folder / bundle.golden / ANSWERS
    try:
        folder = bounded_files.inside(bundle.folder, bundle.golden)
        values = _values(folder)
        recorded = {key: values[key] for key in ("format", "weights_digest", "recipe_digest", "temperature")}
        golden = _recorded(folder, values["pictures"])
    except OSError as error:
        name = Path(error.filename or path)
        raise BundleError(f"{name} cannot be read: {error.strerror or error}. Copy the bundle again.") from error
    except KeyError as error:
        raise BundleError(f"{path} does not hold golden answers: it lacks {error}. {_TO_DO} {bundle.folder}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise BundleError(
            f"{path} does not hold golden answers: {messages.short(error)}. {_TO_DO} {bundle.folder}"
        ) from error
    for key, expected in _made_with(bundle).items():
        if recorded[key] != expected:
            raise BundleError(
                f"{path} was recorded with {key} {shown(recorded[key])}; the bundle has {expected}. If the bundle is "
                f"as it should be: {_TO_DO} {bundle.folder}"
            )
    for each in golden:
        if each.probabilities.shape != (len(bundle.labels),):
            raise BundleError(
                f"{path} must hold {len(bundle.labels)} probabilities for {each.picture.name}, one a label. Received: "
                f"{each.probabilities.shape}. {_TO_DO} {bundle.folder}"
            )
    if not golden:
        raise BundleError(f"{path} holds no picture. {_TO_DO} {bundle.folder}")
    return golden


def pictures(folder: Path) -> tuple[Picture, ...]:
    """The pictures of a bundle's golden answers, or those of the shipped bundle where it has none."""
    own = folder / FOLDER
    if not (own / ANSWERS).is_file():
        folder = bundles.EMBEDDED_DEFAULT
    try:
        own = bounded_files.inside(folder, FOLDER)
        return tuple(each.picture for each in _recorded(own, _values(own)["pictures"]))
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"{own / ANSWERS} does not hold golden answers: {messages.short(error)}. Give pictures, with --picture."
        ) from error


def _values(folder: Path) -> dict[str, Any]:
    values = bounded_files.parse_json(bounded_files.read_text(bounded_files.inside(folder, ANSWERS), ANSWERS_BYTES))
    if not isinstance(values, dict):
        raise TypeError(f"an object is expected. Received: {type(values).__name__}")
    return values


def record(
    bundle: Bundle,
    answer: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    candidates: Iterable[Picture],
    *,
    by: str,
) -> Bundle:
    """Write the answers of a network into its bundle's folder, and read that back.

    Args:
        bundle: in a folder of its own.
        answer: uint8 ``[N, H, W, 3]`` -> float32 probabilities ``[N, classes]``, computed in float32.
        candidates: pictures; those without a clear answer are left out.
        by: what computes: framework, version, precision.

    Raises:
        BundleError: a picture cannot be decoded, or none has a clear answer.
    """
    kept = []
    for picture in candidates:
        try:
            pixels = host.fit(decode(picture.data, OWN_FILES), bundle.recipe)
        except RefusedImageError as error:
            raise BundleError(f"The picture {picture.name} cannot be decoded: {error}") from error
        probabilities = np.asarray(answer(pixels[None]), np.float32)[0]
        second, first = np.sort(probabilities)[-2:] if len(probabilities) > 1 else (0.0, 1.0)
        if first - second >= CLEAR:
            kept.append(Golden(picture, probabilities))
    if not kept:
        raise BundleError(
            f"The network answers none of the pictures clearly: nowhere is the first class {CLEAR} ahead of the "
            "second. Give pictures of what it knows, with --picture."
        )
    folder = bundle.folder / FOLDER
    folder.mkdir(exist_ok=True)
    try:
        folder = bounded_files.inside(bundle.folder, FOLDER)  # all that is in it goes
    except ValueError as error:
        raise BundleError(f"The answers cannot be recorded: {error}.") from error
    for old in folder.iterdir():
        old.unlink()
    for each in kept:
        (folder / each.picture.name).write_bytes(each.picture.data)
    values = {
        **_made_with(bundle),
        "by": by,
        "pictures": [
            {
                "file": each.picture.name,
                "source": each.picture.source,
                "answer": bundle.labels[int(each.probabilities.argmax())].label,
                "probabilities": [float(f"{p:.7g}") for p in each.probabilities],
            }
            for each in kept
        ],
    }
    (folder / ANSWERS).write_text(_lines(values), encoding="utf-8")
    description = bundle.folder / bundles.DESCRIPTION
    described = bounded_files.parse_json(bounded_files.read_text(description))
    description.write_text(json.dumps({**described, "golden": FOLDER}, indent=2) + "\n", encoding="utf-8")
    return bundles.read(bundle.folder)


def _made_with(bundle: Bundle) -> dict[str, object]:
    """All that a recorded answer depends on."""
    return {
        "format": FORMAT,
        "weights_digest": bundle.weights_digest,
        "recipe_digest": bundle.recipe.digest,
        "temperature": bundle.temperature,
    }


def _recorded(folder: Path, values: object) -> tuple[Golden, ...]:
    """The pictures of a folder with their answers, as its `ANSWERS` tell."""
    if not isinstance(values, list):
        raise TypeError(f"pictures must be a list. Received: {shown(values)}")
    if len(values) > MOST_PICTURES:
        raise ValueError(f"it has {len(values):,} pictures, and {MOST_PICTURES} are the most")
    golden, total = [], 0
    for value in values:
        if not isinstance(value, dict):
            raise TypeError(f"a picture must be an object. Received: {shown(value)}")
        golden.append(_golden(folder, value, min(PICTURE_BYTES, PICTURES_BYTES - total)))
        total += len(golden[-1].picture.data)
    return tuple(golden)


def _golden(folder: Path, value: dict[str, object], limit: int) -> Golden:
    name, numbers = value["file"], value["probabilities"]
    path = bounded_files.inside(folder, name)
    if not isinstance(numbers, list) or not all(type(each) in {int, float} for each in numbers):
        raise ValueError(f"the probabilities of {name} are not all numbers")
    with np.errstate(over="ignore"):  # what float32 does not hold is infinite
        probabilities = np.asarray(numbers, np.float32)
    if not np.isfinite(probabilities).all():
        raise ValueError(f"the probabilities of {name} are not all numbers")
    try:
        data = bounded_files.read(path, limit)
    except ValueError as error:
        raise ValueError(f"the picture {name} cannot be read: {error}") from error
    return Golden(Picture(str(name), data, str(value.get("source", ""))[:1000]), probabilities)


def _lines(values: dict[str, object]) -> str:
    """As JSON, with each list of numbers in one line: a thousand lines of one number help nobody."""

    def one_line(numbers: re.Match[str]) -> str:
        return f"[{' '.join(numbers[0][1:-1].split())}]"

    return re.sub(r"\[[-+.\deE,\s]+\]", one_line, json.dumps(values, indent=2, ensure_ascii=False)) + "\n"
