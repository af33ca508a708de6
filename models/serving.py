"""From a bundle to the graph that is served: uint8 pixels in, named outputs out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from glimpse.models import class_maps, features, keras_files, outputs, two_scores, weights
from glimpse.models.builder import Assembly, assemble
from glimpse.models.bundle import Bundle
from glimpse.models.catalogue import find
from glimpse.models.compiling import jit_compile
from glimpse.models.errors import BundleError
from glimpse.models.heads import BINARY, SOFTMAX, Head
from glimpse.models.network_limits import MOST_PARAMETERS, GiantNetworkError
from glimpse.models.prestem import graph
from glimpse.models.prestem.recipe import Recipe, change_for
from glimpse.models.weights_to_come import weights_to_come

_BATCH, _LEAST_BATCH = 500, 8
_PIXELS = 1 << 22  # in a batch: 83 images of 224 x 224, whose maps take a gigabyte


def load_bundle(bundle: Bundle) -> Assembly:
    """Build the network of a bundle and load its weights, or load the whole saved model where the bundle has one.

    Raises:
        BundleError: the weights file is missing, its digest is different, or the description is that of a network with
            more weights than it can hold.
        WeightsError: the weights do not fit the architecture.
    """
    bundle.check_digest()
    if bundle.graph:
        raise BundleError(
            f"{bundle.weights_path} is a graph of another framework, which Keras cannot load: only the server computes "
            "it, with GLIMPSE_RUNTIME=openvino. To use its weights in a network of the library, name the architecture."
        )
    if not bundle.architecture:
        return keras_files.load(
            bundle.weights_path, recipe=bundle.recipe, classes=len(bundle.labels), head=bundle.head.kind
        )
    row = find(bundle.architecture, bundle.variant, bundle.options).served()
    try:
        with weights_to_come():
            assembly = assemble(
                row,
                classes=1 if bundle.head.kind == BINARY else len(bundle.labels),
                input_shape=bundle.input_shape,
                most_parameters=min(MOST_PARAMETERS, _weights_of(bundle.weights_path)),
            )
    except GiantNetworkError as error:
        raise BundleError(
            f"{bundle.folder} describes a network that is too large, also for its weights file: {error}"
        ) from error
    notes: list[str] = []
    try:
        weights.load(assembly.model, bundle.weights_path, row.layouts(), row=row, say=notes.append)
    except weights.WeightsError as error:
        if (designed := row.shape[2]) == bundle.recipe.depth:
            raise
        change = change_for(bundle.recipe, (None, None, designed))
        raise weights.WeightsError(
            f"{error} {row.name} was designed for images of {designed} channel{'s' * (designed > 1)}. {change}"
        ) from error
    assembly = replace(assembly, notes=tuple(notes))
    if bundle.head.kind == BINARY:
        return replace(assembly, model=two_scores.of_one(assembly.model), output="binary")
    return assembly


def _weights_of(path: Path) -> int:
    """The most scalar weights that a network can have whose numbers are in a file, or in others beside it.

    Files of 8-bit numbers have a byte for each, and converted ones may lack those of normalisations.
    """
    return 2 * sum(file.stat().st_size for file in path.parent.iterdir() if file.is_file()) + (1 << 20)


def logits_model(assembly: Assembly, recipe: Recipe) -> keras.Model:
    """The network with the pre-stem's scaling in front: uint8 ``[N, H, W, C]`` -> float32 logits ``[N, classes]``.

    Raises:
        ValueError: the recipe produces images of another shape than the network takes.
    """
    pixels, scaled = _scaled_pixels(assembly, recipe)
    return keras.Model(pixels, assembly.model(scaled), name="logits")


def _scaled_pixels(assembly: Assembly, recipe: Recipe) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """uint8 ``[N, H, W, C]``, and the network's input that the pre-stem's scaling makes of it.

    Raises:
        ValueError: the recipe produces images of another shape than the network takes.
    """
    if (takes := tuple(assembly.model.input_shape[1:])) != recipe.shape:
        raise ValueError(
            f"The network takes images of shape {takes}, but the recipe produces {recipe.shape}. "
            f"{change_for(recipe, takes)}"
        )
    pixels = keras.Input(recipe.pixels_shape, dtype="uint8", name="pixels")
    return pixels, graph.scale(pixels, recipe)


def logits(network: keras.Model, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits of all images: uint8 ``[N, H, W, C]`` -> float32 ``[N, classes]``."""
    network.jit_compile = jit_compile()
    return np.asarray(network.predict(pixels, batch_size=at_once(*pixels.shape[1:3]), verbose=0), np.float32)


