"""`python -m glimpse.models compare`: how accurate models are on labelled images, and how fast here."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from glimpse.models.commands.help import Help, examples
from glimpse.models.commands.log import logged
from glimpse.models.commands.shown import Shown
from glimpse.models.commands.tables import show
from glimpse.models.comparison import labelled, plot, report
from glimpse.models.comparison.compare import compare
from glimpse.models.plain import sequences


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of the program."""
    command = commands.add_parser(
        "compare",
        help="compare models on labelled images: accuracy, calibration, size and speed on this machine",
        description="Compare models on labelled images: top-1 with its 95% interval, top-5, expected calibration error "
        "(ECE), multiply-adds and parameters of the network, images a second, and milliseconds for one image. Images "
        "a second and milliseconds are those of the network on this machine, without reading and decoding images: "
        "with the runtime, the precision and the largest batch that a server with the same GLIMPSE_* settings would "
        "choose, warm, the medians of several turns in which all models are measured one after the other. Top-1 to "
        "ECE are measured with the same runtime and precision. All models stay in memory until the end.",
        epilog=examples(
            "compare --data test.zip cifar10 runs/mine/bundle",
            "compare --data imagenet-val mobilenet_v2 resnet50:imagenet_v2 --plot models.png",
        ),
        formatter_class=Help,
    )
    command.add_argument(
        "names",
        nargs="+",
        metavar="NAME",
        help="a model: an architecture with its default weights (resnet50), with others (resnet50:imagenet_v2, "
        "resnet50:weights/mine.safetensors), a bundle's folder, or weights as GLIMPSE_WEIGHTS takes them. The variant "
        "is the first one that has weights of that name; the table says which",
    )
    command.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="PATH",
        help="folder or zip file with a folder for each class, named by its label or class id: .../CLASS/IMAGE; or a "
        "folder of images (or of one zip file) with a labels.txt: a line for each image with its name and its class, "
        "which may be an index, too",
    )
    command.add_argument(
        "--turns",
        type=_positive(int),
        default=5,
        metavar="N",
        help="how many times the speed of each model is measured (default: 5)",
    )
    command.add_argument(
        "--seconds",
        type=_positive(float),
        default=1.0,
        metavar="S",
        help="how long a turn measures each of the two speeds of a model, at least (default: 1)",
    )
    command.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="skip images that cannot be read, and list them (default: refuse to compare)",
    )
    command.add_argument("--json", action="store_true", help="print one JSON object with all figures, for programs")
    command.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="also draw top-1 against the milliseconds for one image into this .png, .svg or .pdf file; needs the "
        "packages of training",
    )
    command.set_defaults(run=_compare)


def _compare(options: argparse.Namespace) -> None:
    if options.plot:
        plot.check(options.plot)
    if twice := sorted({name for name in options.names if options.names.count(name) > 1}):
        raise ValueError(f"A model is named more than once: {', '.join(twice)}. Name each model once.")
    data = labelled.find(options.data)
    with logged(), Shown() as shown:
        results = compare(
            options.names,
            data,
            shown,
            turns=options.turns,
            seconds=options.seconds,
            skip_unreadable=options.skip_unreadable,
        )
    if results[0].left_out:
        print(f"{options.data}: skipped: {', '.join(name for name, _ in results[0].left_out)}", file=sys.stderr)
    if options.json:
        print(json.dumps(report.as_json(results, str(options.data)), indent=1))
    else:
        show(Console(file=sequences(sys.stdout)), report.COLUMNS, [report.row(result) for result in results])
    if options.plot:
        plot.draw(results, options.plot)
        print(f"Drawn in {options.plot}.", file=sys.stderr if options.json else sys.stdout)


def _positive(kind: type[int | float]) -> Callable[[str], float]:
    def parsed(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = kind(0)
        if not 0 < value < 1e6:
            raise argparse.ArgumentTypeError(f"{text!r} is not a {'whole ' if kind is int else ''}number above 0")
        return value

    return parsed
