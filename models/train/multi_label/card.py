"""What the card of a multi-label model says otherwise than that of a model whose classes exclude each other."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from glimpse.models.train.multi_label.measure import LabelMeasurement
from glimpse.models.train.text import paragraph, table

if TYPE_CHECKING:
    from glimpse.models.train.card import CardContents

_SHOWN = 20  # labels that are named in a sentence


def write(card: CardContents, measured: LabelMeasurement, *, head: str, tests: str, training: str, again: str) -> str:
    """The card as Markdown.

    `head`, `training` and `again` are sections that are the same for all models, `tests` is a sentence about the test
    images.
    """
    data = _data(card, tests)
    return "\n\n".join((head, _use(card), data, training, _results(card, measured), again)) + "\n"


def _use(card: CardContents) -> str:
    recipe, labels = card.bundle.recipe, [label.label for label in card.bundle.labels]
    hidden = len(labels) - _SHOWN
    shown = ", ".join(labels[:_SHOWN]) + (f" and {hidden} more" if hidden > 0 else "")
    return f"""## Intended use and limits

{paragraph(f"It tells which of {len(labels)} labels a picture shows; that may be several of them, or none: {shown}.")}

- Each label has a probability of its own, and is told where that is at least the label's threshold. A picture of
  something else should get no label; that was not measured on pictures of other kinds.
- It sees {recipe.height} x {recipe.width} pixels. What is lost when a picture is reduced to that size, it cannot use.
- It gives answers for the whole picture. It neither finds nor counts objects.
- It was measured on pictures like those it was trained on ({card.data}). On other cameras, crops or
  styles the figures below do not hold, nor do the thresholds.
- Do not use it where a wrong answer can harm someone."""


def _data(card: CardContents, tests: str) -> str:
    run = card.run
    tested = (
        tests
        if card.tested
        else "No test images were given: the results below are those on the held-out images, on which the thresholds "
        "were fitted, so that they are better than on new images."
    )
    used = (
        f"{card.data}: {run.images:,} images, of which {run.images - run.hold_out:,} trained the network and "
        f"{run.hold_out:,} were held out to watch the training and to fit temperatures, offsets and thresholds; each "
        f"label keeps its share in both parts (Sechidis et al., 2011). {tested}"
    )
    if card.left_out:
        used += f" {card.left_out:,} more could not be read and were left out."
    loss = (
        "The loss is the binary cross-entropy of each label. An image that shows a label counts as much as the square "
        "root of how many times more images do not show it, 1 to 20 times."
    )
    return f"## Data\n\n{paragraph(used)}\n\n{paragraph(loss)}\n\n{paragraph(card.note)}"


def _results(card: CardContents, measured: LabelMeasurement) -> str:
    rows = [
        ("mean average precision", f"{measured.mean_average_precision:.2%}"),
        ("F1 of all labels together", f"{measured.f1_micro:.2%}"),
        ("F1, mean of the labels", f"{measured.f1_macro:.2%}"),
        ("images with all labels right", f"{measured.subset_accuracy:.2%}"),
        ("mean binary cross-entropy, nats", f"{measured.loss:.4f}, uncalibrated {measured.loss_uncalibrated:.4f}"),
    ]
    head = card.bundle.head
    each = [
        (
            label.label,
            f"{measured.shown[place]:,}",
            *(_share(values[place]) for values in (measured.average_precision, measured.precision, measured.recall)),
            _share(measured.f1[place]),
            f"{head.thresholds[place]:.3g}",
        )
        for place, label in enumerate(card.bundle.labels)
    ]
    calibration = (
        "The probability of a label is sigmoid((logit - offset) / temperature), with both numbers fitted for each "
        "label on the held-out images (Platt, 1999). Its threshold is the one with the best F1 on the same images."
    )
    kind = "test" if card.tested else "held-out"
    columns = ("label", "images", "average precision", "precision", "recall", "F1", "threshold")
    return f"""## Results on {measured.images:,} {kind} images

{table(("", ""), rows)}

{table(columns, each)}

{paragraph(calibration)}"""


def _share(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1%}"
