"""Keras models as users save them, small ones: whole files with the labels and the recipe beside them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import keras
import numpy as np
import pytest
from keras import layers, ops
from numpy.typing import NDArray

from glimpse.models.builder import Assembly
from glimpse.models.serving import load_bundle, serving_model
from glimpse.models.sources import ModelSource, resolve
from glimpse.models.weights import WeightsError

SIZE = 16  # pixels a side
CLASSES = 4
Tensor: TypeAlias = Any  # Keras has no types
PIXELS = np.concatenate(
    [
        np.random.default_rng(7).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8),
        np.full((1, SIZE, SIZE, 3), 90, np.uint8),
    ]
)


def model(forward: Callable[[Tensor], Any], **options: Any) -> keras.Model:
    """A functional model of `forward`; `options` go to its input."""
    image = keras.Input((SIZE, SIZE, 3), **options)
    return keras.Model(image, forward(image))


def trunk(x: Tensor, units: int = CLASSES, **options: Any) -> Tensor:
    """A small convolutional network with clear answers, up to a dense layer with `options`."""
    x = layers.Conv2D(8, 3, activation="relu")(layers.Rescaling(1 / 255)(x))
    x = layers.BatchNormalization()(x)
    clear = keras.initializers.RandomNormal(stddev=3.0)
    return layers.Dense(units, kernel_initializer=clear, **options)(layers.GlobalAveragePooling2D()(x))


def classifier() -> keras.Model:
    """A network that ends in a softmax, to be used in another one."""
    return model(lambda x: trunk(x, activation="softmax"))


def behind(*more: Any) -> keras.Model:
    """A softmax with layers behind it."""

    def forward(x: Tensor) -> Tensor:
        x = layers.Softmax()(trunk(x))
        for layer in more:
            x = layer(x)
        return x

    return model(forward)


def saved(
    made: keras.Model, folder: Path, name: str = "model.keras", *, classes: int = CLASSES, more: str = ""
) -> Path:
    """The model as a file, with labels and a recipe that leaves the pixels as they are, but for what `more` says."""
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        # Keras hands TensorFlow's variables to NumPy, whose `__array__` is older than NumPy 2's `copy`: not ours; and
        # it writes its older format with a warning that it is one.
        warnings.simplefilter("ignore")
        made.save(folder / name)
    (folder / "labels.txt").write_text("".join(f"class {number}\n" for number in range(classes)))
    (folder / "recipe.toml").write_text(f"height = {SIZE}\nwidth = {SIZE}\n{more}")
    return folder / name


def predicted(made: keras.Model, pixels: NDArray[np.uint8] = PIXELS) -> NDArray[np.float32]:
    """What `model.predict` gives for the pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the names of inputs, which Keras would like to be others
        found = made.predict(pixels.astype(np.float32), verbose=0)
    return np.asarray(next(iter(found.values())) if isinstance(found, dict) else found, np.float32)


def average() -> keras.Model:
    """The mean of two classifiers."""
    image = keras.Input((SIZE, SIZE, 3))
    return keras.Model(image, layers.Average()([classifier()(image), classifier()(image)]))


def shared() -> keras.Model:
    """A dense layer with a softmax that is the last one, and one in the middle, too."""
    image = keras.Input((SIZE, SIZE, 3))
    dense = layers.Dense(CLASSES, activation="softmax")
    return keras.Model(image, dense(layers.Dense(CLASSES)(dense(trunk(image)))))


# Networks whose output are probabilities, however they come about.
PROBABILITIES: dict[str, Callable[[], keras.Model]] = {
    "softmax activation": classifier,
    "softmax layer": behind,
    "nested": lambda: model(classifier()),
    "nested sequential": lambda: keras.Sequential([keras.Input((SIZE, SIZE, 3)), keras.Sequential([classifier()])]),
    "function": lambda: model(lambda x: ops.softmax(trunk(x))),
    "with a temperature": lambda: model(lambda x: ops.softmax(trunk(x) / 3.0)),
    "dropout behind": lambda: behind(layers.Dropout(0.3)),
    "reshape behind": lambda: behind(layers.Reshape((CLASSES,))),
    "linear behind": lambda: behind(layers.Activation("linear", dtype="float32")),
    "average": average,
    "shared layer": shared,
    "other axis": lambda: model(
        lambda x: layers.Flatten()(layers.Softmax(axis=1)(layers.Reshape((CLASSES, 1))(trunk(x))))
    ),
    "saturated": lambda: model(lambda x: layers.Identity()(ops.softmax(trunk(x) * 1000.0))),
}


