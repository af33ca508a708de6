"""The plan of a training run: all values that determine its result, kept beside its checkpoint."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import FileLock, Timeout

from glimpse.models.files import whole_files
from glimpse.models.prestem.recipe import Recipe
from glimpse.models.train.transfer.plan import HEAD_CHECKPOINT, TransferRun, check_numbers

PLAN = "plan.json"
LOCK = "run.lock"
CHECKPOINT = "checkpoint.weights.h5"  # of a run from scratch
_BUNDLE = "bundle"
_CONTENTS = "contents"


Optimizer = Literal["sgd", "adam"]
HoldOut = Literal["equal", "share"]
TrainedHead = Literal["softmax", "multi-label"]

# These may be changed when a run is resumed: they affect only the epochs to come.
_MAY_CHANGE = frozenset(
    f"plan.{name}"
    for name in ("epochs", "learning_rate", "restart_epochs", "restart_learning_rate", "cutout", "cutout_from")
)


class PlanError(ValueError):
    """The folder of the run cannot be used; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All values that determine the result of a training run, except the images.

    The defaults here are also what the plan of an older run means by values that it does not have. Those of the
    command may depend on the architecture and on the number of images, see `models.train.defaults`.
    """

    architecture: str
    variant: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)  # of the architecture, in place of the variant's values
    epochs: int = 40
    batch_size: int = 128
    optimizer: Optimizer = "sgd"
    learning_rate: float = 0.2  # peak, after the warm-up
    warmup_epochs: float = 2.0
    restart_epochs: int = 0  # more epochs, from a warm restart (Loshchilov and Hutter, arXiv:1608.03983)
    restart_learning_rate: float = 0.1  # at the restart; falls to 0 again
    cutout: float = 0.0  # side of the square that is blanked, as a share of the image's (arXiv:1708.04552); 0: none
    cutout_from: int = 0  # epochs before the first with cutout
    cutmix: float = 0.0  # share of the batches whose images get a rectangle of another one (arXiv:1905.04899)
    label_smoothing: float = 0.0  # share of every target that goes to all classes alike (arXiv:1512.00567, section 7)
    momentum: float = 0.9  # Nesterov momentum of SGD; of Adam, the decay of the mean of gradients (beta_1)
    # Decoupled: applied with the learning rate but outside the momentum, so it is 1 / (1 - momentum) times
    # the papers' coupled 5e-4.
    weight_decay: float = 5e-3
    precision: str = "float32"  # Keras dtype policy of the training graph; weights are float32 in any case
    seed: int = 20
    head: TrainedHead = "softmax"  # what the scores mean; that of a CSV of labels is multi-label

    def __post_init__(self) -> None:
        if self.optimizer not in get_args(Optimizer):
            raise ValueError(f"optimizer must be one of {', '.join(get_args(Optimizer))}. Received: {self.optimizer}")
        check_numbers(self, "learning_rate", "restart_learning_rate", "warmup_epochs", "weight_decay")
        for name in ("epochs", "batch_size", "learning_rate", "restart_learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be greater than 0. Received: {getattr(self, name)}")
        for name in ("warmup_epochs", "restart_epochs", "cutout_from", "weight_decay", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0. Received: {getattr(self, name)}")
        for name in ("cutout", "cutmix", "label_smoothing", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and less than 1. Received: {getattr(self, name)}")

        if self.cutmix and self.head != "softmax":
            raise ValueError("cutmix is for classes that exclude each other, not for a table of labels. Leave it 0.")

    @property
    def total_epochs(self) -> int:
        """Epochs until the end, those after the restart included."""
        return self.epochs + self.restart_epochs


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A plan together with the images that it is for."""

    plan: Plan
    recipe: Recipe
    images: int  # all of them, the held-out ones included
    hold_out: int  # how many of them are kept out of the training
    labels: tuple[str, ...]
    hold_out_rule: HoldOut = "equal"  # of each class as many images, as in older runs, or the same share of them
    contents: str = ""  # a digest of the images, see `models.train.contents`; empty: not known

    def to_dict(self) -> dict[str, Any]:
        """The run as JSON gives it back: lists for tuples."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        if self.hold_out_rule == "equal":
            del values["hold_out_rule"]  # it came later, too
        if self.recipe.padding == "fill":
            del values["recipe"]["padding"]  # it came later, and runs of before are to be resumed
        if not self.contents:
            del values["contents"]
        return values


def check_writable(folder: Path) -> None:
    """Check that a run can write into its folder, before hours of training.

    Raises:
        PlanError: the folder cannot be created, or it or its bundle folder cannot be written to.
    """
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    for each in (place, folder / _BUNDLE):
        if not each.exists():
            continue
        if not each.is_dir():
            raise PlanError(f"{each} is not a folder, so {folder} cannot be written to. Give another --out.")
        if not os.access(each, os.W_OK | os.X_OK):
            raise PlanError(f"{each} cannot be written to: permission denied. Give another --out.")


def check_kind(folder: Path, *, transfer: bool) -> None:
    """Refuse a folder that holds a run of the other kind, before anything is written there.

    As `claim` does, it lets a run be replaced that has written neither a checkpoint nor a bundle.

    Args:
        folder: of the run that is about to begin or to be resumed.
        transfer: whether that is a transfer, not a run from scratch.

    Raises:
        PlanError: the folder holds the other.
    """
    theirs = CHECKPOINT if transfer else HEAD_CHECKPOINT
    found = (folder / theirs).exists()
    if not found and (folder / _BUNDLE).exists():
        # The plan of a transfer names its base; one that cannot be read is refused by `claim`.
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            found = ("base" in json.loads((folder / PLAN).read_text(encoding="utf-8")).get("plan", {})) != transfer
    if found:
        kind, other = ("from scratch", "a transfer") if transfer else ("with --from", "a run from scratch")
        raise PlanError(f"{folder} holds a run {kind}, and this is {other}. Give another --out.")


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Lock the folder of a run for this process; it is created where it does not exist.

    Raises:
        PlanError: another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise PlanError(
            f"Another training is running in {folder}. Wait until it ends, or give another --out."
        ) from None
    try:
        yield
    finally:
        lock.release()


def claim(
    folder: Path,
    run: Run | TransferRun,
    *,
    checkpoint: str,
    adopt: bool = False,
    may_change: Collection[str] = _MAY_CHANGE,
) -> None:
    """Write the plan of a run into its folder, after checking it against a plan that is already there.

    The plans may differ in the values that can be changed on resuming, or in any value as long as the earlier run has
    written neither a checkpoint nor a bundle.

    Args:
        folder: of the run; created where it does not exist.
        run: the run that is about to begin or to be resumed.
        checkpoint: name of the checkpoint file.
        adopt: accept a checkpoint that has no plan beside it as one of this run.
        may_change: names of values in which the plans may differ.

    Raises:
        PlanError: the folder belongs to another run; the message names the values that differ.
    """
    path = folder / PLAN
    new = run.to_dict()
    if path.exists():
        try:
            old = json.loads(path.read_text(encoding="utf-8"))
            old = _completed(old) if isinstance(run, Run) else old
            differing = {
                name: (before, after)
                for name, (before, after) in _pairs(old, new).items()
                if before != after and name not in may_change
            }
        except (json.JSONDecodeError, TypeError, AttributeError) as error:
            raise PlanError(f"{path} is not the plan of a run: {error}. Give another --out.") from error
        # A run that has written neither, for example because its network could not be built, may be replaced.
        if differing and any((folder / kept).exists() for kept in (checkpoint, _BUNDLE)):
            _check_same(folder, differing)
    elif (folder / checkpoint).exists() and not adopt:
        raise PlanError(
            f"{folder} has a checkpoint but no {PLAN}, so it is not known what was trained. Give another --out."
        )
    folder.mkdir(parents=True, exist_ok=True)
    whole_files.write_text(path, json.dumps(new, indent=2) + "\n")


def _check_same(folder: Path, differing: Mapping[str, tuple[Any, Any]]) -> None:
    """Refuse a folder for the values in which two plans differ: what it was, and what it is now.

    Raises:
        PlanError: unless that is only the digest of images that the earlier run has not kept.
    """
    stated = [
        f"{name} was {before!r}, now {after!r}" for name, (before, after) in differing.items() if name != _CONTENTS
    ]
    before, _ = differing.get(_CONTENTS, (None, None))  # it came later, and runs of before are to be resumed
    # Of other images the scaling is another one, too, unless it is given: what is to be said is why.
    if before is not None and not differing.keys() & {"images", "labels"}:
        raise PlanError(
            f"{folder} holds a run that was begun with other images. There are as many now, but some have been changed "
            "or replaced, show another class or other labels, or come in another order, because they have been "
            "renamed. Put the earlier ones back, or give another --out."
        )
    if stated:
        raise PlanError(f"{folder} holds a run with another plan: {'; '.join(stated)}. Give another --out.")


def earlier(folder: Path, *, checkpoint: str) -> dict[str, Any]:
    """The run that was begun in a folder and would be resumed, as `Run.to_dict` gives it; empty where there is none.

    Values that it lacks because it is older than they are have their defaults in `plan`, and are not there elsewhere. A
    plan that cannot be read counts as none: `claim` says what is wrong with it.
    """
    if not (folder / checkpoint).exists():
        return {}
    try:
        run: dict[str, Any] = _completed(json.loads((folder / PLAN).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return {}
    return run if isinstance(run.get("recipe"), dict) else {}


def _completed(run: dict[str, Any]) -> dict[str, Any]:
    """A run as `Run.to_dict` gives it now, with the values that its plan lacks because it is older than they are."""
    plan, recipe = run.get("plan", {}), run.get("recipe")
    if isinstance(recipe, dict) and recipe.get("padding") == "fill":
        run = {**run, "recipe": {name: value for name, value in recipe.items() if name != "padding"}}
    return {**run, "plan": {**asdict(Plan(architecture=plan.get("architecture", ""))), **plan}}


def _pairs(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    pairs: dict[str, tuple[Any, Any]] = {}
    for key in {**old, **new}:
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            pairs |= _pairs(before, after, f"{prefix}{key}.")
        else:
            pairs[prefix + key] = before, after
    return pairs
