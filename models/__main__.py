"""`python -m glimpse.models`: what is in the library, a look inside, and its published weights."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from glimpse.models import published, standard
from glimpse.models.catalogue import find
from glimpse.models.catalogue import rows as library
from glimpse.models.plain import sequences
from glimpse.models.sizes import size
from glimpse.models.spec import Architecture, StageSummary
from glimpse.models.suggestions import did_you_mean

if TYPE_CHECKING:
    from glimpse.models.builder import Assembly

_SIZES = ("parameters", "multiply-adds")
_STAGE_COLUMNS = ("stage", "block", "repeats", "output", *_SIZES)
_NUMBERS = frozenset({"repeats", "top-1", "top-5", *_SIZES})
_WIDE = 112  # columns of a terminal, from which on a row of the list with its sizes stands on one line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit code: 0, or 1 when the request cannot be met.
    """
    options = _parser().parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's start-up messages are not ours
    try:
        options.run(options)
    except (ValueError, OSError, published.FetchError) as error:
        print(f"models: {error}", file=sys.stderr)
        return 1
    return 0


def _list(options: argparse.Namespace) -> None:
    chosen = _matching(options.pattern)
    if options.json:
        print(json.dumps([_entry(row, tags) for row, tags in chosen], indent=1))
        return
    console = Console(file=sequences(sys.stdout))
    columns = ("architecture", "variant", "input", *_SIZES, "weights", "top-1", "top-5")
    lines = [line for row, tags in chosen for line in _lines(row, tags)]
    # A table that folds is not one: the numbers of a narrow terminal are those that people choose by.
    left_out = _SIZES if console.is_terminal and console.width < _WIDE else ()
    _show(console, columns, lines, left_out=left_out)


def _matching(pattern: str) -> list[tuple[Architecture, tuple[str, ...]]]:
    """The rows whose architecture, variant or tag matches, each with its tags.

    Raises:
        ValueError: there is none.
    """
    wanted = pattern if any(char in pattern for char in "*?[") else f"*{pattern}*"
    found = []
    for row in library():
        tags = published.tags(row.name, row.variant)
        if any(fnmatchcase(name, wanted) for name in (row.name, row.variant)):
            found.append((row, tags))
        elif matching := tuple(tag for tag in tags if fnmatchcase(tag, wanted)):
            found.append((row, matching))
    if not found:
        names = dict.fromkeys(row.name for row in library())
        raise ValueError(f"Nothing in the library matches {pattern!r}.{did_you_mean(pattern, names)}")
    return found


