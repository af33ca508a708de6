"""Export a trained network as a bundle: weights, temperature, metrics, plots, model card."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
from numpy.typing import NDArray

from glimpse.models import bundle, calibration_pictures, drift, golden, serving, weights
from glimpse.models.builder import Assembly, assemble
from glimpse.models.bundle import Bundle, ClassLabel
from glimpse.models.calibration.fitting import fit_novelty, reference
from glimpse.models.catalogue import find
from glimpse.models.drift import Reference
from glimpse.models.heads import SOFTMAX, Head
from glimpse.models.novelty.novelty import FEWEST_IMAGES, NoveltyThreshold
from glimpse.models.plain import plain
from glimpse.models.train import calibrate, card, fit, plots
from glimpse.models.train.data import LabelledImages
from glimpse.models.train.measure import Measurement, measure
from glimpse.models.train.multi_label import calibrate as label_calibrate
from glimpse.models.train.multi_label import measure as label_measure
from glimpse.models.train.multi_label.measure import LabelMeasurement
from glimpse.models.train.plan import Run
from glimpse.models.train.renewed import renewed
from glimpse.models.train.transfer.plan import TransferRun


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What the user states about a model, and cannot be computed."""

    name: str  # of the bundle: what a client asks for
    version: str
    data: str  # name of the data set: "CIFAR-10"
    note: str  # source and licence of the images; Markdown
    training_note: str = ""  # about the training, beyond the plan; Markdown
    dtype: Literal["float32", "float16"] = "float32"  # of the weights file; the server computes with float32
    command: tuple[str, ...] = ()  # arguments that reproduce this bundle, beside those of the plan and the recipe
    test: str = ""  # path of the test images, as it was given
    pictures: bool = True  # held-out images are put into the bundle, with which a server may make the network int8
    base_note: str = ""  # of a transfer: where the weights of its base come from; Markdown


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSplits:
    """The labelled images of a run."""

    training: LabelledImages
    held_out: LabelledImages  # the temperature is fitted on them
    test: LabelledImages | None  # the model card's metrics are measured on them, or on the held-out ones when None
    left_out: tuple[tuple[str, str], ...] = ()  # images that could not be read, each with the reason
    known_tests: int = 0  # test images that are also trained on, see `models.train.repeated`
    contents: str = ""  # of those that train and are held out, see `models.train.contents`


def export(
    model: keras.Model, run: Run, splits: DataSplits, metadata: Metadata, folder: Path
) -> tuple[Bundle, Measurement | LabelMeasurement]:
    """Write the bundle of a trained `model` (a training graph of `models.train.fit`) into ``folder/bundle``.

    All metrics are measured on the float32 network as it will be served, not on the training graph.

    Args:
        model: the training graph.
        run: the plan that it was trained with.
        splits: labelled images.
        metadata: name, version, data set.
        folder: of the run, with its history.

    Raises:
        ValueError: there are no held-out images, on which the temperature is fitted.
    """
    trained = find(run.plan.architecture, run.plan.variant, run.plan.options)
    row = trained.served()
    options = {name: value for name, value in run.plan.options.items() if getattr(row, name) == getattr(trained, name)}
    epochs_done = fit.epochs_done(model, run.plan, splits.training)
    target = folder / "bundle"
    with renewed(target) as fresh:
        weights.save(fit.network(model), fresh / bundle.WEIGHTS, dtype=metadata.dtype)
        assembly = assemble(row, classes=len(run.labels), input_shape=run.recipe.shape)
        weights.load(assembly.model, fresh / bundle.WEIGHTS)
        trained_network = Trained(
            assembly=assembly,
            architecture=row.name,
            variant=row.variant,
            options=options,
            epochs=epochs_done,
            provisional=epochs_done < run.plan.total_epochs,
            history=fit.history(folder, epochs_done),
        )
        measurement = finish(trained_network, run, splits, metadata, fresh, target)
    return bundle.read(target), measurement


