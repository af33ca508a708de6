"""The pre-stem equals torchvision's and timm's transforms, to the pixel where they use Pillow."""

from __future__ import annotations

from typing import Any, get_args

import keras
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from glimpse.models.prestem import graph, host
from glimpse.models.prestem.recipe import Filter, Recipe
from glimpse.models.published import recipes
from tests.models.parity.photos import PHOTOS, furthest, photos, share_above, tell
from tests.models.parity.reference import torch_publisher

# (resize, crop) of published weights, and odd ones that halves and fractions come out of.
CROPS = [(256, 224), (232, 224), (342, 299), (255, 225), (65, 64), (33, 20)]


def torchvision() -> Any:
    torch_publisher("torchvision")
    from torchvision import transforms

    return transforms


def assert_but_for_rounding(ours: NDArray[np.uint8], theirs: NDArray[np.uint8], name: str) -> None:
    """Of a crop we resize only the centre, and across first; Pillow 13 begins with the rows of a tall photo."""
    assert furthest(ours, theirs) <= (0 if name == "nearest" else 2)
    assert share_above(ours, theirs, 1) < 1e-3


def mode(name: Filter) -> Any:
    return torchvision().InterpolationMode[name.upper()]


@pytest.mark.parametrize("name", get_args(Filter))
@pytest.mark.parametrize(("resize", "crop"), CROPS)
@pytest.mark.parametrize("photo", PHOTOS)
def test_a_crop_is_torchvision_s_resize_and_centre_crop(photo: str, resize: int, crop: int, name: Filter) -> None:
    transforms = torchvision()
    reference = transforms.Compose([transforms.Resize(resize, mode(name)), transforms.CenterCrop(crop)])
    expected = np.asarray(reference(photos()[photo]))
    ours = host.fit(photos()[photo], recipes.torch(crop, resize, resample=name))
    assert_but_for_rounding(ours, expected, name)


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
@pytest.mark.parametrize("photo", PHOTOS)
def test_torchvision_s_tensors_differ_by_a_rounding(photo: str, name: Filter) -> None:
    # Where Pillow rounds between the two axes, PyTorch may not. With bicubic, that also cuts what overshoots 0..255.
    transforms = torchvision()
    from torchvision.transforms.functional import pil_to_tensor

    reference = transforms.Compose([transforms.Resize(256, mode(name), antialias=True), transforms.CenterCrop(224)])
    expected = reference(pil_to_tensor(photos()[photo])).numpy().transpose(1, 2, 0)
    ours = host.fit(photos()[photo], recipes.torch(224, 256, resample=name))
    tell(f"{photo}, {name}: {furthest(ours, expected)}, above 1: {share_above(ours, expected, 1):.1e}")
    assert furthest(ours, expected) <= (1 if name == "bilinear" else 5)
    assert share_above(ours, expected, 1) < 5e-4


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
@pytest.mark.parametrize("photo", PHOTOS)
def test_without_antialiasing_it_is_torchvision_s_tensors_without(photo: str, name: Filter) -> None:
    transforms = torchvision()
    from torchvision.transforms.functional import pil_to_tensor

    reference = transforms.Resize((150, 144), mode(name), antialias=False)
    expected = reference(pil_to_tensor(photos()[photo]).float()).numpy().transpose(1, 2, 0)
    recipe = Recipe(height=150, width=144, geometry="squash", smaller="resize", filter=name, antialias=False)
    difference = furthest(host.fit(photos()[photo], recipe), np.clip(expected, 0, 255))
    tell(f"{photo}, {name}: {difference}")
    # PyTorch's bicubic filter is another one without antialiasing, with a = -3/4 instead of -1/2; TensorFlow's is ours.
    assert difference < (0.51 if name == "bilinear" else 15)


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
@pytest.mark.parametrize("share", [0.875, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("photo", PHOTOS)
def test_a_crop_is_timm_s(photo: str, share: float, name: Filter) -> None:
    torch_publisher("timm")
    from timm.data import create_transform

    # As NumPy: what the network would be fed before the scaling.
    reference = create_transform(224, interpolation=name, crop_pct=share, crop_mode="center", use_prefetcher=True)
    ours = host.fit(photos()[photo], recipes.torch(224, int(224 / share), resample=name))
    assert_but_for_rounding(ours, np.asarray(reference(photos()[photo])).transpose(1, 2, 0), name)


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
@pytest.mark.parametrize("photo", PHOTOS)
def test_squash_is_timm_s(photo: str, name: Filter) -> None:
    torch_publisher("timm")
    from timm.data import create_transform

    reference = create_transform(224, interpolation=name, crop_pct=1.0, crop_mode="squash", use_prefetcher=True)
    recipe = Recipe(height=224, width=224, geometry="squash", smaller="resize", filter=name)
    expected = np.asarray(reference(photos()[photo])).transpose(1, 2, 0)
    np.testing.assert_array_equal(host.fit(photos()[photo], recipe), expected)


@pytest.mark.parametrize("photo", PHOTOS)
def test_letterbox_is_timm_s_border_mode(photo: str) -> None:
    torch_publisher("timm")
    from timm.data import create_transform

    reference = create_transform(224, interpolation="bilinear", crop_pct=1.0, crop_mode="border", use_prefetcher=True)
    # timm takes the mean for its border, which is 0 once it is scaled.
    recipe = Recipe(height=224, width=224, geometry="letterbox", smaller="resize", fill=(124, 116, 104))
    expected = np.asarray(reference(photos()[photo])).transpose(1, 2, 0)
    np.testing.assert_array_equal(host.fit(photos()[photo], recipe), expected)


@pytest.mark.parametrize("mean", [recipes.IMAGENET_MEAN, recipes.HALF])
def test_the_scaling_is_torchvision_s(mean: recipes.Triple) -> None:
    transforms = torchvision()
    std = recipes.IMAGENET_STD if mean == recipes.IMAGENET_MEAN else recipes.HALF
    recipe = recipes.torch(224, 256, mean=mean, std=std)
    pixels = host.fit(photos()["coffee 600x400"], recipe)
    ours = np.asarray(graph.scale(keras.ops.convert_to_tensor(pixels[None]), recipe))[0]
    reference = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize([m / 255 for m in mean], [s / 255 for s in std])]
    )
    expected = reference(Image.fromarray(pixels)).numpy().transpose(1, 2, 0)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)
