"""Plots as SVG text. No script and no style of their own: the page's classes colour them, in light and in dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

_WIDTH, _HEIGHT = 720, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 12, 34
_STEPS = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 1e9)  # seconds between ticks
_X, _Y = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

Point = tuple[float, float | None]
BulkStream = tuple[str, str, Sequence[Point]]  # name, class, points; None breaks the line
Column = tuple[float, float, Sequence[tuple[str, str, float]]]  # begin, seconds, parts: name, class, value
Say = Callable[[float], str]


def lines(drawn: Sequence[BulkStream], *, longest: float, label: str, say: Say, seams: Sequence[float] = ()) -> str:
    """Values over seconds, from 0 up.

    Args:
        drawn: the lines, the most important one last, so that it lies on top.
        longest: seconds that the axis spans, above 0.
        label: what is shown, for those who cannot see it.
        say: a value for people.
        seams: seconds at which a phase ends and another begins.
    """
    points = [point for _, _, each in drawn for point in each]
    highest = top([y for _, y in points if y is not None])
    parts = [_axes(highest, say, longest)]
    for seam in seams:
        x = _x(seam / longest)
        parts.append(_rule("seam", x, x, _TOP, _TOP + _Y))
    for name, style, each in drawn:
        path, pen = [], "M"
        for x, y in each:
            if y is None:
                pen = "M"
                continue
            # The line of no length makes a dot of a point without neighbours.
            path.append(f"{pen}{_x(x / longest)} {_y(y / highest)}{'h0' if pen == 'M' else ''}")
            pen = "L"
        parts.append(f'<path class="line {style}" d="{" ".join(path)}"/>')
        for x, y in each:
            if y is not None:
                parts.append(
                    f'<circle class="hit" cx="{_x(x / longest)}" cy="{_y(y / highest)}" r="6">'
                    f"<title>{x:.0f} s, {escape(name)}: {escape(say(y))}</title></circle>"
                )
    return _svg(parts, label)


def stacks(columns: Sequence[Column], *, longest: float, label: str, say: Say) -> str:
    """Columns over seconds, each of parts on one another; `longest` seconds in all."""
    highest = top([sum(value for _, _, value in parts) for _, _, parts in columns])
    drawn = [_axes(highest, say, longest)]
    for at, seconds, parts in columns:
        gap = 2 if seconds / longest * _X > 6 else 0
        width = max(1.0, seconds / longest * _X - gap)
        height = 0.0
        for name, style, value in parts:
            upper, lower = _y((height + value) / highest), _y(height / highest)
            height += value
            title = f"{at:.0f} s, {name}: {say(value)}"
            drawn.append(_bar(style, title, x=_x(at / longest), y=upper, width=width, height=max(0.0, lower - upper)))
    return _svg(drawn, label)


def distribution(
    buckets: Sequence[tuple[float, int]], marks: Sequence[tuple[str, float]], *, label: str, say: Say
) -> str:
    """How many took how long, over a logarithmic axis.

    Args:
        buckets: upper edges above 0, rising, with their counts.
        marks: names and values of what is pointed out.
        label: what is shown.
        say: a value for people.
    """
    low = math.floor(math.log10(buckets[0][0]) * 4) / 4
    high = max(low + 0.5, math.ceil(math.log10(buckets[-1][0]) * 4) / 4)
    bars = 72
    counts = [0] * bars
    for upper, count in buckets:
        counts[min(bars - 1, max(0, int((math.log10(upper) - low) / (high - low) * bars)))] += count
    highest = top([float(count) for count in counts])
    drawn = [_axes(highest, lambda v: f"{v:,.0f}" if v >= 1 or v == 0 else "", 0)]
    for number, count in enumerate(counts):
        if count:
            upper = _y(count / highest)
            edges = [10 ** (low + (high - low) * (number + more) / bars) for more in (0, 1)]
            title = f"{say(edges[0])} to {say(edges[1])}: {count:,}"
            drawn.append(
                _bar("bar", title, x=_x(number / bars), y=upper, width=_X / bars - 1, height=_TOP + _Y - upper)
            )
    for power in range(math.floor(low), math.floor(high) + 1):
        for times in (1, 2, 5):
            at = (power + math.log10(times) - low) / (high - low)
            if 0 <= at <= 1:
                drawn.append(_text(_x(at), _HEIGHT - 14, say(times * 10.0**power)))
    for number, (name, value) in enumerate(marks):
        x = _x(min(1.0, max(0.0, (math.log10(value) - low) / (high - low))))
        drawn.append(_rule("mark", x, x, _TOP, _TOP + _Y))
        side, anchor = (x - 4, "end") if x > _WIDTH - 120 else (x + 4, "start")
        drawn.append(_text(side, _TOP + 11 + 14 * number, name, anchor=anchor, style="name"))
    return _svg(drawn, label)


def top(values: Sequence[float]) -> float:
    """A round number that no value exceeds: where an axis ends."""
    largest = max(values, default=0.0)
    if largest <= 0:
        return 1.0
    size = 10.0 ** math.floor(math.log10(largest))
    return next(size * step for step in (1, 2, 4, 5, 8, 10, 20) if size * step >= largest * (1 - 1e-9))


def _axes(highest: float, say: Say, longest: float) -> str:
    """Four lines with their values, and seconds below; without seconds where the axis is another's."""
    parts = []
    for quarter in range(5):
        y = _y(quarter / 4)
        parts.append(_rule("grid" if quarter else "base", _LEFT, _LEFT + _X, y, y))
        parts.append(_text(_LEFT - 8, y + 4, say(highest * quarter / 4), anchor="end"))
    if longest:
        step = next(s for s in _STEPS if longest / s <= 9)
        ticks = (number * step for number in range(int(longest / step) + 1))
        parts += [_text(_x(at / longest), _HEIGHT - 14, f"{at:g} s") for at in ticks]
    return "".join(parts)


def _text(x: float, y: float, text: str, *, anchor: str = "middle", style: str = "tick") -> str:
    return f'<text class="{style}" text-anchor="{anchor}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _rule(style: str, x1: float, x2: float, y1: float, y2: float) -> str:
    return f'<line class="{style}" x1="{x1}" x2="{x2}" y1="{y1}" y2="{y2}"/>'


def _bar(style: str, title: str, *, x: float, y: float, width: float, height: float) -> str:
    where = f'x="{x}" y="{y}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect class="{style}" {where}><title>{escape(title)}</title></rect>'


def _x(share: float) -> float:
    return round(_LEFT + share * _X, 1)


def _y(share: float) -> float:
    return round(_TOP + _Y - share * _Y, 1)


def _svg(parts: Sequence[str], label: str) -> str:
    head = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label, quote=True)}">'
    return f"{head}{''.join(parts)}</svg>"
