"""The model card: what a model is intended for, how accurate it is, and how both were determined."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from glimpse.models import calibration_pictures
from glimpse.models.bundle import Bundle
from glimpse.models.catalogue import find
from glimpse.models.train.defaults import auxiliary_weight
from glimpse.models.train.measure import Measurement
from glimpse.models.train.multi_label import card as label_card
from glimpse.models.train.multi_label.measure import LabelMeasurement
from glimpse.models.train.plan import Plan, Run
from glimpse.models.train.text import numbers, paragraph, table
from glimpse.models.train.transfer import card as transfer_card
from glimpse.models.train.transfer.plan import TransferRun

CARD = "MODEL_CARD.md"
CURVES = "curves.png"
CONFUSION = "confusion.png"
RELIABILITY = "reliability.png"
PLOTS = (CURVES, CONFUSION, RELIABILITY)
_HISTORY = ("Loss and accuracy by epoch", CURVES)


@dataclass(frozen=True, slots=True, kw_only=True)
class CardContents:
    """The values that a model card shows."""

    bundle: Bundle
    folder: Path  # in which the bundle will be
    run: Run | TransferRun
    parameters: int  # all of them, trainable and not
    epochs_done: int  # completed when the weights were saved
    data: str  # name of the data set
    note: str  # source and licence of the images; Markdown
    tested: bool  # whether the metrics are of test images; else they are of the held-out ones
    measurement: Measurement | LabelMeasurement  # the latter of a multi-label network
    training_note: str = ""  # about the training, beyond the plan; Markdown
    dtype: str = "float32"  # of the weights file
    command: tuple[str, ...] = ()  # arguments of the training, beside those of the plan and the recipe
    test: str = ""  # path of the test images, as it was given
    left_out: int = 0  # images that could not be read
    known_tests: int = 0  # test images that were also trained on
    backend: str = "tensorflow"  # of Keras
    provisional: bool = False  # the training was stopped before its end
    base_note: str = ""  # of a transfer: where the weights of its base come from
    plotted: bool = True  # the plots are beside the card


def write(card: CardContents) -> str:
    """The card as Markdown."""
    sections = (_head, _use, _data, _training, _results, _calibration, _novelty, _pictures, _again)
    if isinstance(card.measurement, LabelMeasurement):
        told = tests(card, card.measurement.images)
        return label_card.write(
            card, card.measurement, head=_head(card), tests=told, training=_training(card), again=_again(card)
        )
    return "\n\n".join(filter(None, (section(card) for section in sections))) + "\n"


def _head(card: CardContents) -> str:
    bundle = card.bundle
    options = ", ".join(f"{name} {json.dumps(value)}" for name, value in bundle.options.items())
    rows = {
        "version": bundle.version,
        "architecture": f"{_architecture(bundle)}, {options}" if options else _architecture(bundle),
        "parameters": f"{card.parameters:,}",
        "input": f"{bundle.recipe.height} x {bundle.recipe.width} pixels, "
        f"{'grayscale' if bundle.recipe.depth == 1 else 'RGB'}",
        "classes": str(len(bundle.labels)),
        "weights": f"`{bundle.weights_file}`, {card.dtype}, `{bundle.weights_digest}`",
        "pre-stem": f"`{bundle.recipe.digest}`",
    }
    return f"# {bundle.name}\n\n" + table(("", ""), rows.items())


def _architecture(bundle: Bundle) -> str:
    if not bundle.architecture:
        return "a Keras model"
    return f"`{bundle.architecture}`, variant `{bundle.variant}`"


def _use(card: CardContents) -> str:
    recipe, labels = card.bundle.recipe, [label.label for label in card.bundle.labels]
    shown = ", ".join(labels[:20]) + (f" and {len(labels) - 20} more" if len(labels) > 20 else "")
    return f"""## Intended use and limits

{paragraph(f"It sorts pictures that show one object into {len(labels)} classes: {shown}.")}

- Any picture gets one of these answers, also a picture of something else: it has no class for "none of them". A low
  probability is a hint, not a proof, that the picture shows something else.
- It sees {recipe.height} x {recipe.width} pixels. What is lost when a picture is reduced to that size, it cannot use.
- It gives one answer for the whole picture. It neither finds nor counts objects.
- It was measured on pictures like those it was trained on ({card.data}). On other cameras, crops or
  styles the accuracy below does not hold, nor does the calibration.
