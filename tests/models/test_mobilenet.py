"""MobileNet: its two multipliers, and TensorFlow's own published weights."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from glimpse import models
from glimpse.models import weights
from glimpse.models.builder import assemble
from glimpse.models.catalogue import find
from glimpse.models.weights import WeightsMismatchError

REAL = Path(__file__).parents[3] / "shared/weights/mobilenet_v1_0.25_224_imagenet.tflite"
real = pytest.mark.skipif(not REAL.is_file(), reason=f"the real weights are in {REAL}, which is not there")


@pytest.mark.parametrize(("rho", "side"), [(1.0, 224), (6 / 7, 192), (5 / 7, 160), (4 / 7, 128), (0.25, 56)])
def test_the_resolution_multiplier_scales_the_input_and_no_parameter(rho: float, side: int) -> None:
    model = models.build("mobilenet", variant="handbook", alpha=0.25, rho=rho)
    assert model.input_shape == (None, side, side, 3)
    assert model.count_params() == 478_280


def test_an_input_shape_of_the_callers_counts_as_it_is() -> None:
    assert models.build("mobilenet", alpha=0.25, rho=0.5, input_shape=(96, 64, 3)).input_shape == (None, 96, 64, 3)


@pytest.mark.parametrize("alpha", [0, -1, 0.03])
def test_a_width_multiplier_must_leave_a_channel(alpha: float) -> None:
    with pytest.raises(ValueError, match=f"at least one of the stem's 32 channels. Received: {alpha}"):
        models.build("mobilenet", alpha=alpha)


@pytest.mark.parametrize("rho", [0, -0.5, 1.5])
def test_a_resolution_multiplier_is_a_part(rho: float) -> None:
    with pytest.raises(ValueError, match=f"above 0 and at most 1. Received: {rho}"):
        models.build("mobilenet", rho=rho)


def test_a_width_multiplier_of_the_second_mobilenet_is_positive() -> None:
    with pytest.raises(ValueError, match=r"alpha must be positive. Received: 0"):
        models.build("mobilenet_v2", alpha=0)


def photo(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The middle 224x224 at a shorter side of 256, in -1..1."""
    image = Image.fromarray(pixels)
    scale = 256 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    return np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32)[None] / 127.5 - 1


def scores(variant: str, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits of the real weights."""
    row = find("mobilenet", variant, {"alpha": 0.25})
    model = assemble(row).model
    assert weights.load(model, REAL, row.layouts()) == "tflite"
    return np.asarray(keras.ops.convert_to_numpy(model(pixels, training=False)))[0]


@real
@pytest.mark.parametrize(("image", "index"), [("chelsea", 285), ("coffee", 967)])
def test_real_weights_tell_a_cat_from_a_coffee_with_and_without_the_background(image: str, index: int) -> None:
    pixels = photo(getattr(data, image)())
    with_background = scores("tensorflow", pixels)
    without = scores("keras", pixels)
    assert with_background.argmax() == index + 1
    assert without.argmax() == index
    np.testing.assert_allclose(without, with_background[1:], rtol=1e-5, atol=1e-5)


@real
def test_real_weights_of_another_width_are_refused_by_the_shape_of_their_biases() -> None:
    row = find("mobilenet", "tensorflow", {"alpha": 0.5})
    with pytest.raises(WeightsMismatchError) as error:
        weights.load(assemble(row).model, REAL, row.layouts())
    assert not error.value.missing
    assert not error.value.unexpected
    assert any("Conv2d_0/Conv2D_bias: (8,), the network has (16,)" in fault for fault in error.value.misshapen)
