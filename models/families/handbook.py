"""The handbook's first classifiers: dense layers on flattened pixels, and one convolution before them.

Neither has published weights. The handbook ends the first in a sigmoid although it trains ten exclusive classes with
categorical cross-entropy; here as everywhere the network ends in logits, and serving takes their softmax.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from glimpse.models.spec import Architecture, Convention, Stage

if TYPE_CHECKING:
    from keras import KerasTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseClassifier(Architecture):
    """Flattened pixels and hidden dense layers. The handbook feeds ``[N, 28, 28]``; here an image has channels."""

    OPTIONS: ClassVar[tuple[str, ...]] = ("dropout",)

    hidden: tuple[int, ...]  # units of the hidden layers
    # Part of each hidden layer that training drops. The handbook's second form has 0.5, before the ReLU, which is the
    # same as behind it.
    dropout: float = 0.0

    def stages(self, x: KerasTensor, classes: int) -> Iterator[tuple[Stage, KerasTensor]]:
        """Yield every stage with its output; the last one is the logits."""
        from keras import layers

        from glimpse.models.blocks.head import dense_layers

        x = layers.Flatten(name="stem_flatten")(x)
        yield Stage("stem", "flatten"), x
        x = dense_layers(x, self.hidden, dropout=self.dropout, name="group1")
        yield Stage("group1", "dense", len(self.hidden)), x
        yield Stage("classifier", "dense"), layers.Dense(classes, dtype="float32", name="classifier_logits")(x)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvolutionalClassifier(Architecture):
    """One strided 3x3 convolution, max pooling, and dense layers on the flattened maps."""

    width: int  # channels of the convolution
    hidden: tuple[int, ...]  # units of the hidden dense layers

    def stages(self, x: KerasTensor, classes: int) -> Iterator[tuple[Stage, KerasTensor]]:
        """Yield every stage with its output; the last one is the logits."""
        from glimpse.models.blocks.convolution import conv_bn
        from glimpse.models.blocks.head import flattened_classifier
        from glimpse.models.blocks.pooling import max_pool

        plain = Convention(batch_norm=False, bias=True)
        x = conv_bn(x, self.width, kernel=3, stride=2, convention=plain, name="stem")
        x = max_pool(x, size=2, border="valid", name="stem_pool")
        yield Stage("stem", "conv3x3+max_pool"), x
        logits = flattened_classifier(x, classes, hidden=self.hidden, name="classifier")
        yield Stage("classifier", "flatten+dense", len(self.hidden) + 1), logits


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
