"""What configurations of other libraries, beside a graph, say of labels and preprocessing.

``config.json`` and ``preprocessor_config.json`` are those of Hugging Face's transformers; timm has both in a
``config.json`` of its own. Values are those of the libraries: means and deviations of pixels from 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from glimpse.models.errors import BundleError
from glimpse.models.files import bounded_files
from glimpse.models.files.bounded_files import shown
from glimpse.models.foreign.facts import GraphError
from glimpse.models.foreign.names import labels_of
from glimpse.models.labels import ClassLabel
from glimpse.models.published.checkpoint import labels as published_labels

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
_BYTES = 16 << 20  # of a file: that of ImageNet-22k with its labels twice has three
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
# The beginnings of the names of processors that do more than their values say, or know values of their own.
_CONVNEXT, _EFFICIENTNET, _LEVIT, _MOBILEVIT, _POOLFORMER = (
    "convnext",
    "efficientnet",
    "levit",
    "mobilevit",
    "poolformer",
)
_CONVNEXT_CROPS_BELOW = 384  # pixels
_LEVIT_ENLARGES = 256 / 224  # the shorter side, before the centre is cropped
_POOLFORMER_SHARE = 0.9
_HALF = 127.5  # of a pixel's values
_IMAGENET = 1000  # classes


class _NotUnderstoodError(ValueError):
    """A configuration says something for which recipes have no word."""


def labels(folder: Path) -> tuple[ClassLabel, ...]:
    """The labels that a configuration in the folder names; none where it says nothing.

    Raises:
        GraphError: it cannot be read, or what it says cannot be used.
    """
    config = _json(folder, CONFIG)
    what = _timm_labels if isinstance(config.get("pretrained_cfg"), Mapping) else _hugging_face_labels
    found: tuple[ClassLabel, ...] = _attempt(folder / CONFIG, what, config)
    return found


def is_multi_label(folder: Path) -> bool:
    """Whether a configuration in the folder says that an image may show several labels, or none.

    Raises:
        GraphError: it cannot be read.
    """
    return _json(folder, CONFIG).get("problem_type") == "multi_label_classification"


def recipe(folder: Path) -> dict[str, Any]:
    """The fields of a recipe that say what a configuration in the folder says; empty where it says nothing.

    Raises:
        GraphError: it cannot be read, or asks for what a recipe cannot say.
    """
    pretrained = _json(folder, CONFIG).get("pretrained_cfg")
    if isinstance(pretrained, Mapping):
        path, what, values = folder / CONFIG, _timm_recipe, pretrained
    else:
        path, what, values = folder / PREPROCESSOR, _hugging_face_recipe, _json(folder, PREPROCESSOR)
    found: dict[str, Any] = _attempt(path, what, values) if values else {}
    return found


def _attempt(path: Path, what: Callable[[Any], Any], values: Mapping[str, Any]) -> Any:
    try:
        return what(values)
    except _NotUnderstoodError as error:
        raise GraphError(
            f"{path} {error}, which a recipe cannot say. Write a recipe.toml beside it that comes closest."
        ) from error
    except (BundleError, ValueError, TypeError, ArithmeticError) as error:
        raise GraphError(
            f"{path} cannot be used: {error}. Write a recipe.toml and a labels.txt in its place."
        ) from error


def _json(folder: Path, name: str) -> Mapping[str, Any]:
    """An object of JSON in the folder; empty where there is no such file."""
    path = folder / name
    try:
        if not path.is_file():
            return {}
        values = bounded_files.parse_json(bounded_files.read_text(bounded_files.inside(folder, name), _BYTES))
    except OSError as error:
        raise GraphError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise GraphError(f"{path} cannot be read: {error}. Remove it, or copy it again.") from error
    return values if isinstance(values, Mapping) else {}


def _hugging_face_labels(config: Mapping[str, Any]) -> tuple[ClassLabel, ...]:
    return labels_of(config["id2label"]) if config.get("id2label") else ()


def _hugging_face_recipe(values: Mapping[str, Any]) -> dict[str, Any]:
    """An image processor of transformers: ``do_resize``, ``size``, ``do_center_crop``, ``crop_size``, ..."""
    kind = str(values.get("image_processor_type") or values.get("feature_extractor_type") or "").casefold()
    resized = _size(values.get("size")) if values.get("do_resize", True) else None
    cropped = _size(values.get("crop_size")) if values.get("do_center_crop") else None
    if resized is None and cropped is None:
        return {}
    if resized is not None:
        resized = _enlarged(resized, kind, values)
    recipe: dict[str, Any] = {"smaller": "resize", "filter": _filter(values.get("resample", 2))}
    if cropped is not None:
        height, width = _both(cropped)
        # Without a size the image is not resized at all, which no recipe says.
        if resized is None:
            raise _NotUnderstoodError("crops images without resizing them")
        recipe |= _cropped(resized, height, width)
    elif isinstance(resized, int) and kind.startswith(_CONVNEXT):
        height = width = resized
        share = _number(values.get("crop_pct") or 224 / 256)
        small = resized < _CONVNEXT_CROPS_BELOW
        recipe |= {"geometry": "crop", "crop_share": share} if small else {"geometry": "squash"}
    elif isinstance(resized, int) and isinstance(values.get("size"), Mapping):
        # The other side is longer, and nothing crops it: the network takes images of any size.
        height = width = resized
        recipe["geometry"] = "crop"
    elif resized is not None:
        height, width = _both(resized)
        recipe["geometry"] = "squash"
    return recipe | {"height": height, "width": width} | _hugging_face_scaling(kind, values)


def _enlarged(resized: int | tuple[int, int], kind: str, values: Mapping[str, Any]) -> int | tuple[int, int]:
    """What images are resized to: by two kinds of processors to more than the size that is said."""
    if kind.startswith(_LEVIT) and isinstance(resized, int):
        return int(_LEVIT_ENLARGES * resized)
    share = values.get("crop_pct", _POOLFORMER_SHARE)
    if not kind.startswith(_POOLFORMER) or share is None:
        return resized
    if not 0 < (share := _number(share)) <= 1:
        raise ValueError(f"crop_pct must be above 0 and at most 1. Received: {shown(share)}")
    if isinstance(resized, int):
        return int(resized / share)
    height, width = (int(side / share) for side in resized)
    return height if height == width else (height, width)


def _hugging_face_scaling(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Channels, mean and std of an image processor: ``do_rescale``, ``do_normalize``, ``include_top``, ..."""
    rescaled, factor = values.get("do_rescale", True), 1.0
    if rescaled:
        factor = _number(values.get("rescale_factor") or 1 / 255)
    mean = _numbers(values.get("image_mean") or [0.5] * 3, "mean")
    std = deviations = _numbers(values.get("image_std") or [0.5] * 3, "std")
    if not values.get("do_normalize", not kind.startswith(_MOBILEVIT)):
        mean, std = [0.0] * len(mean), [1.0] * len(std)
    if values.get("include_top", kind.startswith(_EFFICIENTNET)):  # what was normalised is divided once more
        std = [one * other for one, other in zip(std, deviations, strict=True)]
    if rescaled and values.get("rescale_offset"):
        if not math.isclose(factor * _HALF, 1, rel_tol=1e-6):  # with others, versions of transformers differ
            raise _NotUnderstoodError(f"subtracts an offset from pixels that are multiplied by {factor:g}")
        mean = [1 + value for value in mean]
    scaled = _scaled(mean, std, factor)
    if not values.get("do_flip_channel_order", kind.startswith(_MOBILEVIT)):
        return scaled
    if len({*mean}) > 1 or len({*std}) > 1:
        raise _NotUnderstoodError("flips the order of channels that are scaled differently")
    return {"channels": "BGR", **scaled}


