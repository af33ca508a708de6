"""The figures for people: a table, and a plot of the ratios beside their targets."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from tools.bench.figures import Figure, figures

BEGIN, END = "<!-- results: written by python -m tools.bench --record -->", "<!-- end of results -->"
_NOISY = 0.03  # of the machine's time that others took


def markdown(result: dict[str, Any]) -> str:
    """The whole report of a run."""
    lines = _head(result)
    for subject, group in groupby(figures(result), key=lambda figure: figure.subject):
        lines += ["", f"### {subject}", "", "| | figure | spread | target | |", "|---|---:|---:|---:|---|"]
        lines += [_row(figure) for figure in group]
    for network in result["networks"]:
        for kind, one in network["kinds"].items():
            lines += ["", f"### {network['network']}, {network['runtime']}, {kind}: loads", *_loads(one)]
    return "\n".join(lines) + "\n"


def short(result: dict[str, Any]) -> str:
    """All figures of a run in two tables, one of networks and one of what they were fed with, without each load."""
    lines = _head(result)
    found = figures(result)
    for with_kind in (True, False):
        subjects: dict[str, dict[str, str]] = {}
        for figure in found:
            if (figure.subject.count(", ") > 1) == with_kind:
                subjects.setdefault(figure.subject, {})[figure.name] = _cell(figure)
        if subjects:
            lines += ["", *beside(subjects)]
    return "\n".join(lines) + "\n"


def beside(subjects: Mapping[str, Mapping[str, str]]) -> list[str]:
    """A table with a column for each subject and a row for each name."""
    heads = ["| | " + " | ".join(subjects) + " |", "|---" + "|---:" * len(subjects) + "|"]
    names = dict.fromkeys(name for cells in subjects.values() for name in cells)
    rows = ([name, *(cells.get(name, "") for cells in subjects.values())] for name in names)
    return [*heads, *(f"| {' | '.join(row)} |" for row in rows)]


def _cell(figure: Figure) -> str:
    """A figure, its spread, and whether it reached its target."""
    told = _shown(figure.value, figure.unit)
    if figure.spread is not None:
        told += f" ±{figure.spread / 2:.0%}"
    if figure.target is not None:
        sign = "≥" if figure.better == "higher" else "≤"
        target = f"{sign} {_shown(figure.target, figure.unit)}"
        told = f"{told} ({target})" if figure.met else f"**{told}** ({target})"
    return told


def _head(result: dict[str, Any]) -> list[str]:
    lines = [f"Measured on {result['date']}, {result['effort']} form.", ""]
    lines += [f"- {name}: {value}" for name, value in result["machine"].items()]
    lines.append(
        f"- other processes took {result['others']:.1%} of the machine's CPU time, its host {result['stolen']:.1%}"
    )
    if result["others"] + result["stolen"] > _NOISY:
        lines += ["", "**The machine was not quiet: these figures are not to be relied upon.**"]
    return lines


def record(table: str, path: Path) -> None:
    """Put the table between the markers of a file, in place of what is there.

    Raises:
        ValueError: the file lacks the markers.
    """
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} must hold the lines {BEGIN} and {END}. Add them where the table belongs.")
    path.write_text(f"{before}{BEGIN}\n\n{table}\n{END}{after}", encoding="utf-8")


def plot(result: dict[str, Any], path: Path) -> None:
    """Every figure that has a target, as a share of it: the bar that reaches the line has reached the target."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    judged = [figure for figure in figures(result) if figure.target is not None]
    height = 1.2 + 0.3 * max(1, len(judged))
    canvas, axes = plt.subplots(figsize=(10, height), layout="constrained")
    shares = [_reached(figure) for figure in judged]
    axes.barh(
        range(len(judged)), shares, color=["tab:green" if figure.met else "tab:orange" for figure in judged], height=0.6
    )
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(judged)), [f"{figure.subject}: {figure.name}" for figure in judged], fontsize=7)
    for row, (figure, share) in enumerate(zip(judged, shares, strict=True)):
        axes.annotate(f" {_shown(figure.value, figure.unit)}", (share, row), va="center", fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(0, 2.2)
    axes.set_xlabel("of the target (where less is better: target / figure); the line is the target")
    axes.set_title(f"{result['machine']['CPU']}, {result['date']}", fontsize=9)
    canvas.savefig(path, dpi=150)
    plt.close(canvas)


def _reached(figure: Figure) -> float:
    assert figure.target is not None
    if figure.better == "higher":
        return min(2.0, figure.value / figure.target)
    return 2.0 if figure.value <= figure.target / 2 else figure.target / figure.value


def _row(figure: Figure) -> str:
    spread = "" if figure.spread is None else f"±{figure.spread / 2:.0%}"
    target, met = "", ""
    if figure.target is not None:
        sign = "≥" if figure.better == "higher" else "≤"
        target, met = f"{sign} {_shown(figure.target, figure.unit)}", "met" if figure.met else "**missed**"
    return f"| {figure.name} | {_shown(figure.value, figure.unit)} | {spread} | {target} | {met} |"


def _shown(value: float, unit: str) -> str:
    if unit == "%":
        return f"{value:.1%}"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {unit}".strip()


def _loads(one: dict[str, Any]) -> list[str]:
    lines = [
        "",
        "| load | images/s | p50 ms | p95 ms | p99 ms | CPU us/image: service | generator | batches | errors |",
        "|---|---:|---:|---:|---:|---:|---:|---|---|",
    ]
    loads = [(f"{callers} callers", load) for callers, load in one["callers"].items()]
    loads += [(f"open loop, {load['asked']:.1f}/s ({float(share):.0%})", load) for share, load in one["open"].items()]
    if one["beside_bulk"]:
        loads.append(("lone beside a stream", one["beside_bulk"]["lone"]))
    for name, load in loads:
        times = " | ".join(f"{1e3 * load['latency'][p]:.1f}" if load["latency"] else "" for p in ("p50", "p95", "p99"))
        images = max(1, load["images"])
        batches = " ".join(f"{number}x{size}" for size, number in load["batches"].items())
        errors = " ".join(f"{number} {code}" for code, number in load["errors"].items())
        # Beside a stream the service's CPU time is the stream's.
        service = "" if name.startswith("lone") else f"{1e6 * load['server_cpu'] / images:.0f}"
        generator = f"{1e6 * load['generator_cpu'] / images:.0f}"
        lines.append(f"| {name} | {load['rate']:.1f} | {times} | {service} | {generator} | {batches} | {errors} |")
    return lines
