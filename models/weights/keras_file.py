"""Keras' files: tensors come out as ``<layer>/<role>``, whichever of the three layouts they were written in.

- ``.keras`` is a zip file of the graph, config.json, and of the second layout, model.weights.h5.
- ``.weights.h5`` of Keras 3 places a layer by its class, ``layers/conv2d_1/vars/0``, and numbers its variables. The
  layer's own name is an attribute of ``vars``; older versions of Keras 3 left it to config.json.
- ``.h5`` of Keras 1 and 2 and of Keras Applications lists the layers by name, and the variables of each.

A layer in a model within the model is called by its own name; one in a layer of somebody's own, as the residual units
that books teach, by its place, ``residual_unit_1/main_layers/conv2d``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glimpse.models.weights.archive import Archive
from glimpse.models.weights.contents import Contents, SavedModel
from glimpse.models.weights.errors import WeightsError
from glimpse.models.weights.hdf5_file import Hdf5

Tensors = dict[str, NDArray[np.generic]]

WEIGHTS = "model.weights.h5"
_CONFIG = "config.json"
_METADATA = "metadata.json"
_CONFIG_SIZE = 8 << 20  # bytes; those of the largest networks have one or two MiB
_ROOTS = ("layers/", "_layer_checkpoint_dependencies/")  # the second is TensorFlow 2.13's; beside them: the optimizer
# A layer in a list, or under another name, of a layer that is no model: models have theirs in "layers".
_WITHIN = re.compile(r"(?:^|/)layers/([^/]+/(?!layers/)[^/]+/.+)$")
_DENSE = ("kernel", "bias")
_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
# Variables by class, in the order of their numbers; the last of them may be missing.
_ROLES: Mapping[str, tuple[str, ...]] = {
    "conv2d": _DENSE,
    "dense": _DENSE,
    "depthwise_conv2d": _DENSE,
    "separable_conv2d": ("depthwise_kernel", "pointwise_kernel", "bias"),
    "batch_normalization": _NORM,
    "layer_normalization": ("gamma", "beta"),
}
# Keras 1's "conv1_W_1:0", and what TensorFlow puts behind a name.
_OLD_ROLES = {"W": "kernel", "b": "bias", "running_mean": "moving_mean", "running_std": "moving_variance"}
_OLD_NAME = re.compile(r".+?_(W|b|depthwise_kernel|pointwise_kernel|gamma|beta|running_mean|running_std)(?:_\d+)?")


def read_archive(archive: Archive, path: Path) -> Contents:
    """The tensors of a ``.keras`` file.

    The graph is looked at for names and for what normalisations add to the variance, and nothing of it is built.
    """
    layers = _layers(archive, path) if _CONFIG in archive.names else {}
    return _contents(_numbered(_weights(archive, path), path, layers), layers)


def _weights(archive: Archive, path: Path) -> Hdf5:
    start, size = archive.place(WEIGHTS)
    return Hdf5(archive.file, path, archive.data, start=start, size=size)


def read_hdf5(hdf5: Hdf5, path: Path) -> Contents:
    """The tensors of an HDF5 file of Keras; its graph, where it has one, is looked at as that of an archive."""
    # A whole model of Keras 2 has its weights in a group.
    root = "model_weights" if "model_weights" in hdf5.members("") else ""
    names = hdf5.texts(root, "layer_names")
    if names is None:
        return Contents(_numbered(hdf5, path, {}))
    return _contents(_listed(hdf5, path, root, names), _of_text(hdf5.text("", "model_config") or ""))


def _contents(tensors: Tensors, layers: Mapping[str, Mapping[str, Any]]) -> Contents:
    """The tensors, and what the configurations of the layers, by their places, say that they do not."""
    epsilons: dict[str, float] = {}
    for place, config in layers.items():
        name, value = config.get("name"), config.get("epsilon")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e6:
            continue
        kind = re.sub(r"_\d+$", "", place.rpartition("/")[2])
        if kind == "batch_normalization" and f"{name}/moving_variance" in tensors:
            epsilons[str(name)] = float(value)
    return Contents(tensors, epsilons=epsilons)


def _of_text(text: str) -> dict[str, Mapping[str, Any]]:
    """The configuration of every layer, as `_layers`; none where it cannot be read, as only whole models need it."""
    try:
        return _by_place(json.loads(text)) if 0 < len(text) <= _CONFIG_SIZE else {}
    except (ValueError, RecursionError):
        return {}


def model(archive: Archive, path: Path) -> SavedModel:
    """What a ``.keras`` file says of the model in it."""
    if WEIGHTS not in archive.names:
        raise WeightsError(f"{path} lacks {WEIGHTS}, in which Keras keeps the weights. Save the model again.")
    config = _text(archive, _CONFIG, path)
    metadata = _parsed(_text(archive, _METADATA, path), path) if _METADATA in archive.names else {}
    version = metadata.get("keras_version", "3") if isinstance(metadata, dict) else "3"
    old = isinstance(version, str) and version.startswith("2.")
    return SavedModel(config, old=old, hdf5=False, numbers=_weights(archive, path).numbers())


def old_model(hdf5: Hdf5, path: Path) -> SavedModel:
    """What an ``.h5`` file says of the model in it."""
    config = hdf5.text("", "model_config") or ""
    if len(config) > _CONFIG_SIZE:
        raise _too_long("model_config", path)
    return SavedModel(config, old=True, hdf5=True, numbers=hdf5.numbers() if config else 0)


def _text(archive: Archive, name: str, path: Path) -> str:
    if name not in archive.names:
        raise WeightsError(f"{path} is a damaged .keras file: it lacks {name}. Copy it again.")
    if archive.place(name)[1] > _CONFIG_SIZE:
        raise _too_long(name, path)
    try:
        return bytes(archive.view(name)).decode()
    except UnicodeDecodeError as error:
        raise WeightsError(f"{path} has a damaged configuration: {error}. Copy it again.") from error


def _too_long(name: str, path: Path) -> WeightsError:
    return WeightsError(
        f"{path} has a configuration, {name}, of more than {_CONFIG_SIZE >> 20} MiB; those of the largest networks "
        "have one or two. Save the model again."
    )


def _parsed(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} has a damaged configuration: {str(error)[:200]}. Copy it again.") from error


def _listed(file: Hdf5, path: Path, root: str, layers: list[str]) -> Tensors:
    tensors: Tensors = {}
    for layer in layers:
        group = f"{root}/{layer}".lstrip("/")
        weights = file.texts(group, "weight_names") or []
        roles = [_role(weight) for weight in weights]
        alone = len(set(roles)) == len(roles)
        for weight, role in zip(weights, roles, strict=True):
            owner = weight.rpartition("/")[0]
            # Names of variables may differ from the layer's (conv1_2/kernel of conv1), whose name counts; but a model
            # within the model lists the variables of all its layers.
            nested = owner.startswith(f"{layer}/") or (owner not in {"", layer} and not alone)
            _add(tensors, f"{owner.rpartition('/')[2] if nested else layer}/{role}", file.array(group, weight), path)
    return _some(tensors, path)


def _role(weight: str) -> str:
    """``kernel`` of ``conv1/kernel:0`` and of Keras 1's ``conv1_W_1:0``."""
    name = re.sub(r":\d+$", "", weight.rpartition("/")[2])
    match = _OLD_NAME.fullmatch(name)
    return _OLD_ROLES.get(match[1], match[1]) if match else name


