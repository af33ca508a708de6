"""A bundle: the folder in which a trained network travels, with all that is needed to serve it.

    model.json           what the network is: architecture, pre-stem recipe, temperature, digest, metrics, and, where it
                         is fitted, from when on an image is unknown (`models.novelty.novelty`); and its head, where
                         that is no softmax (`models.heads`)
    labels.txt           one class a line, in the order of the network's output, see `models.labels`
    weights.safetensors  float32 tensors, each under the path of its Keras variable
    golden/              pictures with recorded predictions, see `models.golden`; optional
    MODEL_CARD.md        for people, with its pictures beside it

A bundle may come from an untrusted source: each file is read up to a limit, and no file outside of the folder is read
(`models.files.bounded_files`). Neither Keras nor gRPC is imported here.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from glimpse.models import messages
from glimpse.models.catalogue import UnknownArchitectureError, find
from glimpse.models.drift import Reference
from glimpse.models.errors import BundleError
from glimpse.models.files import bounded_files, digests, whole_files
from glimpse.models.files.bounded_files import shown
from glimpse.models.files.digests import EXTERNAL_DATA_SUFFIXES, FileVersion
from glimpse.models.groups import ClassGroup, groups_of
from glimpse.models.heads import SOFTMAX, Head
from glimpse.models.labels import LABELS, ClassLabel, check_labels, line_of, read_labels
from glimpse.models.novelty.novelty import NoveltyThreshold
from glimpse.models.prestem.recipe import Recipe
from glimpse.models.suggestions import nearest

__all__ = ["Bundle", "BundleError", "ClassLabel", "check", "embedded", "read", "read_labels", "write"]

FORMAT = 1
# That of a bundle whose head is no softmax. A Glimpse that does not know such heads would compute a softmax all the
# same, so it must not read the bundle.
HEAD_FORMAT = 2
DESCRIPTION = "model.json"
WEIGHTS = "weights.safetensors"
EMBEDDED = Path(__file__).parent / "bundles"
EMBEDDED_DEFAULT = EMBEDDED / "se_resnet20_cifar10"

# The keys of the description; `options`, `golden`, `novelty`, `drift` and `head` may be left out.
_KEYS = (
    *("format", "name", "version", "architecture", "variant", "input_shape", "classes", "labels", "recipe"),
    *("temperature", "weights", "weights_digest", "metrics", "options", "golden", "novelty", "drift", "head"),
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle as read from its folder; the weights themselves stay on disk."""

    folder: Path
    name: str  # by which clients select the model: "se_resnet20_cifar10"
    version: str
    architecture: (
        str  # name in the library: "se_resnet20"; empty: the weights file is a whole network of the user's own
    )
    variant: str
    options: Mapping[str, Any]  # of the architecture, where they differ from the variant's
    input_shape: tuple[int, int, int]  # (height, width, channels)
    labels: tuple[ClassLabel, ...]  # in the order of the network's output
    recipe: Recipe  # the pre-stem that the weights were trained with
    temperature: float  # divides the logits before the softmax; 1 is uncalibrated
    weights_file: str  # name within the folder
    weights_digest: str  # "sha256:" and the hash of that file
    metrics: Mapping[str, float]  # as stated in the model card, for example "top1": 0.92
    golden: str = ""  # name of the folder of golden answers; empty: there are none
    # Where answers of published weights are, whose folder is not ours: `golden` is then the name of a file in it.
    golden_folder: Path | None = None
    # The format of `models.foreign` in which the weights file is a graph of another framework; empty: it is none.
    graph: str = ""
    # From which score on an image is unknown to the model; None: none has been fitted.
    novelty: NoveltyThreshold | None = None
    drift: Reference | None = None  # with which a server compares what it sees; None: there is none
    # Of such a graph: the output or node that is the embedding; empty: what its last layer with weights reads.
    embedding: str = ""
    groups: tuple[ClassGroup, ...] = ()  # of its classes, by name
    head: Head = SOFTMAX  # what its scores mean
    # A layer whose statistics the network is to give, whatever its novelty is: for measuring; empty: none.
    measured_layer: str = ""
    random: bool = False  # its weights are random numbers, see `models.random_weights`: its answers mean nothing
    # Of the weights' files, when they were seen to have that digest; None: they have not been looked at.
    verified_versions: tuple[FileVersion, ...] | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def weights_path(self) -> Path:
        """The path of the weights file."""
        return self.folder / self.weights_file

    @property
    def statistics_layer(self) -> str:
        """The layer whose statistics are an output of the network, see `models.outputs`; empty: none."""
        distance = None if self.novelty is None else self.novelty.distance
        return self.measured_layer or ("" if distance is None else distance.layer)

    @property
    def weights_bytes(self) -> int:
        """The size of the weights file and of what belongs to it.

        Raises:
            OSError: one of them cannot be looked at.
        """
        return sum(path.stat().st_size for path in (self.weights_path, *digests.belonging(self.weights_path)))

    def check_digest(self) -> None:
        """Compare the weights file with the digest that ``model.json`` states, unless that has been done.

        Raises:
            BundleError: the file is missing, or its digest is different.
        """
        self.verified()

    def verified(self) -> Bundle:
        """The same bundle, whose weights have been compared with the digest: read again only if they change.

        Whoever it is handed to, in another process, too, need not hash them again.

        Raises:
            BundleError: the file is missing or is another one.
        """
        versions = digests.file_versions(self.weights_path)  # before it is read, or a change meanwhile would be missed
        if versions and versions == self.verified_versions:
            return self
        found = digests.digest(self.weights_path)
        if found != self.weights_digest:
            raise BundleError(
                f"{self.weights_path} is not the file that the bundle was made with: its digest is {found}, and "
                f"{DESCRIPTION} states {self.weights_digest}. Copy the bundle again."
            )
        return replace(self, verified_versions=versions)