- Do not use it where a wrong answer can harm someone."""


def _data(card: CardContents) -> str:
    run, measured = card.run, card.measurement
    without = "No test images were given: the results below are those on the held-out images."
    tested = tests(card, measured.images) if card.tested else without
    equal = isinstance(run, Run) and run.hold_out_rule == "equal"
    share = "as many of every class, while it has some" if equal else "the same share of every class"
    used = (
        f"{card.data}: {run.images:,} images, of which {run.images - run.hold_out:,} trained the network and "
        f"{run.hold_out:,} ({share}) were held out to watch the training and to fit the "
        f"temperature. {tested}"
    )
    if card.left_out:
        used += f" {card.left_out:,} more could not be read and were left out."
    return f"## Data\n\n{paragraph(used)}\n\n{paragraph(card.note)}"


def tests(card: CardContents, images: int) -> str:
    """A sentence about the test images, of which there are so many."""
    if not card.known_tests:
        return f"{images:,} test images, which played no part in the training, give the results below."
    return (
        f"{images:,} test images give the results below. {card.known_tests:,} of them were also trained on, pixel for "
        "pixel, so that the results are better than on new images."
    )


def _training(card: CardContents) -> str:
    run = card.run
    if isinstance(run, TransferRun):
        return transfer_card.training(card, run, _command(card)) + _plot(card, *_HISTORY)
    plan, recipe = run.plan, run.recipe
    unfinished = (
        f"\n\n**Provisional**: these weights are from epoch {card.epochs_done} of {plan.total_epochs}."
        if card.provisional
        else ""
    )
    restart = (
        f", and once more in {plan.restart_epochs} epochs from {plan.restart_learning_rate:g}"
        if plan.restart_epochs
        else ""
    )
    begun = f"from epoch {plan.cutout_from + 1} on " if plan.cutout_from else ""
    cutout = (
        f"; {begun}a random square of {plan.cutout:g} of the image's side is blanked "
        "(DeVries and Taylor, arXiv:1708.04552)"
        if plan.cutout
        else ""
    )
    mixed = (
        f"; in {plan.cutmix:.0%} of the batches, every image gets a rectangle of another one, and its target the "
        "other's class by that share (CutMix: Yun et al., arXiv:1905.04899)"
        if plan.cutmix
        else ""
    )
    smoothing = (
        f"\n- **Label smoothing**: {plan.label_smoothing:g} (Szegedy et al., arXiv:1512.00567, section 7)."
        if plan.label_smoothing
        else ""
    )
    row = find(plan.architecture, plan.variant, plan.options)
    beside = (
        f"\n- **Auxiliary classifiers**: in training, their losses counted {auxiliary_weight(row):g} times; the bundle "
        "is without them."
        if row.served() != row
        else ""
    )
    told = f"\n\n{paragraph(card.training_note)}" if card.training_note else ""
    command = _command(card)
    return f"""## Training

- **Schedule**: {plan.epochs} epochs in batches of {plan.batch_size}; {_optimizer(plan)}; the
  learning rate rises to {plan.learning_rate:g} over {plan.warmup_epochs:g} epochs, then falls to 0 along a
  cosine{restart} (Loshchilov and Hutter, arXiv:1608.03983).
- **Weight decay**: {plan.weight_decay:g}, decoupled (Loshchilov and Hutter, arXiv:1711.05101), on kernels only.
- **Augmentation**: shift by up to an eighth of the image (its own edge, mirrored, comes in) and mirror, as in
  He et al., arXiv:1512.03385, section 4.2{cutout}{mixed}.{smoothing}{beside}
- **Pre-stem**: geometry `{recipe.geometry}`, filter `{recipe.filter}`; then minus {numbers(recipe.mean)}, divided by
  {numbers(recipe.std)} for {"grey" if recipe.depth == 1 else "red, green, blue"} in 0..255.
- **Precision**: {plan.precision}. **Seed**: {plan.seed}.{unfinished}{told}

From the folder in which this was trained, with the `python` of its environment:

```sh
{command}
```{_plot(card, *_HISTORY)}"""


def _optimizer(plan: Plan) -> str:
    if plan.optimizer == "adam":
        return f"Adam (Kingma and Ba, arXiv:1412.6980) with beta 1 of {plan.momentum:g}"
    return f"SGD with Nesterov momentum {plan.momentum:g}"


def _results(card: CardContents) -> str:
    measured = _measured(card)
    low, high = measured.top1_interval
    rows = [("top-1 accuracy", f"{measured.top1:.2%} (95% interval {low:.2%} to {high:.2%})")]
    if measured.top5 is not None:
        rows.append(("top-5 accuracy", f"{measured.top5:.2%}"))
    recall = [
        (label.label, f"{share:.1%}")
        for label, share in zip(card.bundle.labels, measured.recall, strict=True)
        if not math.isnan(share)
    ]
    kind = "test" if card.tested else "held-out"
    return f"""## Results on {measured.images:,} {kind} images

{table(("", ""), rows)}

