"""The pre-stem against Keras' and TensorFlow's own preprocessing: where it is the same, and by how much it is not.

TensorFlow resizes in floats and Pillow in 8 bits. With antialiasing, Pillow rounds between the two axes, and cuts there
what bicubic and Lanczos overshoot 0..255 by; the recipe means Pillow's pixels. Without, ours are TensorFlow's, rounded.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from glimpse.models.prestem import graph, host
from glimpse.models.prestem.recipe import Filter, Recipe
from glimpse.models.published import recipes
from tests.models.parity.photos import PHOTOS, furthest, photos, share_above, tell

METHODS: dict[Filter, str] = {"bilinear": "bilinear", "bicubic": "bicubic", "lanczos": "lanczos3"}
SIZE: dict[str, Any] = {"height": 160, "width": 201}
ENLARGED = "astronaut 97x150"


def squash(name: Filter, **fields: Any) -> Recipe:
    return Recipe(**SIZE, geometry="squash", smaller="resize", filter=name, **fields)


@pytest.mark.parametrize("photo", PHOTOS)
@pytest.mark.parametrize("name", METHODS)
def test_without_antialiasing_it_is_tensorflow_s_resize_rounded(name: Filter, photo: str) -> None:
    pixels = np.asarray(photos()[photo])
    theirs = tf.image.resize(pixels, (160, 201), method=METHODS[name], antialias=False).numpy().clip(0, 255)
    ours = host.fit(photos()[photo], squash(name, antialias=False))
    tell(f"{photo}, {name}: {furthest(ours, theirs):.3f}")
    if photo == ENLARGED:  # that is Pillow's, with antialiasing or without
        assert furthest(ours, theirs) < {"bilinear": 1.01, "bicubic": 3, "lanczos": 6}[name]
    else:
        # Half a step is the rounding; TensorFlow's bicubic filter reads its weights from a table of 1024.
        assert furthest(ours, theirs) < (0.65 if name == "bicubic" else 0.51)


@pytest.mark.parametrize("photo", PHOTOS)
@pytest.mark.parametrize("name", METHODS)
def test_with_antialiasing_it_is_pillow_s_and_tensorflow_s_but_for_overshoot(name: Filter, photo: str) -> None:
    """With antialiasing, resizing is Pillow's, and TensorFlow's but for what overshoots."""
    pixels = np.asarray(photos()[photo])
    theirs = tf.image.resize(pixels, (160, 201), method=METHODS[name], antialias=True).numpy().clip(0, 255)
    ours = host.fit(photos()[photo], squash(name))
    tell(f"{photo}, {name}: {furthest(ours, theirs):.3f}, above 1.2: {share_above(ours, theirs, 1.2):.1e}")
    assert furthest(ours, theirs) < {"bilinear": 1.01, "bicubic": 5, "lanczos": 9}[name]
    assert share_above(ours, theirs, 1.2) < 5e-3


@pytest.mark.parametrize("photo", PHOTOS)
def test_the_nearest_pixel_is_tensorflow_s_but_where_two_are_as_near(photo: str) -> None:
    image = photos()[photo]
    theirs = tf.image.resize(np.asarray(image), (160, 201), method="nearest").numpy()
    different = (host.fit(image, squash("nearest")) != theirs).any(axis=2)
    # The middle of a pixel falls on the line between two: TensorFlow's 32-bit floats then fall on either side of it.
    ties = [
        np.isclose(middles, np.round(middles), rtol=0, atol=1e-4)
        for middles in ((np.arange(160) + 0.5) * image.height / 160, (np.arange(201) + 0.5) * image.width / 201)
    ]
    assert not (different & ~(ties[0][:, None] | ties[1])).any()


@pytest.mark.parametrize("photo", PHOTOS)
@pytest.mark.parametrize("name", get_args(Filter))
def test_squash_is_load_img(name: Filter, photo: str, tmp_path: Path) -> None:
    photos()[photo].save(tmp_path / "photo.png")
    loaded = keras.utils.load_img(tmp_path / "photo.png", target_size=(160, 201), interpolation=name)
    np.testing.assert_array_equal(host.fit(photos()[photo], squash(name)), np.asarray(loaded))


def test_crop_is_load_img_with_the_aspect_ratio_kept_if_no_side_has_a_fraction(tmp_path: Path) -> None:
    """The crop is `load_img` that keeps the aspect ratio, where no side has a fraction of a pixel."""
    photos()["coffee 600x400"].save(tmp_path / "photo.png")
    loaded = keras.utils.load_img(
        tmp_path / "photo.png", target_size=(200, 200), interpolation="bilinear", keep_aspect_ratio=True
    )
    np.testing.assert_array_equal(
        host.fit(photos()["coffee 600x400"], Recipe(height=200, width=200)), np.asarray(loaded)
    )


@pytest.mark.parametrize("photo", PHOTOS)
def test_a_folder_that_keras_reads_is_squash_without_antialiasing(photo: str, tmp_path: Path) -> None:
    (tmp_path / "class").mkdir()
    photos()[photo].save(tmp_path / "class" / "photo.png")
    folder = keras.utils.image_dataset_from_directory(tmp_path, image_size=(160, 201), labels=None, verbose=False)
    (theirs,) = (image.numpy() for batch in folder for image in batch)
    ours = host.fit(photos()[photo], squash("bilinear", antialias=False))
    assert furthest(ours, theirs) < (1.01 if photo == ENLARGED else 0.51)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("photo", PHOTOS)
def test_squash_is_the_layer_resizing(photo: str, *, antialias: bool) -> None:
    layer = keras.layers.Resizing(160, 201, antialias=antialias)
    theirs = np.asarray(layer(np.asarray(photos()[photo], np.float32)))
    assert furthest(host.fit(photos()[photo], squash("bilinear", antialias=antialias)), theirs) < 1.01


@pytest.mark.parametrize("photo", PHOTOS)
@pytest.mark.parametrize("reference", ["smart_resize", "Resizing"])
def test_crop_is_what_keras_cuts_first_within_a_pixel(reference: str, photo: str) -> None:
    # Keras cuts whole pixels to the input's aspect ratio, then resizes; we resize as torchvision does, then cut. The
    # same picture, moved by at most a pixel of the image or of the input: differences show at its edges.
    pixels = np.asarray(photos()[photo], np.float32)
    if reference == "smart_resize":
        theirs = np.asarray(keras.utils.img_to_array(keras.preprocessing.image.smart_resize(pixels, (160, 160))))
    else:
        theirs = np.asarray(keras.layers.Resizing(160, 160, crop_to_aspect_ratio=True)(pixels))
    recipe = Recipe(height=160, width=160, smaller="resize", antialias=False)
    difference = np.abs(host.fit(photos()[photo], recipe) - theirs)
    tell(f"{photo}, {reference}: mean {difference.mean():.2f}, largest {difference.max():.0f}")
    short, long = sorted(photos()[photo].size)
    if 160 * long % (2 * short) == 0:  # neither we nor they lose a fraction
        assert difference.max() < 1.01
    assert difference.mean() < 7


@pytest.mark.parametrize("photo", PHOTOS)
@pytest.mark.parametrize("reference", ["resize_with_pad", "Resizing"])
def test_letterbox_is_tensorflow_s_and_keras_within_a_line(reference: str, photo: str) -> None:
    # TensorFlow loses the fraction of the short side, which we round, and counts it as half a bar. Keras adds the bars
    # before it resizes, so that they bleed into the edge.
    pixels = np.asarray(photos()[photo], np.float32)
    if reference == "resize_with_pad":
        theirs = tf.image.resize_with_pad(pixels, 160, 160).numpy()
    else:
        theirs = np.asarray(keras.layers.Resizing(160, 160, pad_to_aspect_ratio=True)(pixels))
    recipe = Recipe(height=160, width=160, geometry="letterbox", smaller="resize", antialias=False)
    difference = np.abs(host.fit(photos()[photo], recipe) - theirs)
    tell(f"{photo}, {reference}: mean {difference.mean():.2f}, largest {difference.max():.0f}")
    short, long = sorted(photos()[photo].size)
    side = 160 * short / long
    bars_agree = math.floor((160 - side) / 2) == (160 - host.resized((long, short), recipe)[1]) // 2
    if reference == "resize_with_pad" and side % 1 < 0.5 and bars_agree:
        assert difference.max() < 1.01
    assert difference.mean() < 8


# Of every family in Keras Applications the mode of its `preprocess_input`; None: the network scales by itself.
MODES: dict[str, Any] = {
    "convnext": None,
    "densenet": "torch",
    "efficientnet": None,
    "efficientnet_v2": None,
    "inception_resnet_v2": "tf",
    "inception_v3": "tf",
    "mobilenet": "tf",
    "mobilenet_v2": "tf",
    "mobilenet_v3": None,
    "nasnet": "tf",
    "resnet": "caffe",
    "resnet50": "caffe",
    "resnet_v2": "tf",
    "vgg16": "caffe",
    "vgg19": "caffe",
    "xception": "tf",
}


def test_every_family_of_keras_applications_is_compared() -> None:
    found = {name for name in dir(keras.applications) if hasattr(getattr(keras.applications, name), "preprocess_input")}
    assert found - {"imagenet_utils"} == MODES.keys()


@pytest.mark.parametrize("family", MODES)
def test_the_scaling_is_the_family_s_preprocess_input(family: str) -> None:
    mode = MODES[family]
    recipe = recipes.keras(224, mode) if mode else Recipe(height=224, width=224)
    pixels = np.asarray(photos()["coffee 600x400"].resize((224, 224)))
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 256, 3)  # and every value that there is
    for image in (pixels, every):
        ours = np.asarray(graph.scale(keras.ops.convert_to_tensor(image[None]), recipe))[0]
        theirs = getattr(keras.applications, family).preprocess_input(image.astype(np.float32))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_what_a_picture_is_in_keras_is_what_it_is_here(tmp_path: Path) -> None:
    Image.fromarray(np.asarray(photos()["cat 451x300"])).save(tmp_path / "cat.png")
    array = keras.utils.img_to_array(keras.utils.load_img(tmp_path / "cat.png", target_size=(224, 224)))
    recipe = recipes.keras(224, "caffe")
    ours = graph.scale(keras.ops.convert_to_tensor(host.fit(photos()["cat 451x300"], recipe)[None]), recipe)
    theirs = keras.applications.resnet50.preprocess_input(array)
    np.testing.assert_allclose(np.asarray(ours)[0], theirs, rtol=0, atol=1e-5)