def read(folder: Path) -> Bundle:
    """Read and check a bundle. The digest of its weights is not compared here, see `Bundle.check_digest`.

    Raises:
        BundleError: a file is missing or malformed, or its values contradict one another.
    """
    path = folder / DESCRIPTION
    text = _description(folder)
    try:
        values = bounded_files.parse_json(text)
    except ValueError as error:
        raise BundleError(f"{path} is not JSON: {error}. Export the bundle again.") from error
    if not isinstance(values, dict):
        raise BundleError(f"{path} must hold a JSON object. Received: {type(values).__name__}")
    if type(values.get("format")) is not int or values["format"] not in (FORMAT, HEAD_FORMAT):
        raise BundleError(
            f"{path} has format {shown(values.get('format'))}; this version of Glimpse reads formats {FORMAT} and "
            f"{HEAD_FORMAT}. Export the bundle again, or use the Glimpse that wrote it."
        )
    if ("head" in values) != (values["format"] == HEAD_FORMAT):
        raise BundleError(
            f"{path} must have the key head if, and only if, its format is {HEAD_FORMAT}. Export the bundle again."
        )
    if hint := _misspelt(values):
        raise BundleError(f"{path} has an unknown key.{hint}")
    try:
        return _from_dict(folder, values)
    except KeyError as error:
        raise BundleError(f"{path} lacks the key {error}. Export the bundle again.") from error
    except BundleError:
        raise
    except (TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{path} cannot be used: {messages.short(error)}") from error


def _misspelt(values: Mapping[str, Any]) -> str:
    """A sentence, with a leading space, about an unknown key that resembles one which is absent; else empty.

    Other unknown keys are ignored: tools may keep notes of their own in the file.
    """
    absent = [key for key in _KEYS if key not in values]
    for key in values:
        if key not in _KEYS and (hint := nearest(key, absent)):
            return f" Received: {shown(key)}.{hint}"
    return ""


def write(  # noqa: PLR0913 - one for each value of the description
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
    options: Mapping[str, Any] | None = None,
    weights: str = WEIGHTS,
    novelty: NoveltyThreshold | None = None,
    drift: Reference | None = None,
    head: Head = SOFTMAX,
) -> Bundle:
    """Make a bundle of a folder that holds its weights file: write the labels and the description, and read it.

    The description has the keys ``options``, ``novelty``, ``drift`` and ``head`` only where there are some, so that a
    bundle without is what it always was.

    Raises:
        BundleError: the weights are missing, or a value is not valid.
    """
    check(name, version, labels)
    values = {
        "format": FORMAT if head == SOFTMAX else HEAD_FORMAT,
        "name": name,
        "version": version,
        "architecture": architecture,
        "variant": variant,
        "input_shape": input_shape,
        "classes": len(labels),
        "labels": LABELS,
        "recipe": recipe.to_dict(),
        "temperature": temperature,
        "weights": weights,
        "weights_digest": digests.digest(folder / weights),
        "metrics": dict(metrics),
        **({"options": dict(options)} if options else {}),
        **({"novelty": novelty.to_dict()} if novelty else {}),
        **({"drift": drift.to_dict()} if drift else {}),
        **({"head": head.to_dict()} if head != SOFTMAX else {}),
    }
    whole_files.write_text(folder / LABELS, "".join(f"{line_of(label)}\n" for label in labels))
    whole_files.write_text(folder / DESCRIPTION, json.dumps(values, indent=2) + "\n")
    return read(folder)


def check(name: str, version: str, labels: Sequence[ClassLabel]) -> None:
    """Check what a bundle is about to be written with; training does so before its first epoch.

    Raises:
        BundleError: the name, the version or a label is not valid in a bundle.
    """
    try:
        _check_names({"name": name, "version": version})
    except ValueError as error:
        raise BundleError(f"The bundle's {error}") from None
    check_labels(labels)


def _check_names(values: Mapping[str, Any]) -> None:
    for field in ("name", "version"):
        if not (isinstance(values[field], str) and len(values[field]) <= 200 and _NAME.fullmatch(values[field])):
            raise ValueError(
                f"{field} must be 1 to 200 letters, digits, '.', '_' and '-', and begin with a letter or digit. "
                f"Received: {shown(values[field])}"
            )


def embedded(architecture: str) -> tuple[str, ...]:
    """Tags of the bundles of an architecture that are part of the package, sorted."""
    prefix = f"{architecture}_"
    return tuple(sorted(p.parent.name.removeprefix(prefix) for p in EMBEDDED.glob(f"{prefix}*/{DESCRIPTION}")))


def _from_dict(folder: Path, values: dict[str, Any]) -> Bundle:
    _check_names(values)
    shape = values["input_shape"]
    if not (isinstance(shape, list) and len(shape) == 3 and all(type(n) is int and n > 0 for n in shape)):
        raise ValueError(
            f"input_shape must be three positive sizes (height, width, channels). Received: {shown(shape)}"
        )
    recipe = Recipe.from_dict(_of_type(values, "recipe", dict))
    if recipe.shape != tuple(shape):
        raise ValueError(
            f"input_shape must be the size that the recipe produces, {'x'.join(map(str, recipe.shape))}. "
            f"Received: {shown(shape)}"
        )
    temperature = _number(values["temperature"], "temperature")
    if temperature <= 0:
        raise ValueError(f"temperature must be positive. Received: {shown(values['temperature'])}")
    options = _of_type(values, "options", dict) if "options" in values else {}
    architecture, variant = _of_type(values, "architecture", str), _of_type(values, "variant", str)
    try:
        if architecture:
            find(architecture, variant, options)
    except UnknownArchitectureError as error:
        raise ValueError(f"{error} The bundle may need a newer version of Glimpse.") from error
    weights = _of_type(values, "weights", str)
    for name in (weights, *(weights + ending for ending in EXTERNAL_DATA_SUFFIXES)):
        _check_is_file(bounded_files.inside(folder, name), name)
    golden = values.get("golden") or ""
    if golden:
        bounded_files.inside(folder, golden)
    labels = read_labels(bounded_files.inside(folder, values["labels"]), name=folder / values["labels"])
    classes = values["classes"]
    # Before what names classes: groups and the reference for drift.
    if len(labels) != classes or type(classes) is not int:
        raise BundleError(
            f"{folder / values['labels']} must name the {shown(classes)} classes of {DESCRIPTION}. "
            f"Received: {len(labels)} lines"
        )
    head = Head.from_dict(_of_type(values, "head", dict), classes) if "head" in values else SOFTMAX
    if not head.exclusive and (stray := [key for key in ("novelty", "drift") if key in values]):
        raise ValueError(f"{stray[0]} follows from probabilities that add up to 1, and a {head.kind} model has none")
    return Bundle(
        folder=folder,
        name=values["name"],
        version=values["version"],
        architecture=architecture,
        variant=variant,
        options=options,
        input_shape=(shape[0], shape[1], shape[2]),
        labels=labels,
        groups=groups_of(folder, labels),
        recipe=recipe,
        temperature=temperature,
        weights_file=weights,
        weights_digest=_of_type(values, "weights_digest", str),
        metrics={k: _number(v, f"the metric {shown(k)}") for k, v in _of_type(values, "metrics", dict).items()},
        golden=golden,
        novelty=NoveltyThreshold.from_dict(_of_type(values, "novelty", dict)) if "novelty" in values else None,
        drift=Reference.from_dict(_of_type(values, "drift", dict), values["classes"]) if "drift" in values else None,
        head=head,
    )


def _of_type(values: Mapping[str, Any], field: str, kind: type) -> Any:
    """The value of a field, once it is known to be of that type."""
    if not isinstance(value := values[field], kind):
        raise TypeError(f"{field} must be {'a string' if kind is str else 'an object'}. Received: {shown(value)}")
    return value


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{what} must be a number. Received: {shown(value)}")
    return float(value)


def _check_is_file(path: Path, name: str) -> None:
    """Refuse a folder, a device or a pipe. A file that does not exist is reported by whoever opens it."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise ValueError(f"{name} of a bundle must be a regular file, not a folder, a device or a pipe")


def _description(folder: Path) -> str:
    path = folder / DESCRIPTION
    try:
        return bounded_files.read_text(bounded_files.inside(folder, DESCRIPTION), bounded_files.DESCRIPTION_BYTES)
    except OSError as error:
        inner = folder / "bundle"  # where a training puts it
        hint = f" Did you mean {inner}?" if (inner / DESCRIPTION).is_file() else ""
        raise BundleError(
            f"{path} cannot be read: {error.strerror or error}. A bundle needs {DESCRIPTION} and {LABELS}.{hint}"
        ) from error
    except ValueError as error:
        raise BundleError(f"{path} cannot be read: {error}.") from error
