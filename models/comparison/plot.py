"""Accuracy against latency, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from glimpse.models.comparison.compare import Result

SUFFIXES = (".pdf", ".png", ".svg")
_DPI = 100


def check(path: Path) -> None:
    """Whether a plot can be drawn and written there; to be asked before anything is measured.

    Raises:
        ValueError: matplotlib is not installed, or the suffix is none of `SUFFIXES`.
        FileNotFoundError: the folder does not exist.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"--plot must name a file that ends in {', '.join(SUFFIXES)}. Received: {path}")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"The folder of the plot, {path.absolute().parent}, does not exist. Create it first.")
    if path.is_dir():
        raise ValueError(f"--plot must name a file, and {path} is a folder.")
    if find_spec("matplotlib") is None:
        raise ValueError(
            "--plot needs matplotlib, which is not installed. Install it with pip install 'glimpse-serve[train]', in a "
            "clone with make train, or leave --plot out."
        )


def draw(results: Sequence[Result], path: Path) -> None:
    """Draw a point for each model: to the right the latency of one image, upwards the top-1 with its 95% interval."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.use("agg")
    with mpl.rc_context({"text.parse_math": False}):  # a folder may be called "$5"
        figure = Figure(figsize=(7, 4.5 + 0.2 * len(results)), layout="constrained")
        axes = figure.subplots()
        for result in results:
            top1, low, high = (100 * result.metrics[name] for name in ("top1", "top1_low", "top1_high"))
            axes.errorbar(
                result.latency,
                top1,
                xerr=[[result.latency - min(result.latency_ms)], [max(result.latency_ms) - result.latency]],
                yerr=[[top1 - low], [high - top1]],
                fmt="o",
                capsize=3,
                label=_short(result.name),
            )
        axes.set(xscale="log", xlabel="milliseconds for one image alone, on this machine", ylabel="top-1, %")
        # Those of a logarithmic axis are formulas unless told otherwise.
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}")
        axes.tick_params(which="minor", labelsize=7)
        axes.grid(visible=True, which="both", alpha=0.3)
        images = ", ".join(f"{count:,}" for count in sorted({result.images for result in results}))
        axes.set_title(f"{images} images; bars: 95% interval of top-1, range of latency over the turns", fontsize=9)
        figure.legend(loc="outside lower center", fontsize=8)
        figure.savefig(path, dpi=_DPI)


def _short(name: str) -> str:
    """A name whose path is left out but for its end."""
    parts = name.split("/")
    return name if len(parts) <= 2 else ".../" + "/".join(parts[-2:])
