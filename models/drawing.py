"""A network drawn as SVG: its stages from top to bottom, and where its parameters and multiply-adds are."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from glimpse.models.spec import StageSummary

_WIDTH, _BOX, _HEIGHT, _GAP, _TOP = 760, 340, 46, 22, 92
_BARS = ((400, "parameters", "#2b6cb0"), (580, "multiply-adds", "#c05621"))  # left edge, heading, colour
_BAR = 160


def draw(title: str, subtitle: str, input_shape: Sequence[int], stages: Sequence[StageSummary]) -> str:
    """An SVG document of a macro-architecture.

    Args:
        title: name of the network.
        subtitle: for example the paper.
        input_shape: (height, width, channels).
        stages: in order; side branches are drawn with a dashed border.

    Returns:
        The document; it needs no other file and no font but a sans-serif one.
    """
    height = _TOP + (len(stages) + 1) * (_HEIGHT + _GAP)
    totals = (max(sum(s.parameters for s in stages), 1), max(sum(s.multiply_adds for s in stages), 1))
    size = f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(20, 34, title, size=20, weight="bold"),
        _text(20, 56, subtitle, colour="#4a5568"),
        *(
            _text(left, _TOP - 12, f"{heading}: {_short(total)}", colour=colour)
            for (left, heading, colour), total in zip(_BARS, totals, strict=True)
        ),
        *_box(_TOP, "image", " x ".join(map(str, input_shape)), "", dashed=False),
    ]
    trunk = _TOP + _HEIGHT  # where the last stage that is not a side branch ends
    for index, stage in enumerate(stages, start=1):
        top = _TOP + index * (_HEIGHT + _GAP)
        if not stage.auxiliary:
            parts.append(
                f'<path d="M190 {trunk} V{top - 5}" stroke="#4a5568" fill="none"/>'
                f'<path d="M185 {top - 7} L190 {top} L195 {top - 7} Z" fill="#4a5568"/>'
            )
            trunk = top + _HEIGHT
        block = f"{stage.block} x {stage.repeats}" if stage.repeats > 1 else stage.block
        parts += _box(top, stage.name, " x ".join(map(str, stage.output_shape)), block, dashed=stage.auxiliary)
        values = (stage.parameters, stage.multiply_adds)
        for (left, _, colour), value, total in zip(_BARS, values, totals, strict=True):
            length = _BAR * value / total
            parts.append(f'<rect x="{left}" y="{top + 8}" width="{length:.1f}" height="12" fill="{colour}"/>')
            parts.append(_text(left, top + 38, f"{_short(value)}  ({value / total:.1%})", colour="#4a5568", size=11))
    return "\n".join([*parts, "</svg>", ""])


def _box(top: int, name: str, shape: str, block: str, *, dashed: bool) -> list[str]:
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return [
        f'<rect x="20" y="{top}" width="{_BOX}" height="{_HEIGHT}" rx="6" fill="#edf2f7" stroke="#4a5568"{dash}/>',
        _text(34, top + 20, name, weight="bold"),
        _text(34, top + 37, block, colour="#4a5568", size=11),
        _text(20 + _BOX - 14, top + 20, shape, anchor="end"),
    ]


def _text(
    x: int, y: int, text: str, *, size: int = 13, weight: str = "normal", colour: str = "#1a202c", anchor: str = "start"
) -> str:
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" fill="{colour}" '
        f'text-anchor="{anchor}">{escape(text)}</text>'
    )


def _short(number: int) -> str:
    """1,234,567 as 1.23 M."""
    for unit, letter in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if number >= unit:
            return f"{number / unit:.3g}{letter}"
    return str(number)
