"""The preprocessing of each publisher as a pre-stem recipe, exact to the pixel.

Means and deviations are those of the publisher times 255, because a recipe's pixels are 0..255.
"""

from __future__ import annotations

from typing import Literal

from glimpse.models.prestem.recipe import Channels, Filter, Recipe

Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (123.675, 116.28, 103.53)  # red, green, blue of ImageNet's images: 255 * (.485, .456, .406)
IMAGENET_STD: Triple = (58.395, 57.12, 57.375)  # 255 * (.229, .224, .225)
HALF: Triple = (127.5, 127.5, 127.5)  # as mean and deviation: x / 127.5 - 1


def keras(size: int, mode: Literal["caffe", "tf", "torch"]) -> Recipe:
    """The modes of `keras.applications.imagenet_utils.preprocess_input`.

    - ``caffe``: BGR minus ImageNet's mean.
    - ``tf``: x / 127.5 - 1.
    - ``torch``: minus ImageNet's mean, divided by its deviation.

    The geometry that Keras documents is that of ``load_img(path, target_size=...)``: both sides to the input by the
    nearest pixel. With a crop and a better filter MobileNet gains some 6 points, SqueezeNet some 3.
    """
    if mode == "caffe":
        return _squashed(size, channels="BGR", mean=(103.939, 116.779, 123.68), std=(1, 1, 1))
    if mode == "tf":
        return _squashed(size, mean=HALF, std=HALF)
    return _squashed(size, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def _squashed(size: int, *, channels: Channels = "RGB", mean: Triple, std: Triple) -> Recipe:
    return Recipe(
        height=size,
        width=size,
        geometry="squash",
        filter="nearest",
        smaller="resize",
        channels=channels,
        mean=mean,
        std=std,
    )


def torch(
    size: int,
    resize: int,
    *,
    resample: Filter = "bilinear",
    mean: Triple = IMAGENET_MEAN,
    std: Triple = IMAGENET_STD,
) -> Recipe:
    """torchvision's ``Resize(resize)``, ``CenterCrop(size)``, ``Normalize(mean, std)``, which timm uses too."""
    return Recipe(
        height=size,
        width=size,
        crop_share=size / resize,
        filter=resample,
        smaller="resize",
        mean=mean,
        std=std,
    )
