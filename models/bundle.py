"""A bundle: the folder in which a trained network travels, with all that is needed to serve it.

    model.json           what the network is: architecture, pre-stem recipe, temperature, digest, metrics
    labels.txt           one class a line, in the order of the network's output: ``label`` or ``label<TAB>class_id``
    weights.safetensors  float32 tensors, each under the path of its Keras variable
    golden/              pictures with recorded answers, see `models.golden`; optional
    MODEL_CARD.md        for people, with its pictures beside it

Plain data: neither Keras nor gRPC is imported here.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models import texts
from models.catalogue import UnknownArchitectureError, find
from models.prestem.recipe import Recipe

FORMAT = 1
DESCRIPTION = "model.json"
LABELS = "labels.txt"
WEIGHTS = "weights.safetensors"
# PyTorch's exporter to ONNX puts the tensors into the first, other programs into the second: a file beside the model.
BESIDE = (".data", "_data")
EMBEDDED = Path(__file__).parent / "bundles"
DEFAULT = ("se_resnet20", "cifar10")  # architecture and tag of the embedded bundle that is served unless told otherwise
EMBEDDED_DEFAULT = EMBEDDED / "_".join(DEFAULT)

_LINE_END = re.compile(r"\r\n|\r|\n")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class BundleError(ValueError):
    """A bundle cannot be used as it is; the message says which one, why, and what to do."""


@dataclass(frozen=True, slots=True)
class ClassLabel:
    """One class of a network's output."""

    label: str  # for people: "cat"
    class_id: str = ""  # stable id where the data set has one, for example WordNet's "n02123045"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle as read from its folder; the weights themselves stay on disk."""

    folder: Path
    name: str  # what a client asks for: "se_resnet20_cifar10"
    version: str
    architecture: str  # a row of the library: "se_resnet20"; empty: the weights file is a whole saved model
    variant: str
    options: Mapping[str, Any]  # of the architecture, where they are not the variant's own
    input_shape: tuple[int, int, int]  # (height, width, channels)
    labels: tuple[ClassLabel, ...]  # in the order of the network's output
    recipe: Recipe  # pre-stem that the weights were trained behind
    temperature: float  # divides the logits before the softmax; 1 is uncalibrated
    weights_file: str  # name within the folder
    weights_digest: str  # "sha256:" and the hash of that file
    metrics: Mapping[str, float]  # what the model card claims, for example "top1": 0.92
    golden: str = ""  # name of the folder of recorded answers; empty: there are none

    @property
    def weights_path(self) -> Path:
        """Where the weights lie."""
        return self.folder / self.weights_file

    def check_digest(self) -> None:
        """Compare the weights file with the digest that the bundle names.

        Raises:
            BundleError: the file is missing or is another one.
        """
        found = digest(self.weights_path)
        if found != self.weights_digest:
            raise BundleError(
                f"{self.weights_path} is not the file that the bundle was made with. Expected {self.weights_digest}, "
                f"found {found}. Copy the bundle again."
            )


