"""Reading whole models from Keras' files: `.keras`, and `.h5` of older versions including Keras 2.

Nothing in a file is run: layers with code of their own are refused. What a file claims is counted before Keras builds
anything, and while it does (`models.keras_files.bounds`). The weights of older files are read by our own readers.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from glimpse.models import weights
from glimpse.models.keras_files import bounds
from glimpse.models.messages import short
from glimpse.models.weights.errors import WeightsError
from glimpse.models.weights.files import saved_model

_SHOWN = 5  # names in a message
# Classes of models; Keras 1 called a functional one "Model".
_MODELS = ("Functional", "Model", "Sequential")
# They hold code, or what somebody else's code says.
_CODE = ("Lambda", "SlicingOpLambda", "TFOpLambda", "TFSMLayer", "TorchModuleWrapper")
# Arguments of layers of Keras 2 which only training looks at.
_FOR_TRAINING = re.compile(r"\w+_(?:initializer|regularizer|constraint)|rng_type")
_OLD_ROLES = {"kernel": "depthwise_kernel"}  # of a depthwise convolution


def read(path: Path) -> keras.Model:
    """Load the model in a file, in Keras' safe mode.

    Raises:
        WeightsError: the file is not a Keras model, or cannot be loaded without running code from it.
        MemoryError: there was not enough.
    """
    # A process of its own looks at the file first: nothing in it is compressed, and its numbers are all there.
    found = saved_model(path)
    if not found.config:
        raise WeightsError(
            f"{path} contains weights without a network. Give the architecture that they belong to with GLIMPSE_MODEL, "
            "or a .keras file, which contains both."
        )
    config = bounds.parsed(path, found.config)
    foreign = list(dict.fromkeys(_foreign(config)))
    try:
        with bounds.limit_variables(path, found.numbers):
            if not found.old:
                return keras.saving.load_model(path, compile=False, safe_mode=True)
            if not foreign:
                return _rebuilt(config, path)
        trouble = "they cannot be built"
    except (MemoryError, WeightsError):
        raise
    except Exception as error:  # noqa: BLE001 - Keras raises whatever its layers do
        trouble = short(error)
    if foreign:
        more = f" and {len(foreign) - _SHOWN} more" if len(foreign) > _SHOWN else ""
        raise WeightsError(
            f"{path} cannot be loaded in safe mode, which runs no code from a file: it has layers that are not part of "
            f"Keras: {', '.join(foreign[:_SHOWN])}{more}. Save a model of Keras' own layers, or give the architecture "
            f"of the library that its weights belong to, with GLIMPSE_MODEL.{_likely(path)}"
        )
    raise WeightsError(f"{path} cannot be loaded as a model of Keras in safe mode: {trouble}")


def _likely(path: Path) -> str:
    """A sentence about what its weights may be of; empty where nothing is known."""
    with contextlib.suppress(WeightsError, OSError):
        return weights.likely_networks(path)
    return ""


def _layers(model: Any) -> Iterator[dict[str, Any]]:
    """The configuration of a model and of all layers in it: each a dictionary with a class and a config."""
    waiting: list[Any] = [model]
    while waiting:
        match waiting.pop():
            case {"class_name": str(), "config": dict(config)} as layer:
                yield layer
                waiting.append(config.get("layer"))  # of a wrapper
                if isinstance(inner := config.get("layers"), list):
                    waiting.extend(reversed(inner))
            case {"class_name": "Sequential", "config": list(inner)} as layer:  # Keras 1
                yield layer
                waiting.extend(reversed(inner))


def _foreign(config: object) -> Iterator[str]:
    """Classes of layers that are not Keras' own."""
    for layer in _layers(config):
        name, module = layer["class_name"], layer.get("module", "keras.layers")
        own = isinstance(module, str) and module.split(".")[0] in ("keras", "tf_keras")
        known = "module" in layer or name in _MODELS or hasattr(keras.layers, name)
        if not own or not known or name in _CODE:
            yield name


