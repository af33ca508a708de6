"""`python -m glimpse.models`: what is in the library, and a look inside."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from glimpse.models import standard
from glimpse.models.catalogue import find
from glimpse.models.catalogue import rows as library
from glimpse.models.plain import sequences

if TYPE_CHECKING:
    from glimpse.models.builder import Assembly


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit code: 0, or 1 when the request cannot be met.
    """
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, OSError) as error:
        print(f"models: {error}", file=sys.stderr)
        return 1
    return 0


def _list(_: argparse.Namespace) -> None:
    from glimpse.models import published

    table = _table("architecture", "variant", "input", "weights", "top-1", "top-5")
    for row in library():
        head = row.name, row.variant, " x ".join(map(str, row.input_shape))
        known = published.tags(row.name, row.variant)
        for tag in known:
            checkpoint = published.find(row.name, row.variant, tag)
            table.add_row(*head, tag, _percent(checkpoint.top1), _percent(checkpoint.top5))
        if not known:
            table.add_row(*head)
    Console(file=sequences(sys.stdout)).print(table)


def _describe(options: argparse.Namespace) -> None:
    from glimpse.models.builder import assemble, trainable_parameters

    row = find(options.name, options.variant, dict(options.option or ()))
    assembly = assemble(row, classes=options.classes)
    console = Console(file=sequences(sys.stdout))
    console.print(f"[bold]{row.name}[/bold] ({row.variant}) {row.paper}", highlight=False)
    console.print(_stages(assembly))
    console.print(f"{trainable_parameters(assembly.model):,} of the parameters are trainable.", highlight=False)
    if options.svg:
        from glimpse.models.drawing import draw

        drawing = draw(f"{row.name} ({row.variant})", row.paper, tuple(assembly.model.input_shape[1:]), assembly.stages)
        options.svg.write_text(drawing, encoding="utf-8")
        print(f"Drawn in {options.svg}.")


def _golden(options: argparse.Namespace) -> None:
    # The reference that other runtimes and precisions are compared with.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras
    import tensorflow as tf

    from glimpse.models import bundle as bundles
    from glimpse.models import golden
    from glimpse.models.serving import load_bundle, serving_model

    bundle = bundles.read(options.bundle)
    network = serving_model(load_bundle(bundle), bundle.recipe, bundle.temperature)
    chosen = [golden.Picture(path.name, path.read_bytes(), options.source) for path in options.picture or ()]
    recorded = golden.record(
        bundle,
        lambda pixels: network(pixels, training=False),
        chosen or golden.pictures(bundle.folder),
        by=f"Keras {keras.__version__} on TensorFlow {tf.__version__} in float32",
    )
    for each in golden.read(recorded):
        first = int(each.probabilities.argmax())
        print(f"{each.picture.name}: {bundle.labels[first].label} {each.probabilities[first]:.4f}")


def _stages(assembly: Assembly) -> Table:
    stages = assembly.stages
    table = _table("stage", "block", "repeats", "output", "parameters", "multiply-adds", footer=True)
    for stage in stages:
        table.add_row(
            stage.name,
            stage.block,
            str(stage.repeats),
            " x ".join(map(str, stage.output_shape)),
            f"{stage.parameters:,}",
            f"{stage.multiply_adds:,}",
        )
    table.columns[0].footer = "total"
    table.columns[4].footer = f"{sum(stage.parameters for stage in stages):,}"
    table.columns[5].footer = f"{sum(stage.multiply_adds for stage in stages):,}"
    return table


def _table(*columns: str, footer: bool = False) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", footer_style="bold", show_footer=footer)
    for column in columns:
        numeric = column in {"repeats", "parameters", "multiply-adds", "top-1", "top-5"}
        # What a narrow terminal folds; names and numbers stay whole.
        folds = column in {"weights", "block"}
        table.add_column(
            column, justify="right" if numeric else "left", no_wrap=not folds, overflow="fold" if folds else "ellipsis"
        )
    return table


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}%"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m glimpse.models", description="What is in the library, and a look inside."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="every architecture, its variants and published weights")
    listing.set_defaults(run=_list)

    describe = commands.add_parser("describe", help="the stages of a network, as a table and as a drawing")
    describe.add_argument("name", help="an architecture: python -m glimpse.models list")
    describe.add_argument("--variant", help="which form of it (default: the first)")
    describe.add_argument("--classes", type=int, help="number of classes (default: the variant's own)")
    describe.add_argument(
        "--option",
        action="append",
        type=_option,
        metavar="NAME=VALUE",
        help="of the variant, for example alpha=0.5; may be given again",
    )
    describe.add_argument("--svg", type=Path, metavar="FILE", help="draw it into this file as well")
    describe.set_defaults(run=_describe)

    golden = commands.add_parser("golden", help="record the answers that a server must give before it serves a bundle")
    golden.add_argument("bundle", type=Path, help="the bundle's folder")
    golden.add_argument(
        "--picture",
        action="append",
        type=Path,
        metavar="FILE",
        help="to be answered, small; may be given again (default: the bundle's own, or those of the shipped bundle)",
    )
    golden.add_argument("--source", default="", metavar="TEXT", help="where the pictures come from, for people")
    golden.set_defaults(run=_golden)
    return parser


def _option(text: str) -> tuple[str, Any]:
    """``alpha=0.5`` -> ("alpha", 0.5): true and false, numbers, none, and text for all else."""
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    words: dict[str, Any] = {"true": True, "false": False, "none": None}
    if value.lower() in words:
        return name, words[value.lower()]
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value


if __name__ == "__main__":
    standard.run("models", main)
