"""Golden answers: a few pictures in a bundle, with the probabilities that its network gave when they were recorded.

    golden/answers.json   the probabilities, and the software that computed them
    golden/*.png          the pictures

Published weights, which are in no bundle of ours, have theirs in one file of `models/published/golden`; the pictures
are those of `models/photographs`.

Before it serves, a server computes the probabilities again, with its own decoder, runtime and precision, and compares
them. Keras is not imported here: the caller of `record` supplies the network.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glimpse.models import bundle as bundles
from glimpse.models import messages
from glimpse.models.bundle import Bundle, BundleError
from glimpse.models.decoding.decode import decode
from glimpse.models.decoding.limits import OWN_FILES
from glimpse.models.decoding.refusals import RefusedImageError
from glimpse.models.files import bounded_files, whole_files
from glimpse.models.files.bounded_files import shown
from glimpse.models.heads import SOFTMAX, Head
from glimpse.models.prestem import host

PHOTOGRAPHS = Path(__file__).parent / "photographs"  # 256 pixels on the shorter side
FOLDER = "golden"
ANSWERS = "answers.json"
FORMAT = 1
# By which the most probable class must lead, or the picture is not recorded: with a smaller margin, two precisions that
# are both right may predict different classes. In bfloat16 a probability changes by up to 0.1.
MIN_MARGIN = 0.2
# The same of a multi-label model: by which the probability of each label must be away from its threshold.
MIN_DISTANCE = 0.1
# Limits of a bundle, which may come from an untrusted source: each picture is read and decoded before a server serves.
MAX_PICTURES = 64
PICTURE_BYTES = 16 << 20  # of one picture's file
PICTURES_BYTES = 64 << 20  # of all together
ANSWERS_BYTES = 16 << 20  # of the recorded answers: eight pictures for 100,000 classes take half of it
_RECORD_AGAIN = "Record them again: python -m glimpse.models golden"


@dataclass(frozen=True, slots=True)
class SampleImage:
    """An image file, and its source."""

    name: str  # of the file: "chelsea.png"
    data: bytes
    source: str  # for people: photographer, licence, what was done to it


@dataclass(frozen=True, slots=True)
class GoldenAnswer:
    """A picture and its recorded answer."""

    picture: SampleImage
    probabilities: NDArray[np.float32]  # [classes], in the order of the bundle's labels


def read(bundle: Bundle) -> tuple[GoldenAnswer, ...]:
    """The golden answers of a bundle, an empty tuple if it has none.

    Raises:
        BundleError: they are missing or malformed, or were recorded with other weights or another pre-stem.
    """
    if not bundle.golden:
        return ()
    path = bundle.golden_folder / bundle.golden if bundle.golden_folder else bundle.folder / bundle.golden / ANSWERS
    try:
        folder, values = _found(bundle)
        recorded = {key: values[key] for key in _made_with(bundle)}
        golden = _recorded(folder, values["pictures"])
    except OSError as error:
        name = Path(error.filename or path)
        raise BundleError(f"{name} cannot be read: {error.strerror or error}. Copy the bundle again.") from error
    except KeyError as error:
        raise BundleError(
            f"{path} has no valid golden answers: it lacks {error}. {_RECORD_AGAIN} {bundle.folder}"
        ) from error
    except (AttributeError, TypeError, ValueError) as error:
        raise BundleError(
            f"{path} has no valid golden answers: {messages.short(error)}. {_RECORD_AGAIN} {bundle.folder}"
        ) from error
    for key, expected in _made_with(bundle).items():
        if recorded[key] != expected:
            raise BundleError(
                f"{path} was recorded with {key} {shown(recorded[key])}, but the bundle has {expected}. If the "
                f"bundle is correct, record them again: python -m glimpse.models golden {bundle.folder}"
            )
    for each in golden:
        if each.probabilities.shape != (len(bundle.labels),):
            raise BundleError(
                f"{path} must hold {len(bundle.labels)} probabilities for {each.picture.name}, one for each label. "
                f"Received: {each.probabilities.shape}. {_RECORD_AGAIN} {bundle.folder}"
            )
    if not golden:
        raise BundleError(f"{path} holds no picture. {_RECORD_AGAIN} {bundle.folder}")
    return golden


def _found(bundle: Bundle) -> tuple[Path, dict[str, Any]]:
    """The folder of a bundle's pictures, and what is recorded of them."""
    if bundle.golden_folder is not None:
        return PHOTOGRAPHS, _values(bundle.golden_folder / bundle.golden)
    folder = bounded_files.inside(bundle.folder, bundle.golden)
    return folder, _values(bounded_files.inside(folder, ANSWERS))


