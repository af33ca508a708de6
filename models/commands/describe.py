"""`python -m glimpse.models describe`: the stages of a network as a table or a drawing."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from glimpse.models import quiet, random_weights
from glimpse.models.catalogue import find
from glimpse.models.command_line import architecture_option
from glimpse.models.commands.help import Help, examples
from glimpse.models.commands.tables import SIZES, show
from glimpse.models.plain import sequences
from glimpse.models.spec import Architecture, StageSummary

if TYPE_CHECKING:
    from glimpse.models.builder import Assembly

_STAGE_COLUMNS = ("stage", "block", "repeats", "output", *SIZES)


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of the program."""
    describe = commands.add_parser(
        "describe",
        help="show the stages of a network as a table or a drawing",
        description="Show the stages of a network with their parameters and multiply-adds for one image. In a file or "
        "a pipe, columns are separated by tabs and no line is wrapped.",
        epilog=examples("describe resnet50", "describe mobilenet --option alpha=0.25 --svg mobilenet.svg"),
        formatter_class=Help,
    )
    describe.add_argument("name", metavar="ARCHITECTURE", help="a name that `python -m glimpse.models list` shows")
    describe.add_argument("--variant", help="the variant of the architecture (default: its first one)")
    describe.add_argument("--classes", type=int, metavar="N", help="number of classes (default: the variant's own)")
    describe.add_argument(
        "--option",
        action="append",
        type=architecture_option,
        metavar="NAME=VALUE",
        help="an option of the architecture, for example alpha=0.5; may be given several times",
    )
    describe.add_argument("--svg", type=Path, metavar="FILE", help="also draw the network into this SVG file")
    describe.add_argument("--json", action="store_true", help="print one JSON object, for programs")
    describe.set_defaults(run=_describe)


def _describe(options: argparse.Namespace) -> None:
    row = find(options.name, options.variant, dict(options.option or ()))
    quiet.load_keras()  # only now, because it takes seconds
    from glimpse.models.builder import assemble, trainable_parameters

    assembly = assemble(row, classes=options.classes)
    trainable = trainable_parameters(assembly.model)
    if options.json:
        print(json.dumps(_description(row, assembly, trainable), indent=1))
    else:
        console = Console(file=sequences(sys.stdout))
        print(f"{row.name} ({row.variant}) {row.paper}")
        show(console, _STAGE_COLUMNS, list(map(_stage_line, assembly.stages)), footer=_sums(assembly))
        print(f"{trainable:,} of the parameters are trainable.")
        print(f"To serve it untrained, with random weights: {_served_untrained(row, options)}")
    if options.svg:
        from glimpse.models.drawing import draw

        drawing = draw(f"{row.name} ({row.variant})", row.paper, tuple(assembly.model.input_shape[1:]), assembly.stages)
        options.svg.write_text(drawing, encoding="utf-8")
        print(f"Drawn in {options.svg}.", file=sys.stderr if options.json else sys.stdout)


def _served_untrained(row: Architecture, options: argparse.Namespace) -> str:
    words = [f"GLIMPSE_MODEL={row.name}", f"GLIMPSE_VARIANT={row.variant}", f"GLIMPSE_WEIGHTS={random_weights.TAG}"]
    if options.option:
        words.append(f"GLIMPSE_OPTIONS={shlex.quote(json.dumps(dict(options.option)))}")
    return " ".join([*words, "make serve"])


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