def _numbered(file: Hdf5, path: Path, layers: Mapping[str, Mapping[str, Any]]) -> Tensors:
    """Tensors of ``layers/<class>_<number>/vars/<number>``."""
    tensors: Tensors = {}
    # Where most layers have a place in one of somebody's own, the class says which of the others it is.
    places = [folder.removesuffix("/vars") for folder in file.groups() if folder.endswith("/vars")]
    by_place = any(_WITHIN.search(place) for place in places if not place.endswith("/seed_generator"))
    for folder in file.groups():
        count = len(file.members(folder))
        if not folder.startswith(_ROOTS) or not folder.endswith("/vars") or not count:
            continue
        place = folder.removesuffix("/vars")
        config = layers.get(place.split("/", maxsplit=1)[1], {})
        kind = re.sub(r"_\d+$", "", place.rpartition("/")[2])
        if kind == "seed_generator":  # of a dropout
            continue
        layer = file.text(folder, "name") or config.get("name")
        if inner := _WITHIN.search(place):
            layer = inner[1]
        elif not isinstance(layer, str) and by_place:
            layer = place.rpartition("/")[2]
        elif not isinstance(layer, str):
            raise WeightsError(
                f"{path} tells layers apart by their class only ({place.rpartition('/')[2]}), as older versions of "
                "Keras wrote weights, so that they cannot be mapped by name. Save the whole model: "
                'model.save("model.keras").'
            )
        for role, number in zip(_roles(kind, count, config, layer, path), range(count), strict=True):
            _add(tensors, f"{layer}/{role}", file.array(folder, str(number)), path)
    return _some(tensors, path)