def pictures(folder: Path, name: str = FOLDER) -> tuple[SampleImage, ...]:
    """The pictures of a bundle's golden answers, or those of the embedded bundle where it has none.

    Args:
        folder: of the bundle.
        name: of the folder of its golden answers in it.
    """
    own = folder / name
    if not (own / ANSWERS).is_file():
        folder, name = bundles.EMBEDDED_DEFAULT, FOLDER
    try:
        own = bounded_files.inside(folder, name)
        return tuple(each.picture for each in _recorded(own, _values(bounded_files.inside(own, ANSWERS))["pictures"]))
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"{own / ANSWERS} has no valid golden answers: {messages.short(error)}. Give pictures with --picture."
        ) from error


def photographs() -> tuple[SampleImage, ...]:
    """The photographs that are part of the package."""
    return tuple(
        SampleImage(path.name, path.read_bytes(), "models/photographs/README.md")
        for path in sorted(PHOTOGRAPHS.glob("*.jpg"))
    )


def _values(path: Path) -> dict[str, Any]:
    values = bounded_files.parse_json(bounded_files.read_text(path, ANSWERS_BYTES))
    if not isinstance(values, dict):
        raise TypeError(f"an object is expected. Received: {type(values).__name__}")
    return values


def record(
    bundle: Bundle,
    answer: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    candidates: Iterable[SampleImage],
    *,
    by: str,
) -> Bundle:
    """Record the answers of a network in the folder of its bundle, and read the bundle again.

    With what goes wrong, or is interrupted, the bundle has the answers of before.

    Args:
        bundle: in a folder of its own; or a graph of another framework, beside which they are written.
        answer: uint8 ``[N, H, W, C]`` -> float32 probabilities ``[N, classes]``, computed in float32.
        candidates: pictures; those whose most probable class leads by less than `MIN_MARGIN`, or any of whose labels
            is less than `MIN_DISTANCE` from its threshold, are not recorded.
        by: the software that computes the answers: framework, version, precision.

    Raises:
        BundleError: a picture cannot be decoded, or none has a large enough margin.
        OSError: a file cannot be written.
    """
    kept, values = _answers(bundle, answer, candidates, by)
    folder = bundle.folder / FOLDER
    folder.mkdir(exist_ok=True)
    try:
        folder = bounded_files.inside(bundle.folder, FOLDER)  # everything else in it is deleted
    except ValueError as error:
        raise BundleError(f"The answers cannot be recorded: {error}.") from error
    _replace(folder, [each.picture for each in kept], values)
    if bundle.graph:  # which has no description: the folder beside it is found by its name
        return replace(bundle, golden=FOLDER)
    description = bundle.folder / bundles.DESCRIPTION
    described = bounded_files.parse_json(bounded_files.read_text(description, bounded_files.DESCRIPTION_BYTES))
    whole_files.write_text(description, json.dumps({**described, "golden": FOLDER}, indent=2) + "\n")
    if bundle.golden not in {"", FOLDER}:  # of another temperature, see `rescaled`
        shutil.rmtree(bounded_files.inside(bundle.folder, bundle.golden), ignore_errors=True)
    return bundles.read(bundle.folder)


