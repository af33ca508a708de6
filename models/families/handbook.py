"""The handbook's first classifiers: dense layers on flattened pixels, and one convolution before them.

Neither has published weights. The handbook ends the first in ten sigmoids and trains them with categorical
cross-entropy, which Keras computes from the scores divided by their sum: of ten exclusive classes that is what can be
served as probabilities. `ending` has both ways.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from glimpse.models.families import creation
from glimpse.models.spec import Architecture, Convention, Normalised, Stage

if TYPE_CHECKING:
    from keras import KerasTensor

    from glimpse.models.layouts import Layout

_PROGRAM = {creation.NAME: creation.layout()}
Ending = Literal["softmax", "sigmoid"]
_HANDBOOK = Convention(batch_norm=False, bias=True, initializer="glorot_uniform")


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseClassifier(Architecture):
    """Flattened pixels and hidden dense layers. The handbook feeds ``[N, 28, 28]``; here an image has channels."""

    OPTIONS: ClassVar[tuple[str, ...]] = ("batch_norm", "dropout", "ending", "hidden")

    hidden: tuple[int, ...]  # units of the hidden layers
    # Part of each hidden layer that training drops. The handbook's second form has 0.5, before the ReLU, which is the
    # same as behind it.
    dropout: float = 0.0
    batch_norm: Normalised = "none"  # of every hidden layer
    # With "softmax" the logits are the last layer's outputs z. With "sigmoid" they are log(sigmoid(z)), whose softmax
    # is sigmoid(z) divided by its sum, what the handbook's program trains, and whose exponentials are the handbook's
    # scores. Both rank the classes alike; weights that were trained one way are calibrated only that way.
    ending: Ending = "softmax"

    def __post_init__(self) -> None:
        _check(self, "batch_norm", get_args(Normalised))
        _check(self, "ending", get_args(Ending))

    def stages(self, x: KerasTensor, classes: int) -> Iterator[tuple[Stage, KerasTensor]]:
        """Yield every stage with its output; the last one is the logits."""
        from keras import layers

        from glimpse.models.blocks.head import dense_layers

        x = layers.Flatten(name="stem_flatten")(x)
        yield Stage("stem", "flatten"), x
        convention = _HANDBOOK.normalised(self.batch_norm)
        x = dense_layers(x, self.hidden, dropout=self.dropout, convention=convention, name="group1")
        yield Stage("group1", "dense", len(self.hidden)), x
        x = layers.Dense(classes, dtype="float32", name="classifier_logits")(x)
        if self.ending == "sigmoid":
            x = layers.Activation("log_sigmoid", dtype="float32", name="classifier_log_sigmoid")(x)
        yield Stage("classifier", "dense" if self.ending == "softmax" else "dense+log_sigmoid"), x

    def layouts(self) -> Mapping[str, Layout]:
        """The handbook's."""
        return _PROGRAM


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvolutionalClassifier(Architecture):
    """One strided 3x3 convolution, max pooling, and dense layers on the flattened maps."""

    OPTIONS: ClassVar[tuple[str, ...]] = ("batch_norm", "hidden", "width")

    width: int  # channels of the convolution
    hidden: tuple[int, ...]  # units of the hidden dense layers
    # Of the convolution and every hidden layer. The handbook shows both ways in a snippet, not in this network.
    batch_norm: Normalised = "none"

    def __post_init__(self) -> None:
        _check(self, "batch_norm", get_args(Normalised))

    def stages(self, x: KerasTensor, classes: int) -> Iterator[tuple[Stage, KerasTensor]]:
        """Yield every stage with its output; the last one is the logits."""
        from glimpse.models.blocks.convolution import conv_bn
        from glimpse.models.blocks.head import flattened_classifier
        from glimpse.models.blocks.pooling import max_pool

        convention = _HANDBOOK.normalised(self.batch_norm)
        x = conv_bn(x, self.width, kernel=3, stride=2, convention=convention, name="stem")
        x = max_pool(x, size=2, border="valid", name="stem_pool")
        yield Stage("stem", "conv3x3+max_pool"), x
        logits = flattened_classifier(x, classes, hidden=self.hidden, convention=convention, name="classifier")
        yield Stage("classifier", "flatten+dense", len(self.hidden) + 1), logits

    def layouts(self) -> Mapping[str, Layout]:
        """The handbook's."""
        return _PROGRAM


def _check(row: Architecture, option: str, known: tuple[str, ...]) -> None:
    if (value := getattr(row, option)) not in known:
        raise ValueError(f"{row.name}: {option} must be one of {known}. Received: {value!r}")


ROWS: tuple[DenseClassifier | ConvolutionalClassifier, ...] = (
    DenseClassifier(
        name="mnist_dnn",
        variant="handbook",
        paper="the handbook's simple image classifier, for the digits of MNIST",
        input_shape=(28, 28, 1),
        classes=10,
        hidden=(512, 512),
    ),
    ConvolutionalClassifier(
        name="basic_cnn",
        variant="handbook",
        paper="the handbook's basic CNN, for the hand signs of the letters A to Z",
        input_shape=(128, 128, 1),
        classes=26,
        width=16,
        hidden=(512,),
    ),
)
