"""From a converted network to one in int8, with NNCF; for `server.runtime.conversion_worker`.

Post-training quantisation (Jacob et al., arXiv:1712.05877): weights and activations become whole numbers of 8 bits,
whose scales are taken from what the network computes for a few pictures, and what that shifts on average is put right
(Nagel et al., arXiv:1906.04721). Where that changes too many answers, layers stay in float32: of a small network those
that change them most, which NNCF's mode that watches the accuracy finds out; of a larger one the first ones and the
depthwise ones, for finding out would take longer than a start may.

NNCF is imported here, which takes seconds.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glimpse.models.outputs import LOGITS, PROBABILITIES
from glimpse.models.spec import NetworkSummary
from glimpse.server.machine import cores
from glimpse.server.runtime import UnsupportedNetworkError
from glimpse.server.runtime.openvino_graphs import compiled, errors_of_openvino, write
from glimpse.server.runtime.openvino_library import core, openvino, ops
from glimpse.server.runtime.quantisation import Orders

with contextlib.redirect_stdout(io.StringIO()):
    # Behind the line above that takes its telemetry away, or it would tell Google Analytics.
    import nncf

nncf.set_log_level(logging.ERROR)

_BATCH = 8  # images at a time where answers are compared
_MOVED = 0.01  # share of the probability that a careful network may give to other classes than float32 does, on average
_RESTORED = 16  # groups of layers that are taken back to float32, at the most: each of them costs speed
_RANKED = 40  # pictures with which layers are ranked
# Multiply-adds of an image up to which layers are ranked, with each of them taken back in turn.
_RANKS = 100_000_000
_FIRST = 1 / 6  # of the layers with weights
_WITH_WEIGHTS = ("Convolution", "GroupConvolution", "MatMul")  # OpenVINO's names
_DEPTHWISE = "GroupConvolution"
# Of the inverse temperature: times that of float32, in steps of 0.5%.
_SHARPNESS = np.exp(np.linspace(-0.4, 0.4, 161))
_SAME = 1e-3  # by which a probability may differ from the softmax of its logits

Pixels = NDArray[np.uint8]


def quantise(orders: Orders, folder: Path) -> NetworkSummary:
    """Write a network of which most layers compute in int8 to `folder`; returns the description of the original.

    Raises:
        UnsupportedNetworkError: NNCF or OpenVINO cannot do that with the network.
        MemoryError: there was not enough.
        OSError: the files cannot be written.
    """
    model = core().read_model(orders.graph)
    expected = _answers(model, orders.pixels)
    pictures = nncf.Dataset([each[np.newaxis] for each in orders.pixels])
    with errors_of_openvino("this network cannot be quantised"), contextlib.redirect_stdout(io.StringIO()):
        if orders.careful and orders.summary.multiply_adds <= _RANKS:
            made = _careful(
                model,
                pictures,
                expected[PROBABILITIES],
                exclusive=orders.bundle.head.exclusive,
            )
        else:
            made = nncf.quantize(
                model,
                pictures,
                subset_size=len(orders.pixels),
                preset=nncf.QuantizationPreset.MIXED,
                fast_bias_correction=not orders.careful,
                ignored_scope=nncf.IgnoredScope(names=delicate(model) if orders.careful else []),
                advanced_parameters=_advanced(),
            )
    if not any(node.get_type_name() == "FakeQuantize" for node in made.get_ops()):
        raise UnsupportedNetworkError("this network has no layer that could be quantised")
    _refit_temperature(made, expected, orders.pixels)
    write(made, folder)
    return orders.summary


def delicate(model: openvino.Model) -> list[str]:
    """The names of the layers that stay in float32 where they cannot be ranked.

    What the first layers round off goes through all others. A value of a depthwise layer is a sum of few products, so
    that their errors hardly cancel out. Of what int8 changes in the probabilities of EfficientNet-Lite0, no single
    layer makes more than a twentieth, and these together nearly a half.
    """
    layers = [each for each in model.get_ordered_ops() if each.get_type_name() in _WITH_WEIGHTS]
    first = math.ceil(_FIRST * len(layers))
    kept = [*layers[:first], *(each for each in layers[first:] if each.get_type_name() == _DEPTHWISE)]
    return [each.get_friendly_name() for each in kept]


def _advanced() -> nncf.AdvancedQuantizationParameters:
    """Without instructions for int8, products are added up in 16 bits, which weights of 7 bits do not overflow."""
    fix = nncf.OverflowFix.ENABLE if cores.saturates() else nncf.OverflowFix.DISABLE
    return nncf.AdvancedQuantizationParameters(overflow_fix=fix)


def _careful(model: openvino.Model, pictures: Any, expected: NDArray[np.float32], *, exclusive: bool) -> openvino.Model:
    """Quantised with exact correction of what is shifted, without the layers that change answers most."""

    def validate(network: openvino.CompiledModel, items: Iterable[Pixels]) -> tuple[float, list[float]]:
        """The share of the probability that stays where float32 puts it: on average, and for each picture."""
        place = _index(network.outputs)[PROBABILITIES]
        kept = []
        for picture in items:
            found = np.array(network(picture)[place], np.float32)[0]
            moved = np.abs(found - known[picture.tobytes()])
            # What leaves one class comes to another; each of several labels has a yes and a no of its own.
            kept.append(1 - float(moved.sum() / 2 if exclusive else moved.mean()))
        return float(np.mean(kept)), kept

    known = {picture.tobytes(): row for picture, row in zip(pictures.get_data(), expected, strict=True)}
    return nncf.quantize_with_accuracy_control(
        model,
        pictures,
        pictures,
        validate,
        max_drop=_MOVED,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(expected),
        advanced_quantization_parameters=_advanced(),
        advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(
            max_num_iterations=_RESTORED, ranking_subset_size=min(_RANKED, len(expected))
        ),
    )


def _refit_temperature(model: openvino.Model, expected: dict[str, NDArray[np.float32]], pixels: Pixels) -> None:
    """Divide the logits of `model` by what brings its probabilities closest to those of float32.

    Quantised logits are spread otherwise than those that the temperature was fitted to. The probabilities of float32
    stand for the true classes (arXiv:1706.04599 with the teacher's targets): the cross-entropy with them is minimised.
    """
    if not {LOGITS, PROBABILITIES} <= {name for each in model.outputs for name in each.get_names()}:
        return
    target = np.asarray(expected[PROBABILITIES], np.float64)
    before = _inverse_temperature(np.asarray(expected[LOGITS], np.float64), target)
    if before is None:
        return
    logits = np.asarray(_answers(model, pixels)[LOGITS], np.float64)
    losses = [-(target * _log_softmax(before * sharper * logits)).sum(axis=1).mean() for sharper in _SHARPNESS]
    if not np.isfinite(losses).all():
        return
    scale = before * _SHARPNESS[int(np.argmin(losses))]
    results = {name: each for each in model.outputs for name in each.get_names()}
    source = results[LOGITS].node.input_value(0)
    told = ops.softmax(ops.multiply(source, np.float32(scale)), 1)
    result = results[PROBABILITIES].node
    names = results[PROBABILITIES].get_names()
    result.input(0).get_source_output().set_names(set())
    result.input(0).replace_source_output(told.output(0))
    told.output(0).set_names(names)
    model.validate_nodes_and_infer_types()


def _inverse_temperature(logits: NDArray[np.float64], probabilities: NDArray[np.float64]) -> float | None:
    """What the logits are multiplied by before the softmax that makes `probabilities`; None: it is no such number."""
    first, last = logits.max(axis=1), logits.min(axis=1)
    rows = np.arange(len(logits))
    ratio = np.log(probabilities.max(axis=1)) - np.log(
        np.maximum(probabilities[rows, logits.argmin(axis=1)], np.finfo(np.float32).tiny)
    )
    spread = first - last
    usable = (spread > 0) & (probabilities[rows, logits.argmin(axis=1)] > np.finfo(np.float32).tiny * 1e3)
    if not usable.any():
        return None
    found = float(np.median(ratio[usable] / spread[usable]))
    off = np.abs(np.exp(_log_softmax(found * logits)) - probabilities).max()
    return found if np.isfinite(found) and found > 0 and off <= _SAME else None


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    found: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found


def _answers(model: openvino.Model, pixels: Pixels) -> dict[str, NDArray[np.float32]]:
    """Probabilities and logits for any number of pictures; maps of all classes would take hundreds of megabytes."""
    compute = compiled(model)
    batch = model.inputs[0].partial_shape[0]
    size = batch.get_length() if batch.is_static else _BATCH
    found: dict[str, list[NDArray[np.float32]]] = {}
    for begin in range(0, len(pixels), size):
        given = compute(np.take(pixels, range(begin, begin + size), axis=0, mode="wrap"))
        for name in given.keys() & {PROBABILITIES, LOGITS}:
            found.setdefault(name, []).append(given[name])
    return {name: np.concatenate(each)[: len(pixels)] for name, each in found.items()}


def _index(outputs: Any) -> dict[str, int]:
    return {name: place for place, each in enumerate(outputs) for name in each.get_names()}