def _replace(folder: Path, shown: Sequence[SampleImage], values: dict[str, Any]) -> None:
    """Put pictures and their answers into a folder, in the place of those that are there.

    The file of answers, which says which pictures count, is replaced as a whole between writing the new pictures and
    deleting the old ones. So a new picture has a name of its own, unless the very same one is there.

    Args:
        folder: without links in its path.
        shown: the pictures.
        values: for the file of answers; the names of the files are set in it.
    """
    there, written = {path.name for path in folder.iterdir()} | {ANSWERS}, list[Path]()
    names, text = list[str](), ""
    try:
        for picture in shown:
            name, usable = picture.name, bounded_files.is_plain_name(picture.name)
            if not usable or name in names or not whole_files.holds(folder / name, picture.data):
                if not usable or name in there:
                    name = f"{secrets.token_hex(4)}{PurePath(name).suffix if usable else ''}"
                written.append(folder / name)
                whole_files.write_bytes(folder / name, picture.data)
                there.add(name)
            names.append(name)
        files = [{**each, "file": name} for each, name in zip(values["pictures"], names, strict=True)]
        text = _lines({**values, "pictures": files})
        if (folder / ANSWERS).is_symlink():  # or what it leads to, anywhere, would be replaced
            (folder / ANSWERS).unlink()
        whole_files.write_text(folder / ANSWERS, text)
    except BaseException:  # an interrupt, too, which may come when all is done
        if not whole_files.holds(folder / ANSWERS, text.encode()):
            for path in written:
                path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # something is in it
                folder.rmdir()
        raise
    for old in folder.iterdir():
        if old.name not in {*names, ANSWERS} and (old.is_symlink() or not old.is_dir()):
            old.unlink()


def record_published(bundle: Bundle, answer: Callable[[NDArray[np.uint8]], NDArray[np.float32]], *, by: str) -> Path:
    """Record the answers of published weights to `photographs`, in the file that their row names; its path.

    Args and Raises as of `record`.
    """
    if bundle.golden_folder is None:
        raise BundleError(
            f"The row of {bundle.name} in models/published names no file of golden answers. Give it a name first."
        )
    path = bundle.golden_folder / bundle.golden
    whole_files.write_text(path, _lines(_answers(bundle, answer, photographs(), by)[1]))
    return path


def rescaled(folder: Path, bundle: Bundle, temperature: float) -> str:
    """Record the answers of another temperature in a new folder beside the old one, whose name is returned.

    They are the same network's, as no weight has changed: softmax(logits / T') is softmax(logits / T) to the power of
    T / T', divided by the sum. The bundle goes on having the old ones until its description names the new folder.

    Args:
        folder: of the bundle.
        bundle: as it was, with the temperature that the answers were recorded at.
        temperature: the other one.

    Raises:
        BundleError: they are damaged.
        OSError: they cannot be written.
    """
    read(bundle)  # refuses what is damaged
    before = bounded_files.inside(folder, bundle.golden)
    values = _values(bounded_files.inside(before, ANSWERS))
    for each in values["pictures"]:
        powers = np.asarray(each["probabilities"], np.float64) ** (bundle.temperature / temperature)
        each["probabilities"] = [float(f"{p:.7g}") for p in powers / powers.sum()]
    after = folder / f"{FOLDER}-{secrets.token_hex(4)}"
    after.mkdir()
    try:
        for each in values["pictures"]:
            shutil.copyfile(bounded_files.inside(before, each["file"]), after / each["file"])
        whole_files.write_text(after / ANSWERS, _lines({**values, "temperature": temperature}))
    except BaseException:  # an interrupt, too
        shutil.rmtree(after, ignore_errors=True)
        raise
    return after.name