def _size(value: object) -> int | tuple[int, int] | None:
    """A shorter side, or height and width; None: nothing."""
    if isinstance(value, Mapping):
        if "shortest_edge" in value:
            return _side(value["shortest_edge"])
        if "height" in value and "width" in value:
            return _side(value["height"]), _side(value["width"])
        raise _NotUnderstoodError(f"has the size {shown(dict(value))}")
    return None if value is None else _side(value)


def _side(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"a size in pixels is expected. Received: {shown(value)}")
    return value


def _both(size: int | tuple[int, int]) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)


def _cropped(resized: int | tuple[int, int], height: int, width: int) -> dict[str, Any]:
    """The centre of `height` and `width` of an image whose shorter side, or both, were resized."""
    share = min(height, width) / (resized if isinstance(resized, int) else min(resized))
    if share > 1:
        raise _NotUnderstoodError("crops images to more than they were resized to")
    if isinstance(resized, int):
        return {"geometry": "crop", "crop_share": share}
    if (height, width) != resized:
        raise _NotUnderstoodError("resizes both sides, and then crops")
    return {"geometry": "squash"}


def _filter(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int) or value not in _FILTERS:
        raise _NotUnderstoodError(f"resizes with the filter {shown(value)}")
    return _FILTERS[value]


def _scaled(mean: object, std: object, factor: float) -> dict[str, Any]:
    """(factor * pixel - mean) / std as a recipe's (pixel - mean) / std."""
    means, deviations = _numbers(mean, "mean"), _numbers(std, "std")
    if len(means) != len(deviations) or len(means) not in {1, 3} or not factor > 0:
        raise ValueError(f"a mean and a std for each channel are expected. Received: {shown(mean)} and {shown(std)}")
    gray = {"channels": "GRAY"} if len(means) == 1 else {}
    return {
        **gray,
        "mean": [_neat(value / factor) for value in means],
        "std": [_neat(value / factor) for value in deviations],
    }