def at_once(height: int, width: int) -> int:
    """How many images of so many pixels are computed at once, where nothing is trained."""
    return max(_LEAST_BATCH, min(_BATCH, _PIXELS // (height * width)))


def serving_outputs(
    assembly: Assembly,
    recipe: Recipe,
    temperature: float,
    head: Head = SOFTMAX,
    *,
    statistics: str = "",
    whole_maps: bool = False,
) -> keras.Model:
    """Every output of `models.outputs` from one graph, each by a layer of its name, which `output_names` lists.

    The probabilities are softmax(logits / temperature) (Guo et al., arXiv:1706.04599, section 4.2), or of a multi-label
    head sigmoid((logits - offsets) / temperatures). The graph shares the assembly's variables and holds standard Keras
    layers only, so it can be saved and reloaded in safe mode.

    Args:
        assembly: the network, with its weights loaded.
        recipe: pre-stem that the weights were trained behind.
        temperature: above 1 softens the probabilities, below 1 sharpens them; the ranking stays. Of a multi-label head
            it is not used.
        head: what the scores mean.
        statistics: a layer whose statistics are an output, too (`models.features`); empty: none.
        whole_maps: with the maps of all classes, where the network has any, for a runtime that can leave them out.

    Returns:
        uint8 ``[N, H, W, C]`` -> a list of float32 arrays: probabilities and logits ``[N, classes]``, and embedding
        ``[N, D]`` where the network has one (`models.features`). Where it has class activation maps
        (`models.class_maps`), also these, ``[N, H, W, classes]``, or the feature map that they are made of,
        ``[N, H, W, C]``, which is computed anyway: the model's attribute `maps_head` then makes them. The statistics
        are the last.

    Raises:
        BundleError: the network has no such layer.
    """
    if not temperature > 0:
        raise ValueError(f"The temperature must be positive. Received: {temperature}")
    pixels, scaled = _scaled_pixels(assembly, recipe)
    inner = assembly.model
    found = class_maps.find(inner) if class_maps.grid(inner) is not None else None
    within = {outputs.LOGITS: inner.outputs[0], outputs.EMBEDDING: features.embedding(inner)}
    if found is not None:
        within[outputs.CLASS_MAPS if whole_maps else outputs.FEATURE_MAP] = (
            class_maps.maps(found) if whole_maps else found.features
        )
    if statistics:
        within[outputs.FEATURE_STATISTICS] = features.inner_map(inner, statistics)
    within = {name: tensor for name, tensor in within.items() if tensor is not None}
    given = keras.Model(inner.inputs, [*within.values()], name=inner.name)(scaled)
    tensors = dict(zip(within, keras.tree.flatten(given), strict=True))
    if statistics:  # beside the network, so that they are float32 whatever it computes in
        tensors[outputs.FEATURE_STATISTICS] = features.statistics(tensors[outputs.FEATURE_STATISTICS])
    others = [keras.layers.Identity(dtype="float32", name=name)(each) for name, each in tensors.items()]
    if head.exclusive:
        x = keras.layers.Rescaling(1 / temperature, dtype="float32", name="temperature")(others[0])
        x = keras.layers.Softmax(dtype="float32", name=outputs.PROBABILITIES)(x)
    else:
        each = zip(head.offsets, head.temperatures, strict=True)
        x = keras.layers.Rescaling(
            scale=[1 / divisor for divisor in head.temperatures],
            offset=[-offset / divisor for offset, divisor in each],
            dtype="float32",
            name="temperature",
        )(others[0])
        x = keras.layers.Activation("sigmoid", dtype="float32", name=outputs.PROBABILITIES)(x)
    model = keras.Model(pixels, [x, *others], name="serving")
    model.maps_head = None if found is None or whole_maps else class_maps.head(found)
    return model


def serving_model(assembly: Assembly, recipe: Recipe, temperature: float, head: Head = SOFTMAX) -> keras.Model:
    """The same with probabilities as its only output: uint8 ``[N, H, W, C]`` -> float32 ``[N, classes]``."""
    model = serving_outputs(assembly, recipe, temperature, head)
    return keras.Model(model.input, model.outputs[model.output_names.index(outputs.PROBABILITIES)], name="serving")


def without(model: keras.Model, *names: str) -> keras.Model:
    """The same serving model without those outputs of these names that it has; it shares all layers."""
    kept = [each for each, own in zip(model.outputs, model.output_names, strict=True) if own not in names]
    return keras.Model(model.input, kept, name=model.name)


def by_name(model: keras.Model, values: Any) -> dict[str, Any]:
    """What a model has given, by the names of its outputs."""
    return dict(zip(model.output_names, keras.tree.flatten(values), strict=True))