def _answers(
    bundle: Bundle,
    answer: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    candidates: Iterable[SampleImage],
    by: str,
) -> tuple[list[GoldenAnswer], dict[str, Any]]:
    """The pictures of which a network is certain, with its answers, and what is to be recorded of them."""
    kept = []
    for picture in candidates:
        try:
            pixels = host.fit(decode(picture.data, OWN_FILES), bundle.recipe)
        except RefusedImageError as error:
            raise BundleError(f"The picture {picture.name} cannot be decoded: {error}") from error
        probabilities = np.asarray(answer(pixels[None]), np.float32)[0]
        if is_clear(probabilities, bundle.head):
            kept.append(GoldenAnswer(picture, probabilities))
    if not kept and not bundle.head.exclusive:
        raise BundleError(
            "The network is not certain about any of the pictures: the probability of each label must be at least "
            f"{MIN_DISTANCE} away from its threshold. Give pictures that it knows, with --picture."
        )
    if not kept:
        raise BundleError(
            "The network is not certain about any of the pictures: the probability of its first class must exceed "
            f"that of the second by {MIN_MARGIN}. Give pictures of classes that it knows, with --picture."
        )
    values: dict[str, Any] = {
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
    return kept, values


def is_clear(probabilities: NDArray[np.float32], head: Head) -> bool:
    """Whether an answer ``[classes]`` is so clear that two precisions that are both right give the same one."""
    if not head.exclusive:
        return bool(np.abs(probabilities - head.limits).min() >= MIN_DISTANCE)
    second, first = np.sort(probabilities)[-2:] if len(probabilities) > 1 else (0.0, 1.0)
    return bool(first - second >= MIN_MARGIN)


def _made_with(bundle: Bundle) -> dict[str, object]:
    """The values of a bundle that a recorded answer depends on."""
    return {
        "format": FORMAT,
        "weights_digest": bundle.weights_digest,
        "recipe_digest": bundle.recipe.digest,
        "temperature": bundle.temperature,
        **({} if bundle.head == SOFTMAX else {"head": bundle.head.to_dict()}),
    }


def _recorded(folder: Path, values: object) -> tuple[GoldenAnswer, ...]:
    """The pictures of a folder with the answers in its `ANSWERS`."""
    if not isinstance(values, list):
        raise TypeError(f"pictures must be a list. Received: {shown(values)}")
    if len(values) > MAX_PICTURES:
        raise ValueError(f"it has {len(values):,} pictures; at most {MAX_PICTURES} are allowed")
    golden, total = [], 0
    for value in values:
        if not isinstance(value, dict):
            raise TypeError(f"a picture must be an object. Received: {shown(value)}")
        golden.append(_golden(folder, value, min(PICTURE_BYTES, PICTURES_BYTES - total)))
        total += len(golden[-1].picture.data)
    return tuple(golden)


def _golden(folder: Path, value: dict[str, object], limit: int) -> GoldenAnswer:
    name, numbers = value["file"], value["probabilities"]
    path = bounded_files.inside(folder, name)
    if not isinstance(numbers, list) or not all(type(each) in {int, float} for each in numbers):
        raise ValueError(f"the probabilities of {name} must all be finite numbers")
    with np.errstate(over="ignore"):  # what float32 does not hold is infinite
        probabilities = np.asarray(numbers, np.float32)
    if not np.isfinite(probabilities).all():
        raise ValueError(f"the probabilities of {name} must all be finite numbers")
    try:
        data = bounded_files.read(path, limit)
    except ValueError as error:
        raise ValueError(f"the picture {name} cannot be read: {error}") from error
    return GoldenAnswer(SampleImage(str(name), data, str(value.get("source", ""))[:1000]), probabilities)


def _lines(values: dict[str, Any]) -> str:
    """As JSON, with each list of numbers on one line."""

    def one_line(numbers: re.Match[str]) -> str:
        return f"[{' '.join(numbers[0][1:-1].split())}]"

    return re.sub(r"\[[-+.\deE,\s]+\]", one_line, json.dumps(values, indent=2, ensure_ascii=False)) + "\n"
