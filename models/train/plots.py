"""Plots of a training run and of its results, small enough to commit to a repository.

They are drawn with matplotlib, which a training does without: it is imported where something is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from glimpse.models.train.calibrate import BINS, Reliability

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 80
# What says when and by which version a picture was written.
_WITHOUT = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
_ANNOTATED = 20  # classes up to which a confusion matrix carries its numbers


def available() -> bool:
    """Whether matplotlib is installed, without which nothing can be drawn."""
    return find_spec("matplotlib") is not None


def curves(history: Sequence[dict[str, float]], path: Path) -> None:
    """Loss and accuracy by epoch, as `models.train.fit.history` reads them."""
    figure = _figure(8, 3.2)
    epochs = [row["epoch"] for row in history]
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        axes.plot(epochs, [row[name] for row in history], label="training, augmented")
        if history and f"val_{name}" in history[0]:
            axes.plot(epochs, [row[f"val_{name}"] for row in history], label="held out")
        axes.set(xlabel="epoch", ylabel=name)
        axes.locator_params(axis="x", integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    _save(figure, path)


def confusion(counts: NDArray[np.int64], labels: Sequence[str], path: Path) -> None:
    """Confusion matrix ``[true class, answer]``, coloured by the share of the true class."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = _figure(6.4, 5.6)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class")
    axes.set(xlabel="answer", ylabel="true class")
    if len(labels) <= _ANNOTATED:
        names = drawable(labels)
        axes.set_xticks(range(len(labels)), names, rotation=45, ha="right")
        axes.set_yticks(range(len(labels)), names)
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    _save(figure, path)


def drawable(labels: Sequence[str]) -> list[str]:
    """The labels; in the place of one with a character that the font lacks, the number of its class, from 0."""
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    known = font.get_charmap().keys()
    return [label if known >= {*map(ord, label)} else f"class {place}" for place, label in enumerate(labels)]


def reliability(
    before: Reliability, after: Reliability, path: Path, *, titles: tuple[str, str] = ("uncalibrated", "calibrated")
) -> None:
    """Accuracy over confidence at the temperature before and at the fitted one; on the diagonal both are equal."""
    figure = _figure(8, 3.6)
    edges = np.arange(BINS) / BINS
    for axes, data, title in zip(figure.subplots(1, 2, sharey=True), (before, after), titles, strict=True):
        axes.bar(edges, np.nan_to_num(data.accuracy), 1 / BINS, align="edge", edgecolor="white", label="accuracy")
        axes.plot(data.confidence, data.accuracy, "k.", label="at its mean confidence")
        axes.plot([0, 1], [0, 1], "k--", linewidth=1)
        axes.set(title=f"{title}: ECE {data.error:.2%}", xlabel="confidence", xlim=(0, 1), ylim=(0, 1))
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    figure.axes[0].set_ylabel("accuracy")
    figure.axes[0].legend(loc="upper left")
    _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.use("agg")
    mpl.rcParams["text.parse_math"] = False  # a class may be called "$5"
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    # Without the writer's version in it, equal data gives an equal file.
    kind = path.suffix.lower().removeprefix(".") or "png"
    figure.savefig(path, dpi=_DPI, format=kind, metadata=_WITHOUT.get(kind))
