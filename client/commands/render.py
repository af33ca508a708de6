"""Answers for people: a block of bars for each image, a table of stages for a model. The only user of rich."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal

from rich.bar import Bar
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from glimpse.client.commands.plain import plain, sequences
from glimpse.client.nouns import noun
from glimpse.client.results import ImageResult, ModelDescription, PreStem, Runtime, Stage

_BAR_WIDTH = 32
_ENDLESS = 100_000  # columns, so that no message is wrapped, nor a command in it
_LABELS = 12  # that are shown of a model


class _Console(Console):
    """A console that leaves it to the caller what a reader who went away means."""

    def on_broken_pipe(self) -> None:
        raise  # noqa: PLE0704  (rich calls this while it handles the BrokenPipeError)


@cache
def console() -> Console:
    """The console on stdout. What its encoding does not know becomes a question mark, never a crash."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    return _Console(file=sequences(sys.stdout), highlight=False)


def print_result(path: str, result: ImageResult, thumbnail: bytes | None = None) -> None:
    """One block: the path, then its predictions with bars or what was wrong. Only in a terminal lines are wrapped.

    Args:
        path: of the image.
        result: its own.
        thumbnail: what shows it in this terminal, if anything (`client.commands.thumbnails`).
    """
    if not console().is_terminal:
        console().file.write(to_text(path, result))
        return
    heading, body = _block(path, result)
    console().print(heading)
    if thumbnail is not None:
        console().file.write(thumbnail.decode("ascii") + "\n")
    console().print(body)


def to_text(path: str, result: ImageResult) -> str:
    """The same block for a file or a pipe: lines are as long as they are, with nothing behind their last word."""
    text = io.StringIO()
    Console(file=text, width=_ENDLESS, highlight=False, color_system=None, force_terminal=False).print(
        *_block(path, result)
    )
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


def print_line(text: str) -> None:
    """One line, however long."""
    console().print(Text(plain(text)), soft_wrap=True)


def _block(path: str, result: ImageResult) -> tuple[RenderableType, RenderableType]:
    return Text(plain(path), style="bold"), Padding(_body(result), (0, 0, 1, 2), expand=False)


def _body(result: ImageResult) -> RenderableType:
    if result.error is not None:
        return Text(plain(f"{result.error.reason or result.error.code.name}: {result.error.message}"), style="red")
    unknown = result.novelty is not None and not result.novelty.known
    if unknown and not result.predictions:
        return _none_of_these(result)
    if not result.predictions:
        return Text("No class is probable enough, by --min-probability or by its own threshold.", style="dim")
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=32)
    table.add_column(width=_BAR_WIDTH)
    table.add_column(justify="right", no_wrap=True)
    for prediction in result.predictions:
        below = prediction.over_threshold is False  # of a multi-label model: the image does not show it
        bar = Bar(1.0, 0.0, prediction.probability, width=_BAR_WIDTH, color="bright_black" if below else "cyan")
        share = f"{prediction.probability:.1%}" + (" below its threshold" if below else "")
        table.add_row(Text(plain(prediction.label), style="dim" if below else ""), bar, share)
    return Group(_none_of_these(result), table) if unknown else table


def _none_of_these(result: ImageResult) -> Text:
    found = result.novelty
    assert found is not None  # noqa: S101 - asked by whoever calls
    return Text(f"none of these (novelty {found.score:.3g}, threshold {found.threshold:.3g})", style="yellow")


def print_description(description: ModelDescription) -> None:
    """What a model is, then its stages down to their sum.

    A terminal gets aligned tables. A file or a program gets the same cells separated by tabs, a line each, however
    long: nothing is padded, and nothing is wrapped.
    """
    if console().is_terminal:
        console().print(_facts_table(description), "", _stages_table(description.stages))
    else:
        lines = [*map(list, facts(description).items()), [], *_stage_rows(description.stages)]
        console().file.write("".join("\t".join(map(plain, line)) + "\n" for line in lines))


def facts(description: ModelDescription) -> dict[str, str]:
    """What a model is, by the words that stand in front of each line."""
    runtime, limits, shape = description.runtime, description.limits, description.input
    labels = ", ".join(plain(each.label) for each in description.classes[:_LABELS])
    hidden = len(description.classes) - _LABELS
    return {
        "model": f"{description.model.name}, version {description.model.version}",
        "weights": description.model.weights_digest,
        "architecture": f"{description.architecture} ({description.variant})",
        **({"options": _options(description.options)} if description.options else {}),
        "paper": description.paper,
        "input": f"{shape.height} x {shape.width} x {shape.channels}",
        "pre-stem": _recipe(description.pre_stem),
        "recipe": description.pre_stem.digest,
        "classes": f"{len(description.classes)}: {labels}" + (f" and {hidden} more, see --json" if hidden > 0 else ""),
        **({"output": description.output} if description.output else {}),
        **_head(description),
        "novelty": _novelty(description),
        **({"explanations": ", ".join(description.explanations)} if description.explanations else {}),
        "parameters": f"{description.parameters:,}, of which {description.trainable_parameters:,} trainable",
        "multiply-adds": f"{description.multiply_adds:,} for one image",
        "runtime": f"{runtime.name} on {runtime.device}, {runtime.precision}{_agreement(runtime)}",
        "batch sizes": f"{', '.join(map(str, runtime.batch_sizes))} images (the server's --max-batch-size limits them)",
        "limits": f"{limits.max_images_per_request:,} {noun(limits.max_images_per_request, 'image')} per request, "
        f"{limits.max_images_in_flight:,} in flight; "
        f"{_mebibytes(limits.max_image_bytes)} and {_megapixels(limits.max_image_pixels)} per image; "
        f"{_mebibytes(limits.max_message_bytes)} per message",
        "large JPEG": f"up to {_megapixels(limits.max_jpeg_pixels)}, decoded at 1/2, 1/4 or 1/8 if that leaves at "
        f"least {limits.jpeg_reducing_gap:.4g} times the target",
        "formats": ", ".join(limits.formats),
        "geometries": ", ".join(limits.geometries) or "the model's own only",
    }