{table(("class", "recall"), recall)}{_plot(card, "Confusion matrix", CONFUSION)}"""


def _measured(card: CardContents) -> Measurement:
    assert isinstance(card.measurement, Measurement)  # noqa: S101 - `write` has looked
    return card.measurement


def _calibration(card: CardContents) -> str:
    measured = _measured(card)
    before, after = measured.reliability_uncalibrated, measured.reliability
    rows = [
        ("expected calibration error, 15 bins", f"{before.error:.2%}", f"{after.error:.2%}"),
        ("mean negative log likelihood, nats", f"{measured.nll_uncalibrated:.4f}", f"{measured.nll:.4f}"),
    ]
    held_out = card.run.hold_out
    return f"""## Calibration

The logits are divided by the temperature {card.bundle.temperature:g} before the softmax; it was fitted on the
held-out images (Guo et al., arXiv:1706.04599), whose true classes have the target {held_out + 1:,}/{held_out + 2:,} in
place of 1 (Platt, 1999). The ranking of the classes stays as it is.

{table(("", "uncalibrated", "calibrated"), rows)}{_plot(card, "Accuracy over confidence", RELIABILITY)}"""


def _novelty(card: CardContents) -> str:
    found = card.bundle.novelty
    if found is None:
        return ""
    text = (
        f"An image is unknown, and shows none of these classes, if its {found.score.replace('_', ' ')} is above "
        f"{found.threshold:g} (`models/novelty/novelty.py` has the formula). That was fitted on the held-out images, "
        f"of which {found.known_share:.0%} pass. How many pictures of other things it catches was not measured: "
        "`python -m glimpse.models calibrate --foreign` does so."
    )
    return f"## Images of none of the classes\n\n{paragraph(text)}"


def _pictures(card: CardContents) -> str:
    if not calibration_pictures.there(card.bundle):
        return ""
    text = (
        f"`{calibration_pictures.FILE}` has up to {calibration_pictures.MOST} of the held-out images at the size of "
        "the network's input, with which a server may make the network int8. It may be deleted."
    )
    return f"## Pictures\n\n{paragraph(text)}"


def _again(card: CardContents) -> str:
    if card.tested:
        folder, test = shlex.quote(card.folder.as_posix()), shlex.quote(card.test)
        command = f"{_python(card)} -m glimpse.models.evaluate --bundle {folder} --data {test}"
        if "--test-labels" in card.command:
            command += f" --labels {shlex.quote(card.command[card.command.index('--test-labels') + 1])}"
        if "--skip-unreadable" in card.command:
            command += " --skip-unreadable"
        where = "From the folder in which this was trained:"
    else:
        command = f"{_command(card)} \\\n    --export-only"
        where = "The held-out images are part of those it was trained with. From the folder in which this was trained:"
    return f"## Measure it again\n\n{where}\n\n```sh\n{command}\n```"


def _python(card: CardContents) -> str:
    return "python" if card.backend == "tensorflow" else f"KERAS_BACKEND={card.backend} python"


def _command(card: CardContents) -> str:
    """The training command that reproduces this run, one option a line."""
    run = card.run
    if isinstance(run, TransferRun):
        return _lines(card, card.command, [f"--hold-out {run.hold_out}"])
    recipe = run.recipe
    always = ("batch_size", "optimizer", "learning_rate")  # their defaults depend on more than the command
    options: dict[str, object] = {
        field.name: value
        for field in fields(Plan)
        if field.name not in {"options", "head"}
        and ((value := getattr(run.plan, field.name)) != field.default or field.name in always)
    }
    if run.plan.restart_epochs:
        options["restart_learning_rate"] = run.plan.restart_learning_rate
    else:
        options.pop("restart_learning_rate", None)
    options |= {"hold_out": run.hold_out, "size": f"{recipe.height}x{recipe.width}"}
    options |= {"geometry": recipe.geometry, "crop_share": recipe.crop_share, "filter": recipe.filter}
    lines = [f"--{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in options.items()]
    lines += [f"--option {shlex.quote(f'{name}={json.dumps(value)}')}" for name, value in run.plan.options.items()]
    row = find(run.plan.architecture, run.plan.variant)
    if recipe.depth != row.input_shape[2]:
        lines.append(f"--channels {recipe.depth}")
    if recipe.padding != row.padding:
        lines.append(f"--padding {recipe.padding}")
    lines += [f"--mean {_exact(recipe.mean)}", f"--std {_exact(recipe.std)}"]
    return _lines(card, card.command, lines)


def _lines(card: CardContents, words: Iterable[str], more: Iterable[str]) -> str:
    """The command with one option a line: its words, which are quoted, and what is ready."""
    lines: list[str] = []
    for word in words:
        if word.startswith("--"):
            lines.append(word)
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return " \\\n    ".join([f"{_python(card)} -m glimpse.models.train", *lines, *more])


def _exact(values: tuple[float, ...]) -> str:
    return " ".join(map(str, values))


def _plot(card: CardContents, title: str, name: str) -> str:
    """A paragraph with a plot; empty where none was drawn."""
    return f"\n\n![{title}]({name})" if card.plotted else ""