def _neat(value: float) -> float:
    """Without what divisions leave at the end: 123.675 in place of 123.67499999999998."""
    return float(f"{value:.12g}")


def _numbers(value: object, what: str) -> list[float]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError(f"a list of numbers is expected for {what}. Received: {shown(value)}")  # noqa: TRY004
    return [_number(each) for each in value]


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"a number is expected. Received: {shown(value)}")
    return float(value)


def _timm_recipe(values: Mapping[str, Any]) -> dict[str, Any]:
    """A ``pretrained_cfg``: ``input_size``, ``crop_pct``, ``crop_mode``, ``interpolation``, ``mean``, ``std``."""
    # Where a network was trained at one size and is best at another, the latter has names of its own, which timm uses
    # only where it is asked to.
    size = values.get("input_size")
    if not isinstance(size, Sequence) or isinstance(size, str) or len(size) != 3:
        raise ValueError(f"input_size must be channels, height and width. Received: {shown(size)}")
    _, height, width = map(_side, size)
    mode, share = values.get("crop_mode") or "center", _number(values.get("crop_pct") or 0.875)
    resample = values.get("interpolation") or "bicubic"
    if resample not in _FILTERS.values():
        raise _NotUnderstoodError(f"resizes with the filter {shown(resample)}")
    if mode not in {"center", "squash"} or share > 1 or (mode == "squash" and share != 1):
        raise _NotUnderstoodError(f"has the crop_mode {shown(mode)} with the crop_pct {share}")
    # timm rounds the resized side down, and a recipe to the nearest.
    resized = math.floor(min(height, width) / share)
    geometry = {"geometry": "squash"} if mode == "squash" else {"crop_share": min(height, width) / resized}
    mean, std = values.get("mean") or [0.485, 0.456, 0.406], values.get("std") or [0.229, 0.224, 0.225]
    return {
        "height": height,
        "width": width,
        "filter": resample,
        "smaller": "resize",
        **geometry,
        **_scaled(mean, std, 1 / 255),
    }


def _timm_labels(config: Mapping[str, Any]) -> tuple[ClassLabel, ...]:
    described = config.get("label_descriptions")
    descriptions = described if isinstance(described, Mapping) else None
    if config.get("label_names"):
        return labels_of(config["label_names"], descriptions)
    classes = config.get("num_classes")
    tag = str(config["pretrained_cfg"].get("tag") or "")
    # The tag ends with the data set that it was trained on last; ImageNet's order of classes is everybody's.
    if classes == _IMAGENET and tag.endswith("in1k"):
        return published_labels("imagenet1000")
    return ()
