"""From a trained network to a bundle: weights, temperature, measurement, pictures, model card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import keras

from glimpse.models import bundle, golden, serving, weights
from glimpse.models.builder import assemble
from glimpse.models.bundle import Bundle, ClassLabel
from glimpse.models.catalogue import find
from glimpse.models.plain import plain
from glimpse.models.train import calibrate, card, fit, plots
from glimpse.models.train.data import Labelled
from glimpse.models.train.measure import Measurement, measure
from glimpse.models.train.plan import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What the trainer says about a model and no computation can know."""

    name: str  # of the bundle: what a client asks for
    version: str
    data: str  # what the images are called: "CIFAR-10"
    note: str  # where they come from and under which terms they may be used; Markdown
    training_note: str = ""  # what the plan does not tell of the training; Markdown
    dtype: Literal["float32", "float16"] = "float32"  # of the weights on disk; they are served as float32
    command: tuple[str, ...] = ()  # options that give this bundle again, beside those of the plan and the recipe
    test: str = ""  # path of the test images, as it was given


@dataclass(frozen=True, slots=True, kw_only=True)
class Sets:
    """The labelled images of a run."""

    training: Labelled
    held_out: Labelled  # the temperature is fitted on them
    test: Labelled | None  # the card's numbers come from them; from the held-out ones when None
    left_out: tuple[tuple[str, str], ...] = ()  # images of the data that could not be read, each with why


def export(model: keras.Model, run: Run, sets: Sets, identity: Identity, folder: Path) -> tuple[Bundle, Measurement]:
    """Write the bundle of a trained `model` (a training graph of `models.train.fit`) into ``folder/bundle``.

    Everything is measured on the float32 network as it will be served, not on the training graph.

    Args:
        model: the training graph.
        run: what it was trained by.
        sets: labelled images.
        identity: name, version and provenance.
        folder: of the run, with its history.

    Raises:
        ValueError: there are neither held-out nor test images, or no held-out ones to fit the temperature on.
    """
    target = folder / "bundle"
    target.mkdir(parents=True, exist_ok=True)
    row = find(run.plan.architecture, run.plan.variant)
    weights.save(fit.network(model), target / bundle.WEIGHTS, dtype=identity.dtype)
    shape = (run.recipe.height, run.recipe.width, 3)
    assembly = assemble(row, classes=len(run.labels), input_shape=shape)
    weights.load(assembly.model, target / bundle.WEIGHTS)
    network = serving.logits_model(assembly, run.recipe)

    held_out = serving.logits(network, sets.held_out.pixels)
    temperature = round(calibrate.fit_temperature(held_out, sets.held_out.classes), 4)
    judged = sets.held_out if sets.test is None else sets.test
    scores = held_out if sets.test is None else serving.logits(network, sets.test.pixels)
    measurement = measure(scores, judged.classes, temperature)

    written = bundle.write(
        target,
        name=identity.name,
        version=identity.version,
        architecture=row.name,
        variant=row.variant,
        input_shape=shape,
        labels=[ClassLabel(label) for label in run.labels],
        recipe=run.recipe,
        temperature=temperature,
        metrics={name: round(value, 6) for name, value in measurement.metrics().items()},
    )
    written = _with_golden_answers(written, serving.serving_model(assembly, run.recipe, temperature))
    epochs_done = fit.epochs_done(model, run.plan, sets.training)
    history = fit.history(folder, epochs_done)
    plots.curves(history, target / card.CURVES)
    plots.confusion(measurement.confusion, run.labels, target / card.CONFUSION)
    plots.reliability(measurement.reliability_uncalibrated, measurement.reliability, target / card.RELIABILITY)
    text = card.write(
        card.Subject(
            bundle=written,
            run=run,
            parameters=assembly.model.count_params(),
            epochs_done=epochs_done,
            command=identity.command,
            test=identity.test,
            left_out=len(sets.left_out),
            backend=keras.backend.backend(),
            data=identity.data,
            note=identity.note,
            tested=sets.test is not None,
            training_note=identity.training_note,
            dtype=identity.dtype,
            measurement=measurement,
        )
    )
    # A name of a file, which the card tells, may be no text.
    (target / card.CARD).write_text(text, encoding="utf-8", errors="replace")
    return written, measurement


def _with_golden_answers(written: Bundle, network: keras.Model) -> Bundle:
    """The bundle with golden answers; without, where the network answers none of the shipped pictures clearly."""
    by = f"Keras {keras.__version__} on {keras.backend.backend()} in float32"
    try:
        return golden.record(
            written,
            lambda pixels: keras.ops.convert_to_numpy(network(pixels, training=False)),
            golden.pictures(written.folder),
            by=by,
        )
    except bundle.BundleError as error:
        print(plain(f"No golden answers. {error} Later: python -m glimpse.models golden {written.folder}"))  # noqa: T201 - a program's
        return written