def _augmented(*more: layers.Layer) -> Callable[[], keras.Model]:
    def forward(x: Tensor) -> Tensor:
        for layer in more:
            x = layer(x)
        return trunk(x, activation="softmax")

    return lambda: model(forward)


# Layers for images, of which most do something in training only.
IMAGE_LAYERS: dict[str, layers.Layer] = {
    type(layer).__name__: layer
    for layer in (
        layers.AugMix(),
        layers.AutoContrast(),
        layers.CenterCrop(12, 12),
        layers.CutMix(),
        layers.Equalization(),
        layers.GaussianNoise(0.1),
        layers.MixUp(),
        layers.Normalization(mean=[100, 110, 120], variance=[900, 800, 700]),
        layers.RandAugment(),
        layers.RandomBrightness(0.2),
        layers.RandomColorDegeneration(0.2),
        layers.RandomContrast(0.2),
        layers.RandomCrop(SIZE, SIZE),
        layers.RandomErasing(),
        layers.RandomFlip("horizontal"),
        layers.RandomGaussianBlur(),
        layers.RandomGrayscale(),
        layers.RandomHue(0.2),
        layers.RandomInvert(),
        layers.RandomPerspective(),
        layers.RandomPosterization(4),
        layers.RandomRotation(0.1),
        layers.RandomSaturation(0.2),
        layers.RandomSharpness(0.2),
        layers.RandomTranslation(0.1, 0.1),
        layers.RandomZoom(0.1),
        layers.Resizing(12, 12),
        layers.Solarization(),
        layers.SpatialDropout2D(0.2),
    )
}


def augmented(name: str) -> keras.Model:
    """A classifier behind one of `IMAGE_LAYERS`."""
    layer = IMAGE_LAYERS[name]
    return model(lambda x: trunk(type(layer).from_config(layer.get_config())(x), activation="softmax"))


def tutorial(*, last: layers.Layer, nested: bool = False, open_inside: bool = False) -> keras.Model:
    """As the tutorials on transfer learning: augmentation, preprocessing, a base, pooling, dropout, a dense layer."""
    inside = keras.Input((None, None, 3) if open_inside else (SIZE, SIZE, 3))
    y = layers.Activation("relu")(layers.BatchNormalization()(layers.Conv2D(8, 3, strides=2, padding="same")(inside)))
    y = layers.SeparableConv2D(12, 3, padding="same")(y)
    y = layers.add([layers.MaxPooling2D(2, padding="same")(y), layers.Conv2D(12, 1, strides=2, padding="same")(y)])
    base = keras.Model(inside, layers.DepthwiseConv2D(3, padding="same")(y), name="base")
    base.trainable = False
    augmentation = keras.Sequential(
        [
            layers.RandomFlip("horizontal"),
            layers.RandomRotation(0.1),
            layers.RandomZoom(0.1),
            layers.RandomContrast(0.1),
        ]
    )

    def forward(x: Tensor) -> Tensor:
        x = augmentation(x)
        x = x / 127.5 - 1.0 if open_inside else layers.Rescaling(1 / 127.5, offset=-1)(x)
        x = layers.GlobalAveragePooling2D()(base(x, training=False))
        return last(layers.Dropout(0.2)(x))

    whole = model(forward)
    return model(whole) if nested else whole


def loaded(path: Path) -> Assembly:
    """The network of a file."""
    return load_bundle(resolve(ModelSource(weights=str(path))))


def served(path: Path, temperature: float = 1.0) -> NDArray[np.float32]:
    """What is answered for `PIXELS`."""
    bundle = resolve(ModelSource(weights=str(path)))
    network = serving_model(load_bundle(bundle), bundle.recipe, temperature)
    return np.asarray(keras.ops.convert_to_numpy(network(PIXELS, training=False)))


def refusal(path: Path) -> str:
    """Why the file is refused, in one line of bounded length."""
    with pytest.raises(WeightsError) as refused:
        loaded(path)
    text = str(refused.value).replace(str(path), "FILE")
    assert len(text) < 500
    assert "\n" not in text
    return text