def digest(path: Path) -> str:
    """``sha256:`` and the hexadecimal hash of a file, and of what an exporter to ONNX has put beside it.

    Raises:
        BundleError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            whole = hashlib.file_digest(file, "sha256")
        for beside in (path.with_name(path.name + ending) for ending in BESIDE):
            if beside.is_file():
                with beside.open("rb") as file:
                    whole.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}. A bundle needs its weights.") from error
    return "sha256:" + whole.hexdigest()


def read(folder: Path) -> Bundle:
    """Read and check a bundle; the weights' digest is left to `Bundle.check_digest`.

    Raises:
        BundleError: a file is missing or malformed, or the values contradict one another.
    """
    path = folder / DESCRIPTION
    try:
        values = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise BundleError(f"{path} is not JSON: {error}. Export the bundle again.") from error
    if not isinstance(values, dict):
        raise BundleError(f"{path} must hold a JSON object. Received: {type(values).__name__}")
    if values.get("format") != FORMAT:
        raise BundleError(
            f"{path} has format {values.get('format')!r}; this version of Glimpse reads format {FORMAT}. "
            "Export the bundle again, or use the Glimpse that wrote it."
        )
    try:
        bundle = _from_dict(folder, values)
    except KeyError as error:
        raise BundleError(f"{path} lacks {error}. Export the bundle again.") from error
    except BundleError:
        raise
    except (TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{path} cannot be used: {error}") from error
    if len(bundle.labels) != values["classes"]:
        raise BundleError(
            f"{folder / values['labels']} must name the {values['classes']} classes of {path.name}. "
            f"Received: {len(bundle.labels)} lines"
        )
    return bundle


def write(
    folder: Path,
    *,
    name: str,
    version: str,
    architecture: str,
    variant: str,
    input_shape: tuple[int, int, int],
    labels: Sequence[ClassLabel],
    recipe: Recipe,
    temperature: float,
    metrics: Mapping[str, float],
) -> Bundle:
    """Make a bundle of the `weights.safetensors` that already lies in `folder`, and read it back.

    Raises:
        BundleError: the weights are missing, or a value cannot be.
    """
    check(name, version, labels)
    values = {
        "format": FORMAT,
        "name": name,
        "version": version,
        "architecture": architecture,
        "variant": variant,
        "input_shape": input_shape,
        "classes": len(labels),
        "labels": LABELS,
        "recipe": recipe.to_dict(),
        "temperature": temperature,
        "weights": WEIGHTS,
        "weights_digest": digest(folder / WEIGHTS),
        "metrics": dict(metrics),
    }
    lines = (f"{label.label}\t{label.class_id}" if label.class_id else label.label for label in labels)
    (folder / LABELS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    (folder / DESCRIPTION).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return read(folder)


def check(name: str, version: str, labels: Sequence[ClassLabel]) -> None:
    """Refuse what no bundle can hold; whoever trains one asks before, not after it.

    Raises:
        BundleError: the name, the version or a label cannot be.
    """
    try:
        _check_names({"name": name, "version": version})
    except ValueError as error:
        raise BundleError(f"The bundle's {error}") from None
    for label in labels:
        if not label.label.strip() or not all(map(_is_of_one_line, label.label + label.class_id)):
            raise BundleError(
                "A label must be one line of text without tabs or other control characters, in valid Unicode. "
                f"Received: {label.label!r}"
            )
        if label.label.startswith("\ufeff"):
            raise BundleError(f"A label cannot begin with a byte order mark. Received: {label.label!r}")


def _is_of_one_line(character: str) -> bool:
    """Neither a control character nor a separator of lines or paragraphs nor half a character."""
    return unicodedata.category(character) not in {"Cc", "Zl", "Zp", "Cs"}


def _check_names(values: Mapping[str, Any]) -> None:
    for field in ("name", "version"):
        if not (isinstance(values[field], str) and _NAME.fullmatch(values[field])):
            raise ValueError(f"{field} must be letters, digits, '.', '_' and '-'. Received: {values[field]!r}")


def embedded(architecture: str) -> tuple[str, ...]:
    """Tags of the bundles of `architecture` that come with the package, sorted."""
    prefix = f"{architecture}_"
    return tuple(sorted(p.parent.name.removeprefix(prefix) for p in EMBEDDED.glob(f"{prefix}*/{DESCRIPTION}")))


def _from_dict(folder: Path, values: dict[str, Any]) -> Bundle:
    _check_names(values)
    shape = values["input_shape"]
    if not (isinstance(shape, list) and len(shape) == 3 and all(isinstance(n, int) and n > 0 for n in shape)):
        raise ValueError(f"input_shape must be three positive sizes (height, width, channels). Received: {shape}")
    recipe = Recipe.from_dict(values["recipe"])
    if (recipe.height, recipe.width, 3) != tuple(shape):
        raise ValueError(
            f"the recipe makes {recipe.height}x{recipe.width}x3 images, which is not input_shape. Received: {shape}"
        )
    temperature = float(values["temperature"])
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive. Received: {values['temperature']}")
    options = values.get("options", {})
    try:
        if values["architecture"]:
            find(values["architecture"], values["variant"], options)
    except UnknownArchitectureError as error:
        raise ValueError(f"{error} It may need a newer Glimpse.") from error
    return Bundle(
        folder=folder,
        name=values["name"],
        version=values["version"],
        architecture=values["architecture"],
        variant=values["variant"],
        options=options,
        input_shape=(shape[0], shape[1], shape[2]),
        labels=read_labels(_inside(folder, values["labels"])),
        recipe=recipe,
        temperature=temperature,
        weights_file=_inside(folder, values["weights"]).name,
        weights_digest=str(values["weights_digest"]),
        metrics={str(k): float(v) for k, v in values["metrics"].items()},
        golden=_inside(folder, values["golden"]).name if values.get("golden") else "",
    )


def read_labels(path: Path) -> tuple[ClassLabel, ...]:
    """The classes of a file, one a line: ``label`` or ``label<TAB>class_id``. Blank lines at its end do not count.

    Raises:
        BundleError: it cannot be read, or a line is not of that form.
    """
    # Not `splitlines`, which breaks at characters that a label may have.
    lines = _LINE_END.split(_text(path))
    while lines and not lines[-1].strip():
        del lines[-1]
    try:
        return tuple(_labels(lines))
    except ValueError as error:
        raise BundleError(f"{path}: {error}") from error


def _labels(lines: Iterable[str]) -> Iterable[ClassLabel]:
    for number, line in enumerate(lines, start=1):
        label, _, class_id = line.partition("\t")
        if not line.strip():
            raise ValueError(
                f"line {number} of the labels is blank, and every class needs a name. Give it one, or remove the line "
                "if the network has no such class."
            )
        if not label.strip() or "\t" in class_id:
            raise ValueError(f"line {number} of the labels must be 'label' or 'label<TAB>class_id'. Received: {line!r}")
        yield ClassLabel(label, class_id)


def _inside(folder: Path, name: str) -> Path:
    """`folder / name`, where `name` is a plain file name: a bundle from elsewhere must not reach other files."""
    path = folder / name
    if Path(name).name != name or (path.is_symlink() and path.resolve().parent != folder.resolve()):
        raise ValueError(f"a file of a bundle must lie in its folder. Received: {name!r}")
    return path


def _text(path: Path) -> str:
    try:
        return texts.decode(path.read_bytes())
    except OSError as error:
        raise BundleError(
            f"{path} cannot be read: {error.strerror or error}. A bundle needs {DESCRIPTION} and {LABELS}."
        ) from error
    except ValueError as error:
        raise BundleError(f"{path} cannot be read: {error}") from error
