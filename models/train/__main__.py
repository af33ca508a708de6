"""`python -m glimpse.models.train`: from labelled images to a bundle that the server loads."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from glimpse.models import bundle, quiet, standard
from glimpse.models.catalogue import find
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
from glimpse.models.train.options import MAX_HELD_OUT, parser, plan_of, recipe_of, reproducing, scaled
from glimpse.models.train.plan import CHECKPOINT, HoldOut, Run, check_kind, check_writable, claim, earlier, exclusive
from glimpse.models.train.transfer import command as transfer_command
from glimpse.models.train.transfer import options as transfer_options

if TYPE_CHECKING:
    from glimpse.models.train.data import LabelledImages
    from glimpse.models.train.export import DataSplits


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit code: 0; 1 where the images, an option or the output folder cannot be used; 130 when interrupted.
    """
    options = parser().parse_args(arguments)
    try:
        if options.base is not None:
            transfer_command.run(options, transfer_options.given(parser(), arguments))
        else:
            transfer_options.check_without(options)
            _run(options)
    except (ValueError, OSError) as error:
        print(f"glimpse.models.train: {error}", file=sys.stderr)
        return 1
    except MemoryError:
        print(
            "glimpse.models.train: there is not enough memory. Give a smaller --size or --batch-size.", file=sys.stderr
        )
        return 1
    except KeyboardInterrupt:
        print(
            "\nglimpse.models.train: interrupted. Run the same command to resume after the last completed epoch.",
            file=sys.stderr,
        )
        return standard.INTERRUPTED
    return 0


def _run(options: argparse.Namespace) -> None:
    plan = plan_of(options)
    out: Path = options.out or Path("runs") / plan.architecture
    begun = earlier(out, checkpoint=CHECKPOINT)
    recipe = recipe_of(options, find(plan.architecture, plan.variant, plan.options), begun)
    check_hold_out(options.hold_out)
    check_stop_after(options.stop_after)

    name = options.name or out.resolve().name
    # What the export would refuse has to be refused before hours of training.
    bundle.check(name, options.bundle_version, ())
    check_writable(out)
    check_kind(out, transfer=False)
    check_paths(options.data, options.test, options.samples)
    tables = tables_of(options)

    # Only now: Keras takes seconds to load, and a wrong option should say so at once.
    quiet.load_keras()
    from glimpse.models.train import fit

    if options.export_only and not (out / CHECKPOINT).exists():
        raise ValueError(f"{out} has no {CHECKPOINT} to export. Train first, or give another --out.")
    # A run goes on with the images that it began with.
    rule: HoldOut = begun.get("hold_out_rule", "equal") if begun else "share"
    recipe, splits = _read(options, recipe, rule) if tables is None else _read_labels(options, recipe, tables)
    plan = plan_of(options, images=len(splits.training), begun=begun)
    print(
        f"{plan.total_epochs} epochs in batches of {plan.batch_size}, optimizer {plan.optimizer}, "
        f"learning rate {plan.learning_rate:g}"
    )
    run = Run(
        plan=plan,
        recipe=recipe,
        images=len(splits.training) + len(splits.held_out),
        hold_out=len(splits.held_out),
        labels=splits.training.labels,
        hold_out_rule=rule,
        contents=splits.contents,
    )
    with exclusive(out):
        claim(out, run, checkpoint=CHECKPOINT, adopt=options.export_only)
        if options.export_only:
            model = fit.restored(plan, recipe, splits.training, out)
        else:
            model = fit.train(plan, recipe, splits.training, splits.held_out, out, stop_after=options.stop_after)

        from glimpse.models.train.export import Metadata, export, told

        metadata = Metadata(
            name=name,
            version=options.bundle_version,
            data=options.data_name or options.data.stem,
            note=options.data_note,
            training_note=options.training_note,
            dtype=options.weights_dtype,
            command=reproducing(options),
            test=str(options.test or ""),
            pictures=not options.without_pictures,
        )
        made, measurement = export(model, run, splits, metadata, out)
    print(told(made, measurement, splits.test))


def _read(options: argparse.Namespace, recipe: Recipe, rule: HoldOut) -> tuple[Recipe, DataSplits]:
    """The labelled images, and the recipe with the scaling that was given or else measured on the training images."""
    from glimpse.models.train import data

    everything = data.read(options.data, recipe, skip_unreadable=options.skip_unreadable, besides=options.samples)
    report_omissions(options.data, everything)
    report_unlabelled(options.data, options.samples)
    report_new_classes(options.data, options.samples)
    check_classes(options.data, everything.labels)
    count = min(MAX_HELD_OUT, math.ceil(len(everything) / 20)) if options.hold_out is None else options.hold_out
    training, held_out = data.hold_out(everything, count, options.seed, rule)
    for label, count in zip(training.labels, data.per_class(training), strict=True):
        if not count:
            raise ValueError(
                f"All images of the class {label!r} would be held out. Add images to that class, or give a smaller "
                "--hold-out."
            )
    if options.mean is None or options.std is None:
        mean, std = data.statistics(training, needs_std=options.std is None)
        recipe = scaled(recipe, options.mean or mean, options.std or std)
    test = None
    if options.test:
        test = data.read(options.test, recipe, training.labels, skip_unreadable=options.skip_unreadable)
        report_omissions(options.test, test)
    print(
        f"{len(training)} training, {len(held_out)} held-out and {len(test) if test else 0} test images "
        f"of {len(training.labels)} classes; mean {recipe.mean}, std {recipe.std}"
    )
    return recipe, _splits(options, everything, training, held_out, test)


def _read_labels(options: argparse.Namespace, recipe: Recipe, tables: Tables) -> tuple[Recipe, DataSplits]:
    """The images of a table of labels, and the recipe as `_read` has it."""
    from glimpse.models.train import data
    from glimpse.models.train.multi_label.data import hold_out_places, read

    everything = read(options.data, tables.training, recipe, skip_unreadable=options.skip_unreadable)
    report_omissions(options.data, everything)
    training, held_out = map(everything.select, hold_out_places(everything, options.hold_out, options.seed))
    if options.mean is None or options.std is None:
        mean, std = data.statistics(training, needs_std=options.std is None)
        recipe = scaled(recipe, options.mean or mean, options.std or std)
    test = None
    if tables.test is not None:
        test = read(options.test, tables.test, recipe, skip_unreadable=options.skip_unreadable)
        report_omissions(options.test, test)
    unlabelled = int((everything.classes.sum(axis=1) == 0).sum())
    print(
        f"{len(training)} training, {len(held_out)} held-out and {len(test) if test else 0} test images, "
        f"{len(training.labels)} labels, {unlabelled} images without any; mean {recipe.mean}, std {recipe.std}"
    )
    return recipe, _splits(options, everything, training, held_out, test)


def _splits(
    options: argparse.Namespace,
    everything: LabelledImages,
    training: LabelledImages,
    held_out: LabelledImages,
    test: LabelledImages | None,
) -> DataSplits:
    """The images of a run, once it has been said which of them are there more than once."""
    from glimpse.models.train import repeated
    from glimpse.models.train.export import DataSplits

    tested = repeated.seen(test) if test else ()
    known = repeated.report(options.data, options.test, repeated.seen(training), repeated.seen(held_out), tested)
    return DataSplits(
        training=training,
        held_out=held_out,
        test=test,
        left_out=everything.left_out,
        known_tests=known,
        contents=everything.contents,
    )


if __name__ == "__main__":
    standard.run("glimpse.models.train", main, bars=True)