def _head(description: ModelDescription) -> dict[str, str]:
    """What its scores mean, and how they are calibrated."""
    head = description.head
    if head.kind != "multi-label":
        told = {"head": "binary: one score of two classes"} if head.kind == "binary" else {}
        return {**told, "temperature": f"{description.temperature:.4g}"}
    limits = ", ".join(
        f"{plain(each.label)} {limit:.3g}"
        for each, limit in zip(description.classes[:_LABELS], head.thresholds, strict=False)
    )
    hidden = len(head.thresholds) - _LABELS
    return {
        "head": "multi-label: an image may show several labels, or none",
        "thresholds": limits + (f" and {hidden} more" if hidden > 0 else ""),
    }


def _novelty(description: ModelDescription) -> str:
    if (found := description.novelty) is None:
        return "no threshold"
    return (
        f"unknown above {found.threshold:.4g} ({found.score.replace('_', ' ')}); {found.known_share:.0%} of images "
        "of its classes are below"
    )


def _options(options: Mapping[str, Any]) -> str:
    return plain(", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in options.items()))


def _facts_table(description: ModelDescription) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts(description).items():
        table.add_row(name, Text(plain(value)))
    return table


def _agreement(runtime: Runtime) -> str:
    """How the reduced precision that was considered compares with float32."""
    if (found := runtime.agreement) is None:
        return ""
    compared = (
        f"same first class as float32 on {found.top1:.1%} of {found.pictures:,} test {noun(found.pictures, 'picture')}"
    )
    return f" ({compared})" if found.precision == runtime.precision else f" ({found.precision}: {compared})"


def _mebibytes(size: int) -> str:
    return f"{size / (1 << 20):,.4g} MiB"


def _megapixels(pixels: int) -> str:
    return f"{pixels / 1e6:,.4g} megapixels"


def _recipe(pre_stem: PreStem) -> str:
    geometry = pre_stem.geometry
    if geometry == "crop" and pre_stem.crop_share < 1:
        geometry += f" {pre_stem.crop_share:.4g}"
    padding = "padding 0 behind the scaling" if pre_stem.padding == "zero" else f"fill {_list(pre_stem.fill)}"
    return (
        f"{geometry} to {pre_stem.height} x {pre_stem.width}, {pre_stem.filter}"
        f"{'' if pre_stem.antialias else ' without antialiasing'}, smaller images: {pre_stem.smaller}, "
        f"{padding}; {pre_stem.channels} minus {_list(pre_stem.mean)}, "
        f"divided by {_list(pre_stem.std)}"
    )


def _stage_rows(stages: Sequence[Stage]) -> list[list[str]]:
    """The table of the stages: its header, a row for each stage, and their sum."""
    rows = [["stage", "block", "repeats", "output", "parameters", "multiply-adds"]]
    for stage in stages:
        output = " x ".join(str(size) for size in stage.output_shape)
        numbers = f"{stage.parameters:,}", f"{stage.multiply_adds:,}"
        rows.append([stage.name, stage.block, str(stage.repeats), output, *numbers])
    # The sum of what is shown, not the total that the server states: a reader can hold the two together.
    sums = f"{sum(s.parameters for s in stages):,}", f"{sum(s.multiply_adds for s in stages):,}"
    return [*rows, ["total", "", "", "", *sums]]


def _stages_table(stages: Sequence[Stage]) -> Table:
    header, *rows, total = _stage_rows(stages)
    table = Table(show_footer=True, box=None, pad_edge=False, header_style="bold", footer_style="bold")
    for name, footer in zip(header, total, strict=True):
        # The block is what a narrow terminal folds; names and numbers stay whole.
        folds = name == "block"
        justify: Literal["left", "right"] = "right" if name in {"repeats", "parameters", "multiply-adds"} else "left"
        table.add_column(
            name, footer=footer, justify=justify, no_wrap=not folds, overflow="fold" if folds else "ellipsis"
        )
    for row in rows:
        table.add_row(*map(plain, row))
    return table


def _list(values: Sequence[float]) -> str:
    return " ".join(f"{value:.6g}" for value in values)