def _lines(row: Architecture, tags: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    counted = size(row)
    sizes = (f"{counted.parameters:,}", f"{counted.multiply_adds:,}") if counted else ("", "")
    head = row.name, row.variant, " x ".join(map(str, row.input_shape)), *sizes
    for tag in tags:
        checkpoint = published.find(row.name, row.variant, tag)
        yield *head, tag, _percent(checkpoint.top1), _percent(checkpoint.top5)
    if not tags:
        yield *head, "", "", ""


def _entry(row: Architecture, tags: tuple[str, ...]) -> dict[str, Any]:
    counted = size(row)
    known = [(tag, published.find(row.name, row.variant, tag)) for tag in tags]
    return {
        "architecture": row.name,
        "variant": row.variant,
        "paper": row.paper,
        "input": list(row.input_shape),
        "classes": row.classes,
        "options": list(row.OPTIONS),
        "parameters": counted and counted.parameters,
        "multiply_adds": counted and counted.multiply_adds,
        "weights": [
            {
                "tag": tag,
                "top1": each.top1,
                "top5": each.top5,
                "publisher": each.publisher,
                "licence": each.licence,
                "url": each.url,
            }
            for tag, each in known
        ],
    }


def _describe(options: argparse.Namespace) -> None:
    from glimpse.models.builder import assemble, trainable_parameters

    row = find(options.name, options.variant, dict(options.option or ()))
    assembly = assemble(row, classes=options.classes)
    trainable = trainable_parameters(assembly.model)
    if options.json:
        print(json.dumps(_description(row, assembly, trainable), indent=1))
    else:
        console = Console(file=sequences(sys.stdout))
        print(f"{row.name} ({row.variant}) {row.paper}")
        _show(console, _STAGE_COLUMNS, list(map(_stage_line, assembly.stages)), footer=_sums(assembly))
        print(f"{trainable:,} of the parameters are trainable.")
    if options.svg:
        from glimpse.models.drawing import draw

        drawing = draw(f"{row.name} ({row.variant})", row.paper, tuple(assembly.model.input_shape[1:]), assembly.stages)
        options.svg.write_text(drawing, encoding="utf-8")
        print(f"Drawn in {options.svg}.", file=sys.stderr if options.json else sys.stdout)


def _description(row: Architecture, assembly: Assembly, trainable: int) -> dict[str, Any]:
    return {
        "architecture": row.name,
        "variant": row.variant,
        "paper": row.paper,
        "input": list(assembly.model.input_shape[1:]),
        "classes": assembly.stages[-1].output_shape[-1],
        "parameters": sum(stage.parameters for stage in assembly.stages),
        "trainable_parameters": trainable,
        "multiply_adds": sum(stage.multiply_adds for stage in assembly.stages),
        "stages": [asdict(stage) for stage in assembly.stages],
    }


def _fetch(options: argparse.Namespace) -> None:
    name = options.name or os.environ.get("GLIMPSE_MODEL")
    if not name:
        raise ValueError("Name an architecture, or set GLIMPSE_MODEL. `python -m glimpse.models list` shows all.")
    variant = options.variant or os.environ.get("GLIMPSE_VARIANT") or None
    tag = options.weights or os.environ.get("GLIMPSE_WEIGHTS") or published.DEFAULT_TAG
    with _logged():
        print(published.fetch(published.find(name, variant, tag), options.cache))


@contextmanager
def _logged() -> Iterator[None]:
    """Show the library's log on stderr: what is fetched from where, and each attempt. A terminal gets a bar as well."""
    log = logging.getLogger("glimpse.models")
    handler, level = logging.StreamHandler(sys.stderr), log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


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
    chosen = [golden.SampleImage(path.name, path.read_bytes(), options.source) for path in options.picture or ()]
    recorded = golden.record(
        bundle,
        lambda pixels: network(pixels, training=False),
        chosen or golden.pictures(bundle.folder),
        by=f"Keras {keras.__version__} on TensorFlow {tf.__version__} in float32",
    )
    for each in golden.read(recorded):
        first = int(each.probabilities.argmax())
        print(f"{each.picture.name}: {bundle.labels[first].label} {each.probabilities[first]:.4f}")


def _stage_line(stage: StageSummary) -> tuple[str, ...]:
    output = " x ".join(map(str, stage.output_shape))
    return (
        stage.name,
        stage.block,
        str(stage.repeats),
        output,
        f"{stage.parameters:,}",
        f"{stage.multiply_adds:,}",
    )


def _sums(assembly: Assembly) -> tuple[str, ...]:
    parameters = sum(stage.parameters for stage in assembly.stages)
    multiply_adds = sum(stage.multiply_adds for stage in assembly.stages)
    return ("total", "", "", "", f"{parameters:,}", f"{multiply_adds:,}")


def _show(
    console: Console,
    columns: Sequence[str],
    lines: Sequence[tuple[str, ...]],
    *,
    footer: tuple[str, ...] = (),
    left_out: Sequence[str] = (),
) -> None:
    """Print a table: aligned in a terminal; elsewhere a line for each row, with tabs between, never wrapped."""
    if not console.is_terminal:
        for line in (columns, *lines, *([footer] if footer else [])):
            print("\t".join(line))
        return
    shown = [at for at, column in enumerate(columns) if column not in left_out]
    table = Table(box=None, pad_edge=False, header_style="bold", footer_style="bold", show_footer=bool(footer))
    for at in shown:
        # What a narrow terminal folds; names and numbers stay whole.
        folds = columns[at] in {"weights", "block"}
        table.add_column(
            columns[at],
            footer=footer[at] if footer else "",
            justify="right" if columns[at] in _NUMBERS else "left",
            no_wrap=not folds,
            overflow="fold" if folds else "ellipsis",
        )
    for line in lines:
        table.add_row(*(line[at] for at in shown))
    console.print(table)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}%"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m glimpse.models",
        description="Show the architectures of the library, look inside a network, and fetch published weights.",
        epilog="`python -m glimpse.models COMMAND --help` explains a command.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser(
        "list",
        help="list the architectures with their variants, sizes and published weights",
        description="List every architecture with its variants, parameters, multiply-adds for one image, and published "
        "weights with their accuracy on ImageNet. A terminal of fewer than 112 columns leaves out parameters and "
        "multiply-adds. In a file or a pipe, columns are separated by tabs and no line is wrapped.",
        epilog=_examples("list", "list resnet", "list 'se_*' --json"),
        formatter_class=_Help,
    )
    listing.add_argument(
        "pattern",
        nargs="?",
        default="",
        metavar="PATTERN",
        help="list only rows whose architecture, variant or weights contain this text, or match it where it has * or ?",
    )
    listing.add_argument("--json", action="store_true", help="print one JSON array, for programs")
    listing.set_defaults(run=_list)

    describe = commands.add_parser(
        "describe",
        help="show the stages of a network as a table or a drawing",
        description="Show the stages of a network with their parameters and multiply-adds for one image. In a file or "
        "a pipe, columns are separated by tabs and no line is wrapped.",
        epilog=_examples("describe resnet50", "describe mobilenet --option alpha=0.25 --svg mobilenet.svg"),
        formatter_class=_Help,
    )
    describe.add_argument("name", metavar="ARCHITECTURE", help="a name that `python -m glimpse.models list` shows")
    describe.add_argument("--variant", help="the variant of the architecture (default: its first one)")
    describe.add_argument("--classes", type=int, metavar="N", help="number of classes (default: the variant's own)")
    describe.add_argument(
        "--option",
        action="append",
        type=_option,
        metavar="NAME=VALUE",
        help="an option of the architecture, for example alpha=0.5; may be given several times",
    )
    describe.add_argument("--svg", type=Path, metavar="FILE", help="also draw the network into this SVG file")
    describe.add_argument("--json", action="store_true", help="print one JSON object, for programs")
    describe.set_defaults(run=_describe)

    fetch = commands.add_parser(
        "fetch",
        help="fetch published weights into the cache",
        description="Fetch published weights into the cache, check them against the published hash, and print the path "
        "of the file. Weights that are there already are only checked. The cache is the folder in GLIMPSE_CACHE, or "
        "glimpse/weights in the user's cache folder.",
        epilog=_examples("fetch resnet50", "fetch mobilenet_v2 --weights imagenet_v2"),
        formatter_class=_Help,
    )
    fetch.add_argument(
        "name",
        nargs="?",
        metavar="ARCHITECTURE",
        help="a name that `python -m glimpse.models list` shows (default: GLIMPSE_MODEL)",
    )
    fetch.add_argument("--variant", help="the variant of the architecture (default: GLIMPSE_VARIANT, or its first one)")
    fetch.add_argument("--weights", metavar="TAG", help="the weights to fetch (default: GLIMPSE_WEIGHTS, or imagenet)")
    fetch.add_argument("--cache", type=Path, metavar="FOLDER", help="the folder to put them into, instead of the cache")
    fetch.set_defaults(run=_fetch)

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


class _Help(argparse.HelpFormatter):
    """Wraps all paragraphs but the examples at the end."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("examples:"):
            return text
        return super()._fill_text(text, width, indent)


def _examples(*lines: str) -> str:
    return "\n".join(("examples:", *(f"  python -m glimpse.models {line}" for line in lines)))


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
