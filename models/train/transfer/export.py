"""Writing the bundle of a transfer."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from glimpse.models import bundle, keras_files, weights
from glimpse.models.builder import Assembly, assemble
from glimpse.models.bundle import Bundle
from glimpse.models.train import fit
from glimpse.models.train.export import DataSplits, Metadata, Trained, finish
from glimpse.models.train.measure import Measurement
from glimpse.models.train.multi_label.measure import LabelMeasurement
from glimpse.models.train.renewed import renewed
from glimpse.models.train.transfer.base import Base
from glimpse.models.train.transfer.network import Network
from glimpse.models.train.transfer.phase import Outcome
from glimpse.models.train.transfer.plan import TransferRun

WHOLE = "model.keras"  # the weights file of a bundle whose base is a whole Keras model


def export(
    network: Network,
    run: TransferRun,
    base: Base,
    outcome: tuple[Outcome, Outcome | None],
    *,
    splits: DataSplits,
    metadata: Metadata,
    folder: Path,
) -> tuple[Bundle, Measurement | LabelMeasurement]:
    """Write the bundle of a trained network into ``folder/bundle``.

    Args:
        network: with the weights of the best epoch.
        run: its plan, recipe and labels.
        base: what it was trained from.
        outcome: of the two phases; the second is None where nothing was thawed.
        splits: labelled images.
        metadata: name, version, data set.
        folder: of the run, with its history.
    """
    head, thawed = outcome
    row = base.row.served() if base.row else None
    options = {name: value for name, value in base.options.items() if row and getattr(row, name) == value}
    epochs = head.epochs + (thawed.epochs if thawed else 0)
    notes = " ".join(filter(None, (metadata.training_note, rejected(outcome))))
    metadata = dataclasses.replace(metadata, base_note=base.licence, training_note=notes)
    target = folder / "bundle"
    with renewed(target) as fresh:
        trained = Trained(
            assembly=_whole(network, run, fresh) if row is None else _of_row(network, run, base, metadata, fresh),
            architecture=row.name if row else "",
            variant=row.variant if row else "",
            options=options,
            weights_file=bundle.WEIGHTS if row else WHOLE,
            epochs=epochs,
            provisional=not (thawed.ended if thawed else head.ended and not run.plan.thaw),
            history=fit.history(folder, epochs),
        )
        measurement = finish(trained, run, splits, metadata, fresh, target)
    return bundle.read(target), measurement


def rejected(outcome: tuple[Outcome, Outcome | None]) -> str:
    """What to say where no epoch with thawed stages was better than the head alone; empty elsewhere.

    Args:
        outcome: of the two phases; the second is None where nothing was thawed.
    """
    _, thawed = outcome
    if thawed is None or thawed.best or not thawed.epochs:
        return ""
    return "No epoch with thawed stages was better on the held-out images than the head alone, whose weights are kept."


def _of_row(network: Network, run: TransferRun, base: Base, metadata: Metadata, target: Path) -> Assembly:
    """A network of the library with the weights as they were written, which may be in half the bytes."""
    assert base.row is not None  # noqa: S101 - its caller has looked
    weights.save(network.assembly.model, target / bundle.WEIGHTS, dtype=metadata.dtype)
    shape = run.recipe.shape
    assembly = assemble(base.row.served(), classes=len(run.labels), input_shape=shape)
    weights.load(assembly.model, target / bundle.WEIGHTS)
    return assembly


def _whole(network: Network, run: TransferRun, target: Path) -> Assembly:
    """A Keras model, read again as the server reads it."""
    network.assembly.model.save(target / WHOLE)
    return keras_files.load(target / WHOLE, recipe=run.recipe, classes=len(run.labels), head=run.plan.head)
