"""VGG: nothing but 3x3 convolutions, halved in size and doubled in width by pooling, and three dense layers.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", arXiv:1409.1556, table 1,
configurations D (16 weight layers) and E (19). The handbook and both publishers agree on the graph; torchvision's also
drops half of both hidden layers in training, as the paper does (section 3.1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, get_args

from glimpse.models.families import creation
from glimpse.models.layouts import KERAS, TORCH, Layout, renaming
from glimpse.models.spec import PLAIN, Architecture, Convention, Normalised, Stage

if TYPE_CHECKING:
    from keras import KerasTensor

_PROGRAM = {creation.NAME: creation.layout()}
_WIDTHS = (64, 128, 256, 512, 512)  # channels of the five groups


@dataclass(frozen=True, slots=True, kw_only=True)
class VGG(Architecture):
    """A row of the paper's table 1.

    The dense layers stand behind the flattened maps, so that a checkpoint fits only the input size it was trained at.
    """

    OPTIONS: ClassVar[tuple[str, ...]] = ("batch_norm", "dropout")

    depths: tuple[int, int, int, int, int]  # convolutions in each group, the stem's among the first
    dropout: float = 0.0  # part of each hidden dense layer that training drops
    batch_norm: Normalised = "none"  # of every convolution and hidden dense layer
    convention: Convention = PLAIN

    def __post_init__(self) -> None:
        if self.batch_norm not in get_args(Normalised):
            raise ValueError(
                f"{self.name}: batch_norm must be one of {get_args(Normalised)}. Received: {self.batch_norm!r}"
            )

    @property
    def layers(self) -> int:
        """Weight layers as the paper counts them: convolutions and three dense layers."""
        return sum(self.depths) + 3

    def stages(self, x: KerasTensor, classes: int) -> Iterator[tuple[Stage, KerasTensor]]:
        """Yield every stage with its output; the last one is the logits."""
        from glimpse.models.blocks.convolution import conv_bn
        from glimpse.models.blocks.head import flattened_classifier
        from glimpse.models.blocks.pooling import max_pool

        convention = self.convention.normalised(self.batch_norm)
        x = conv_bn(x, _WIDTHS[0], kernel=3, convention=convention, name="stem")
        yield Stage("stem", "conv3x3"), x
        for group, (depth, width) in enumerate(zip(self.depths, _WIDTHS, strict=True), start=1):
            numbers = range(2 if group == 1 else 1, depth + 1)
            for number in numbers:
                x = conv_bn(x, width, kernel=3, convention=convention, name=f"group{group}_{number}")
            x = max_pool(x, size=2, border="valid", name=f"group{group}_pool")
            yield Stage(f"group{group}", "conv3x3", len(numbers)), x
        logits = flattened_classifier(
            x, classes, hidden=(4096, 4096), dropout=self.dropout, convention=convention, name="classifier"
        )
        yield Stage("classifier", "flatten+dense", 3), logits

    def layouts(self) -> Mapping[str, Layout]:
        """Keras Applications, torchvision, and timm, which writes the dense layers as convolutions; the handbook's."""
        features = (
            ("stem_conv", "features.0"),
            (r"group(\d)_(\d)_conv", lambda match: f"features.{self._position(int(match[1]), int(match[2]))}"),
        )
        return {
            **(_PROGRAM if self.variant == "handbook" else {}),
            "keras": Layout(
                naming=KERAS,
                rename=renaming(
                    ("stem_conv", "block1_conv1"),
                    (r"group(\d)_(\d)_conv", r"block\1_conv\2"),
                    (r"classifier_(fc\d)", r"\1"),
                    ("classifier_logits", "predictions"),
                ),
            ),
            "torchvision": Layout(
                naming=TORCH,
                rename=renaming(
                    *features,
                    ("classifier_fc1", "classifier.0"),
                    ("classifier_fc2", "classifier.3"),
                    ("classifier_logits", "classifier.6"),
                ),
            ),
            "timm": Layout(
                naming=TORCH,
                rename=renaming(*features, (r"classifier_(fc\d)", r"pre_logits.\1"), ("classifier_logits", "head.fc")),
            ),
        }

    def _position(self, group: int, number: int) -> int:
        """Where torchvision's list has a convolution: each is followed by its ReLU, each group by its pooling."""
        before = self.depths[: group - 1]
        return 2 * sum(before) + len(before) + 2 * (number - 1)


def _rows(name: str, depths: tuple[int, int, int, int, int], configuration: str) -> tuple[VGG, ...]:
    return tuple(
        VGG(
            name=name,
            variant=variant,
            paper=f"Simonyan and Zisserman, arXiv:1409.1556, table 1, configuration {configuration}",
            input_shape=(224, 224, 3),
            classes=1000,
            depths=depths,
            dropout=dropout,
            convention=convention,
        )
        for variant, dropout, convention in (
            ("keras", 0.0, PLAIN),
            ("torchvision", 0.5, PLAIN),
            ("handbook", 0.0, replace(PLAIN, initializer="glorot_uniform")),
        )
    )


ROWS: tuple[VGG, ...] = (
    *_rows("vgg16", (2, 2, 3, 3, 3), "D"),
    # The handbook names this one without printing its code: its blocks in the paper's numbers.
    *_rows("vgg19", (2, 2, 4, 4, 4), "E"),
)
