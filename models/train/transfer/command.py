"""What `python -m glimpse.models.train --from BASE` does: check, read, compute features, train, thaw, export."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from glimpse.models import bundle, quiet
from glimpse.models.plain import plain
from glimpse.models.prestem.recipe import Recipe
from glimpse.models.train.checks import (
    check_classes,
    check_hold_out,
    check_paths,
    check_stop_after,
    report_new_classes,
    report_omissions,
    report_unlabelled,
)
from glimpse.models.train.multi_label.tables import Tables, tables_of
from glimpse.models.train.plan import check_kind, check_writable, claim, exclusive
from glimpse.models.train.transfer.base import Base, BaseError, find_base
from glimpse.models.train.transfer.options import plan_of, reproducing
from glimpse.models.train.transfer.plan import HEAD_CHECKPOINT, MAY_CHANGE, THAW, TransferRun, batch_size

if TYPE_CHECKING:
    from glimpse.models.train.data import LabelledImages
    from glimpse.models.train.transfer.fit import Split
    from glimpse.models.train.transfer.network import Network
    from glimpse.models.train.transfer.phase import Outcome

_HELD_OUT = (10, 2500)  # one of so many images, at most so many
_RECIPE = ("geometry", "crop_share", "filter")
_OF_THE_WEIGHTS = ("channels", "padding")  # for others, the first layers would have to be trained again


def run(options: argparse.Namespace, given: Collection[str]) -> None:
    """Run the command.

    Args:
        options: of the command.
        given: the names of those that were given; the others have defaults of another training.

    Raises:
        ValueError: the base, the images or an option cannot be used.
        OSError: a file cannot be read or written.
    """
    base = find_base(options.base, options.architecture or "", options.variant, dict(options.options or ()))
    plan = plan_of(options, given, base)
    if not base.architecture and options.weights_dtype != "float32":
        raise BaseError(
            f"--weights-dtype {options.weights_dtype} has no effect on a whole Keras model, which is saved as it is. "
            "Leave it out."
        )
    out: Path = options.out or Path("runs") / (base.architecture or Path(base.name).stem)
    check_hold_out(options.hold_out)
    check_stop_after(options.stop_after)
    name = options.name or out.resolve().name
    # What the export would refuse has to be refused before any work.
    bundle.check(name, options.bundle_version, ())
    check_writable(out)
    check_kind(out, transfer=True)
    check_paths(options.data, options.test, options.samples)
    tables = tables_of(options)
    recipe = _recipe(base, options, given)
    for note in filter(None, (base.note, _differing(base, recipe))):
        print(plain(note), file=sys.stderr)

    # Only now: Keras takes seconds to load, and a wrong option should say so at once.
    quiet.load_keras()
    from glimpse.models.train.export import DataSplits, Metadata, told
    from glimpse.models.train.transfer import export, fit, network

    head, thawed = fit.head_phase(plan, out, 1), fit.thawed_phase(plan, out, 1)
    if options.export_only and not head.begun:
        raise ValueError(f"{out} has no training to export. Train first, or give another --out.")
    old = network.load(base, recipe)
    network.check(old, base, plan.thaw)
    images, parts = _images(options, recipe, tables, plan.seed)
    if "batch_size" not in given:
        plan = dataclasses.replace(plan, batch_size=batch_size(len(parts.training)))
    recipe = _measured(recipe, base, images, parts, given)
    test = _test_images(options, recipe, tables, images)
    print(
        plain(
            f"{len(parts.training):,} training, {len(parts.held_out):,} held-out and {len(test) if test else 0:,} test "
            f"images of {len(images.labels)} classes, {recipe.height} x {recipe.width} pixels; base {base.name}"
        )
    )
    known = _known_tests(options, images, parts, test)
    new = network.with_new_head(base, old, len(images.labels), recipe, plan.seed)
    made = TransferRun(
        plan=plan,
        recipe=recipe,
        images=len(images),
        hold_out=len(parts.held_out),
        labels=images.labels,
        contents=images.contents,
    )
    with exclusive(out):
        changeable = MAY_CHANGE if thawed.begun else MAY_CHANGE | {THAW}
        claim(out, made, checkpoint=HEAD_CHECKPOINT, may_change=changeable)
        stop_after = 0 if options.export_only else options.stop_after
        outcome = _train(made, new, images, parts, out=out, stop_after=stop_after)
        metadata = Metadata(
            name=name,
            version=options.bundle_version,
            data=options.data_name or options.data.stem,
            note=options.data_note,
            training_note=options.training_note,
            dtype=options.weights_dtype,
            command=reproducing(options, given),
            test=str(options.test or ""),
            pictures=not options.without_pictures,
        )
        splits = DataSplits(
            training=images.select(parts.training[:0]),
            held_out=images.select(parts.held_out),
            test=test,
            left_out=images.left_out,
            known_tests=known,
        )
        written, measurement = export.export(new, made, base, outcome, splits=splits, metadata=metadata, folder=out)
    print(told(written, measurement, test))


def _images(
    options: argparse.Namespace, recipe: Recipe, tables: Tables | None, seed: int
) -> tuple[LabelledImages, Split]:
    """All images, and which of them train and which are held out."""
    from glimpse.models.train import data
    from glimpse.models.train.multi_label import data as labelled
    from glimpse.models.train.transfer import fit
    from glimpse.models.train.transfer.split import split

    skip = options.skip_unreadable
    if tables is not None:
        images = labelled.read(options.data, tables.training, recipe, skip_unreadable=skip)
        report_omissions(options.data, images)
        return images, fit.Split(*labelled.hold_out_places(images, options.hold_out, seed))
    images = data.read(options.data, recipe, skip_unreadable=skip, besides=options.samples)
    report_omissions(options.data, images)
    report_unlabelled(options.data, options.samples)
    report_new_classes(options.data, options.samples)
    check_classes(options.data, images.labels)
    return images, split(images.classes, images.labels, _held_out(options, images), seed)


def _test_images(
    options: argparse.Namespace, recipe: Recipe, tables: Tables | None, images: LabelledImages
) -> LabelledImages | None:
    """The test images, with the labels of `images`; None: none were given."""
    from glimpse.models.train import data
    from glimpse.models.train.multi_label import data as labelled

    if not options.test:
        return None
    skip = options.skip_unreadable
    if tables is not None and tables.test is not None:
        test = labelled.read(options.test, tables.test, recipe, skip_unreadable=skip)
    else:
        test = data.read(options.test, recipe, images.labels, skip_unreadable=skip)
    report_omissions(options.test, test)
    return test


def _known_tests(options: argparse.Namespace, images: LabelledImages, parts: Split, test: LabelledImages | None) -> int:
    """How many of the test images are trained on, once it has been said which images are there more than once."""
    from glimpse.models.train import repeated

    training, held_out = repeated.seen(images, parts.training), repeated.seen(images, parts.held_out)
    return repeated.report(options.data, options.test, training, held_out, repeated.seen(test) if test else ())


def _train(
    made: TransferRun, new: Network, images: LabelledImages, parts: Split, *, out: Path, stop_after: int | None
) -> tuple[Outcome, Outcome | None]:
    """Both phases, as far as they are to go; the second one is None where nothing is thawed yet."""
    from glimpse.models.train.transfer import export, features, fit

    plan, recipe = made.plan, made.recipe
    computed = partial(features.of_run, new, images.pixels, recipe, out, parts=features.parts_of(plan))
    # A head that has been trained further would not be the one that the thawed stages were trained with.
    begun = fit.thawed_phase(plan, out, len(parts.training)).begun
    head = fit.train_head(
        plan, new, computed, images=images, split=parts, folder=out, stop_after=0 if begun else stop_after
    )
    if not plan.thaw or not (head.ended or begun):
        return head, None
    left = None if stop_after is None else stop_after - head.trained
    thawed = fit.train_thawed(plan, new, recipe, images=images, split=parts, folder=out, stop_after=left)
    if note := export.rejected((head, thawed)):
        print(note)
    return head, thawed


def _recipe(base: Base, options: argparse.Namespace, given: Collection[str]) -> Recipe:
    """The base's recipe, with what the command says in place of its values.

    Raises:
        BaseError: nobody states how images were prepared for these weights, or an option contradicts what is stated.
    """
    for name in _OF_THE_WEIGHTS:
        if base.recipe is not None and name in given:
            raise BaseError(
                f"--{name} has no effect with --from {base.name}, whose weights were trained with channels "
                f"{base.recipe.channels} and padding {base.recipe.padding}. Leave it out."
            )
    changes = {name: getattr(options, name) for name in (*_RECIPE, "mean", "std") if name in given}
    changes |= {name: tuple(changes[name]) for name in ("mean", "std") if name in changes}
    if "size" in given:
        changes["height"], changes["width"] = options.size
    if base.recipe is not None:
        return dataclasses.replace(base.recipe, **changes)
    if "channels" in given:
        changes["channels"] = "GRAY" if options.channels == 1 else "RGB"
    if "padding" in given:
        changes["padding"] = options.padding
    if base.seed is None and not {"mean", "std"} <= changes.keys():
        raise BaseError(
            f"It is not known how images were prepared for {base.name}: there is no recipe.toml beside it. Write one, "
            "or give --mean, --std and --size."
        )
    if base.row is not None:
        height, width, depth = base.row.shape
        channels = "GRAY" if depth == 1 else "RGB"
        own = {"height": height, "width": width, "channels": channels, "padding": base.row.padding}
        changes = {**own, "smaller": "resize", **changes}
    elif "size" not in given:
        raise BaseError(f"Which size of images does {base.name} take? Give --size, or write a recipe.toml beside it.")
    return Recipe(**changes)


def _differing(base: Base, recipe: Recipe) -> str:
    """What to say where images are prepared in another way than for the base; empty where they are not."""
    if base.recipe is None:
        return ""
    changed = [
        f"{name} {_shown(getattr(recipe, name))} (the base's: {_shown(own)})"
        for name in ("height", "width", *_RECIPE, "mean", "std")
        if (own := getattr(base.recipe, name)) != getattr(recipe, name)
    ]
    return f"The preprocessing is the base's, except {', '.join(changed)}." if changed else ""


def _shown(value: object) -> str:
    return " ".join(f"{each:g}" for each in value) if isinstance(value, tuple) else f"{value}"


def _measured(recipe: Recipe, base: Base, images: LabelledImages, parts: Split, given: Collection[str]) -> Recipe:
    """The recipe; for random weights with the scaling of the training images, where none was given."""
    if base.seed is None or {"mean", "std"} <= set(given):
        return recipe
    from glimpse.models.train import data

    mean, std = data.statistics(images.select(parts.training), needs_std="std" not in given)
    return dataclasses.replace(
        recipe, mean=recipe.mean if "mean" in given else mean, std=recipe.std if "std" in given else std
    )


def _held_out(options: argparse.Namespace, images: LabelledImages) -> int:
    if options.hold_out is not None:
        return int(options.hold_out)
    share, most = _HELD_OUT
    return max(len(images.labels), min(most, math.ceil(len(images) / share)))