def _rebuilt(config: Any, path: Path) -> keras.Model:
    """A model as Keras 2 describes it, with the weights of the file."""
    _to_keras_3(config)
    kind = keras.Sequential if config["class_name"] == "Sequential" else keras.Model
    model = kind.from_config(config["config"])
    _set_weights(model, path)
    return model


def _to_keras_3(config: object) -> None:
    """Change what Keras 3 does not understand of a configuration of Keras 2."""
    for layer in _layers(config):
        for key in ("module", "registered_name", "build_config", "compile_config"):
            layer.pop(key, None)
        values = layer["config"]
        if not isinstance(values, dict):
            continue
        _renumber(values)
        if (shape := values.pop("batch_input_shape", None)) is not None:
            values |= {"batch_shape": shape} if layer["class_name"] == "InputLayer" else {"input_shape": shape[1:]}
        if isinstance(axis := values.get("axis"), list) and len(axis) == 1:
            values["axis"] = axis[0]
        known = _arguments(layer["class_name"])
        for key in [key for key in values if known and key not in known]:
            if _FOR_TRAINING.fullmatch(key) or (key == "groups" and values[key] == 1):
                del values[key]
        match values.get("dtype"):
            case {"config": {"name": str(policy)}}:
                values["dtype"] = policy


def _renumber(model: dict[str, Any]) -> None:
    """Change how Keras 2 refers to layers of a functional model: ``[name, call, tensor]``.

    It counts the calls of a model within the model from 1. Keras 3 counts from 0, but for a functional model's where it
    is an output. And around a single input or output is a list, which would become a list of one tensor.
    """
    layers = [layer for layer in model.get("layers", ()) if isinstance(layer, dict)]
    inner = {layer.get("name"): layer.get("class_name") for layer in layers if layer.get("class_name") in _MODELS}
    inbound = [each for each in _references([layer.get("inbound_nodes") for layer in layers]) if each[0] in inner]
    outputs = [each for each in _references([model.get("output_layers")]) if inner.get(each[0]) == "Sequential"]
    for reference in (*inbound, *outputs):
        reference[1] = max(0, reference[1] - 1)
    for key in ("input_layers", "output_layers"):
        match model.get(key):
            case [[str(), int(), int()] as alone]:
                model[key] = alone


def _references(waiting: list[Any]) -> Iterator[list[Any]]:
    while waiting:
        match waiting.pop():
            case [str(), int(), int(), *_] as reference:
                yield reference
            case list(parts):
                waiting.extend(parts)


def _arguments(name: str) -> set[str]:
    """What a layer of Keras 3 may be told; empty: it is no layer."""
    layer = getattr(keras.layers, name, None)
    if not isinstance(layer, type):
        return set()
    inits = (vars(kind)["__init__"] for kind in layer.__mro__ if "__init__" in vars(kind))
    return {argument for init in inits for argument in inspect.signature(init).parameters}


def _set_weights(model: keras.Model, path: Path) -> None:
    tensors = weights.read(path)
    missing = []
    for layer, outer in _leaves(model):
        for number, variable in enumerate(layer.weights):
            roles = (variable.name, _OLD_ROLES.get(variable.name, variable.name), str(number))
            names = [*(f"{layer.name}/{role}" for role in roles), f"{outer}/{variable.name}"]
            value = next((tensors[name] for name in names if name in tensors), None)
            if value is None or tuple(value.shape) != tuple(variable.shape):
                missing.append(names[0])
            else:
                variable.assign(np.asarray(value))
        if hasattr(layer, "finalize_state"):  # it computes with what it makes of its weights
            layer.finalize_state()
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise WeightsError(
            f"{path} lacks weights for layers that it describes, or has them in another shape: "
            f"{', '.join(missing[:_SHOWN])}{more}. Save it again."
        )


def _leaves(model: keras.Model, outer: str = "") -> Iterator[tuple[keras.Layer, str]]:
    """Layers that are no models, each with the outermost model within `model` that it is in.

    Where that has a single layer with such a variable, files may call it by the model's name.
    """
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _leaves(layer, outer or layer.name)
        else:
            yield layer, outer