def told(made: Bundle, measurement: Measurement | LabelMeasurement, test: LabelledImages | None) -> str:
    """The last line that a training prints: how accurate the bundle is on which images, and where it is."""
    of = f"on {measurement.images:,} {'held-out' if test is None else 'test'} images"
    if isinstance(measurement, LabelMeasurement):
        accurate = f"{measurement.summary} {of}"
    else:
        low, high = measurement.top1_interval
        accurate = f"top-1 {measurement.top1:.1%} {of} (95% interval {low:.0%} to {high:.0%})"
    return plain(f"{made.name}, version {made.version}: {accurate}; the bundle is in {made.folder}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A network in float32 with the weights that its bundle has, and how far it was trained."""

    assembly: Assembly
    architecture: str  # name in the library; empty: the weights file is a whole Keras model
    variant: str
    options: Mapping[str, Any]  # of the architecture
    weights_file: str = bundle.WEIGHTS  # in the folder of the bundle
    epochs: int  # that were trained
    provisional: bool  # it was stopped before the end of its plan
    history: list[dict[str, float]]  # a row for each epoch


def finish(  # noqa: PLR0917 - both folders
    trained: Trained, run: Run | TransferRun, splits: DataSplits, metadata: Metadata, fresh: Path, target: Path
) -> Measurement | LabelMeasurement:
    """Calibrate and measure a network whose weights are in the folder of its bundle, and write all else there.

    Args:
        trained: the network.
        run: its plan, recipe and labels.
        splits: labelled images.
        metadata: name, version, data set.
        fresh: the folder of the bundle, with the weights.
        target: where that folder will be, and where an earlier bundle may be.

    Raises:
        ValueError: there are no held-out images, on which the temperature is fitted.
    """
    network = serving.logits_model(trained.assembly, run.recipe)
    held_out = serving.logits(network, splits.held_out.pixels)
    if splits.held_out.classes.ndim == 2:
        return _finish_labels(
            trained, run, splits, metadata, fresh=fresh, target=target, network=network, held_out=held_out
        )
    temperature = round(calibrate.fit_temperature(held_out, splits.held_out.classes), 4)
    # Of a few held-out images it would say little: the bundle is without, and `calibrate` can fit one later.
    threshold = fit_novelty(held_out, {}) if len(held_out) >= FEWEST_IMAGES else None
    judged = splits.held_out if splits.test is None else splits.test
    scores = held_out if splits.test is None else serving.logits(network, splits.test.pixels)
    measurement = measure(scores, judged.classes, temperature)

    if metadata.pictures:
        calibration_pictures.write(fresh, splits.held_out.pixels, splits.held_out.classes, run.recipe)
    written = _write(
        trained,
        run,
        metadata,
        fresh,
        measurement=measurement,
        temperature=temperature,
        novelty=threshold,
        drift=_reference(held_out, splits.held_out, temperature, threshold, run.recipe.depth),
    )
    network = serving.serving_model(trained.assembly, run.recipe, temperature)
    written = _with_golden_answers(written, network, target)
    plotted = _plotted(trained.history, measurement, run.labels, fresh)
    _write_card(written, trained, run, splits, metadata, target=target, measurement=measurement, plotted=plotted)
    return measurement


def _finish_labels(
    trained: Trained,
    run: Run | TransferRun,
    splits: DataSplits,
    metadata: Metadata,
    *,
    fresh: Path,
    target: Path,
    network: keras.Model,
    held_out: NDArray[np.float32],
) -> LabelMeasurement:
    """The same of a multi-label network: a temperature, an offset and a threshold for each label.

    It has neither a threshold of novelty nor a reference of drift, which follow from probabilities that add up to 1.

    Args:
        trained: as of `finish`, with the arguments up to `target`.
        network: pixels to logits.
        held_out: logits of the held-out images.
    """
    head = label_calibrate.fit(held_out, splits.held_out.classes)
    judged = splits.held_out if splits.test is None else splits.test
    scores = held_out if splits.test is None else serving.logits(network, splits.test.pixels)
    measurement = label_measure.measure(scores, judged.classes, head)
    written = _write(trained, run, metadata, fresh, measurement=measurement, temperature=1.0, head=head)
    written = _with_golden_answers(written, serving.serving_model(trained.assembly, run.recipe, 1.0, head), target)
    plotted = plots.available()
    if plotted:
        plots.curves(trained.history, fresh / card.CURVES)
    _write_card(written, trained, run, splits, metadata, target=target, measurement=measurement, plotted=plotted)
    return measurement


def _write(
    trained: Trained,
    run: Run | TransferRun,
    metadata: Metadata,
    target: Path,
    *,
    measurement: Measurement | LabelMeasurement,
    temperature: float,
    head: Head = SOFTMAX,
    novelty: NoveltyThreshold | None = None,
    drift: Reference | None = None,
) -> Bundle:
    """The description of a bundle whose weights are in the folder `target`."""
    return bundle.write(
        target,
        name=metadata.name,
        version=metadata.version,
        architecture=trained.architecture,
        variant=trained.variant,
        options=trained.options,
        weights=trained.weights_file,
        input_shape=run.recipe.shape,
        labels=[ClassLabel(label) for label in run.labels],
        recipe=run.recipe,
        temperature=temperature,
        metrics={name: round(value, 6) for name, value in measurement.metrics().items()},
        novelty=novelty,
        drift=drift,
        head=head,
    )


def _write_card(
    written: Bundle,
    trained: Trained,
    run: Run | TransferRun,
    splits: DataSplits,
    metadata: Metadata,
    *,
    target: Path,
    measurement: Measurement | LabelMeasurement,
    plotted: bool,
) -> None:
    text = card.write(
        card.CardContents(
            bundle=written,
            folder=target,
            run=run,
            parameters=trained.assembly.model.count_params(),
            epochs_done=trained.epochs,
            provisional=trained.provisional,
            command=metadata.command,
            test=metadata.test,
            left_out=len(splits.left_out),
            known_tests=splits.known_tests,
            backend=keras.backend.backend(),
            data=metadata.data,
            note=metadata.note,
            tested=splits.test is not None,
            training_note=metadata.training_note,
            dtype=metadata.dtype,
            measurement=measurement,
            base_note=metadata.base_note,
            plotted=plotted,
        )
    )
    # The card shows file names, which need not be valid text.
    (written.folder / card.CARD).write_text(text, encoding="utf-8", errors="replace")


def _reference(
    logits: NDArray[np.float32],
    images: LabelledImages,
    temperature: float,
    threshold: NoveltyThreshold | None,
    depth: int,
) -> Reference | None:
    """The reference of drift of the held-out images; None where they are too few. How large they came is not known."""
    if len(images) < drift.FEWEST_IMAGES:
        return None
    seen = [drift.image_figures(pixels, depth) for pixels in images.pixels]
    figures = {name: np.array([getattr(each, name) for each in seen]) for name in drift.ImageFigures._fields}
    return reference(logits, figures, temperature, threshold)


def _plotted(history: list[dict[str, float]], measurement: Measurement, labels: Sequence[str], target: Path) -> bool:
    """Draw the plots of a bundle into its folder; False where there is no matplotlib, which is said."""
    if not plots.available():
        print(  # noqa: T201 - a program's
            "The bundle has no plots, because matplotlib is not installed. To add them: pip install matplotlib, then "
            "run the same command with --export-only."
        )
        return False
    plots.curves(history, target / card.CURVES)
    plots.confusion(measurement.confusion, labels, target / card.CONFUSION)
    plots.reliability(measurement.reliability_uncalibrated, measurement.reliability, target / card.RELIABILITY)
    return True


def _with_golden_answers(written: Bundle, network: keras.Model, target: Path) -> Bundle:
    """The bundle with golden answers, or without them where no prediction has the margin that they need.

    The pictures are those of the bundle that is in `target`, if there is one.
    """
    by = f"Keras {keras.__version__} on {keras.backend.backend()} in float32"
    try:
        return golden.record(
            written,
            lambda pixels: keras.ops.convert_to_numpy(network(pixels, training=False)),
            _pictures(target),
            by=by,
        )
    except bundle.BundleError as error:
        later = f"To record them later: python -m glimpse.models golden {target}"
        print(plain(f"The bundle has no golden answers: {error} {later}"))  # noqa: T201 - a program's
        return written


def _pictures(target: Path) -> tuple[golden.SampleImage, ...]:
    name = golden.FOLDER
    with contextlib.suppress(bundle.BundleError):  # there is none yet
        name = bundle.read(target).golden or name
    return golden.pictures(target, name)
