"""From a bundle of a Keras network to the files that OpenVINO reads; for `server.runtime.conversion_worker`.

Keras and TensorFlow are imported here, which takes seconds.
"""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np

from glimpse.models import score_kinds
from glimpse.models.bundle import Bundle
from glimpse.models.keras_files import scores
from glimpse.models.outputs import PROBABILITIES
from glimpse.models.serving import by_name, load_bundle, serving_outputs
from glimpse.models.spec import NetworkSummary
from glimpse.server.runtime import UnsupportedNetworkError, errors_as_unsupported
from glimpse.server.runtime.openvino_graphs import convert, probabilities
from glimpse.server.runtime.tensorflow import limit_threads, with_values
from glimpse.server.runtimes import PRECISIONS, REFERENCE


def convert_keras(bundle: Bundle, folder: Path) -> NetworkSummary:
    """Write the network of a bundle to `folder`; returns a description of it.

    Raises:
        UnsupportedNetworkError: OpenVINO has no counterpart for an operation, or computes a network of the user's own
            otherwise than Keras.
        MemoryError: there was not enough.
        ValueError, OSError: the bundle or its weights cannot be used; the message says why.
    """
    assembly = load_bundle(bundle)
    limit_threads()
    model = serving_outputs(
        assembly,
        bundle.recipe,
        bundle.temperature,
        bundle.head,
        statistics=bundle.statistics_layer,
        whole_maps=True,
    )
    with errors_as_unsupported("openvino cannot convert this network"):
        graph = with_values(model)
    converted = convert(graph, folder)
    if not bundle.architecture:
        _compare(model, bundle, converted)
    return assembly.summary


def _compare(model: keras.Model, bundle: Bundle, converted: Path) -> None:
    """Refuse a network of a user's own that OpenVINO understands otherwise; those of the library have their tests.

    Raises:
        UnsupportedNetworkError: its answers are not Keras'.
    """
    pixels = score_kinds.pictures(bundle.recipe)
    # Two at a time: Keras keeps what every operation gives until the last has.
    pairs = (pixels[start : start + 2] for start in range(0, len(pixels), 2))
    expected = np.concatenate(
        [keras.ops.convert_to_numpy(by_name(model, model(pair, training=False))[PROBABILITIES]) for pair in pairs]
    )
    found = probabilities(converted, pixels)
    difference = float(np.abs(found - expected).max())
    most = PRECISIONS["bfloat16" if scores.half(model) else REFERENCE].tolerance
    if not difference <= most:  # nor is it where either is no number
        raise UnsupportedNetworkError(
            "openvino and Keras compute different results for this network: a probability differs by "
            f"{difference:.3g}, and {most} is allowed"
        )