def _roles(kind: str, count: int, config: Mapping[str, Any], layer: str, path: Path) -> tuple[str, ...]:
    roles = _ROLES.get(kind)
    if roles is None:
        return tuple(map(str, range(count)))  # a layer that no network of the library has
    if kind.endswith("_normalization"):
        scale, center = config.get("scale"), config.get("center")
        # Without the graph, one variable less is a missing gamma: nobody scales without shifting.
        if scale is False or (scale is None and count < len(roles)):
            roles = tuple(role for role in roles if role != "gamma")
        if center is False or (center is None and count < len(roles)):
            roles = tuple(role for role in roles if role != "beta")
    if not len(roles) - (roles[-1] == "bias") <= count <= len(roles):
        raise WeightsError(
            f"{path} has {count} variables for {layer!r}, a {kind} layer with {', '.join(roles)}. A quantised model, "
            "or one with adapters, must be saved in full precision and merged."
        )
    return roles[:count]


def _layers(archive: Archive, path: Path) -> dict[str, Mapping[str, Any]]:
    """By place in the weights, ``conv2d_1`` or ``functional/layers/dense``, the configuration of every layer."""
    try:
        data = archive.view(_CONFIG)
        if len(data) > _CONFIG_SIZE:
            raise _too_long(_CONFIG, path)
        graph = json.loads(bytes(data))
    except WeightsError:
        raise
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} has a damaged {_CONFIG}: {error}. Copy it again.") from error
    return _by_place(graph)


def _by_place(graph: object) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    waiting: list[tuple[str, object]] = [("", graph)]
    while waiting:
        within, model = waiting.pop()
        used: dict[str, int] = {}
        for kind, config in _members(model):
            base = _snake_case(kind)
            used[base] = used.get(base, -1) + 1
            place = within + (f"{base}_{used[base]}" if used[base] else base)
            found[place] = config
            waiting.append((f"{place}/layers/", {"config": config}))
    return found


def _members(model: object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Class and configuration of a model's layers, in order."""
    match model:
        case {"config": {"layers": list(layers)}}:
            for layer in layers:
                match layer:
                    case {"class_name": str(kind), "config": dict(config)}:
                        yield kind, config


def _snake_case(name: str) -> str:
    """``BatchNormalization`` as ``batch_normalization``, ``Conv2D`` as ``conv2d``, ``DepthwiseConv2D`` likewise."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _add(tensors: Tensors, name: str, value: NDArray[np.generic], path: Path) -> None:
    if name in tensors:
        raise WeightsError(f"{path} has two tensors for {name!r}. Give the layers of the model unique names.")
    tensors[name] = value


def _some(tensors: Tensors, path: Path) -> Tensors:
    if not tensors:
        raise WeightsError(
            f"{path} is an HDF5 file without weights of a functional or sequential Keras model. Save those of one."
        )
    return tensors
