"""The specification of an architecture, as plain data. Keras is not imported here, so that tools read it quickly."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from keras import KerasTensor

    from glimpse.models.layouts import Layout

Padding = Literal["fill", "zero"]  # see `models.prestem.recipe`
# The output of a network. Logits, from which softmax computes the probabilities, can be computed from each of them.
# A single one, of a sigmoid or in front of it, is that of the second of two classes (`models.heads`).
Output = Literal["logits", "probabilities", "log-probabilities", "binary"]
Activation = Literal["relu", "relu6", "leaky_relu", "silu", "gelu", "tanh", "linear"]
# What the last activation of a residual unit applies to: the sum, as in the paper; the transform, in front of its SE
# block; or one activation to each.
Activated = Literal["sum", "transform", "both"]
Initializer = Literal["he_normal", "glorot_uniform"]
Normalised = Literal["none", "before", "after"]  # where the batch norm of a layer is: before its activation or after


@dataclass(frozen=True, slots=True)
class Stage:
    """One part of a network, named in the vocabulary stem / group / classifier.

    Every layer of the stage that owns parameters is named ``<stage name>_...``; the builder checks it, which
    is what lets a description add up to the parameter total.
    """

    name: str  # "stem", "group1", ..., "classifier"; no underscore
    block: str  # the kind of block it is made of, for example "se_basic"
    repeats: int = 1  # how many such blocks follow one another
    auxiliary: bool = False  # a side branch with logits of its own, which only training uses


@dataclass(frozen=True, slots=True)
class StageSummary:
    """A stage as built: what `describe` and `DescribeModel` show."""

    name: str
    block: str
    repeats: int
    output_shape: tuple[int, ...]  # without the batch axis: (height, width, channels) or (classes,)
    parameters: int  # trainable and not
    multiply_adds: int  # of convolutions and dense layers, for one image
    auxiliary: bool = False  # a side branch that only training uses


@dataclass(frozen=True, slots=True)
class NetworkSummary:
    """A description of a network that was built, which can be kept without the network itself."""

    paper: str  # where it is described; empty: a model of the user's own
    stages: tuple[StageSummary, ...]
    parameters: int  # scalar weights
    trainable_parameters: int  # those of them that training may change
    output: Output = "logits"  # its own output; a user's model may give probabilities only
    notes: tuple[str, ...] = ()  # about choices between tensors of its weights file
    embedding: int = 0  # numbers in the embedding of an image; 0: it has none
    maps: tuple[int, int] | None = None  # rows and columns of its class activation maps; None: it has none

    @property
    def multiply_adds(self) -> int:
        """Of convolutions and dense layers, for one image."""
        return sum(stage.multiply_adds for stage in self.stages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Convention:
    """The details in which publishers' layers differ for the same block.

    Blocks take it as one value, so that a paper's network and a checkpoint's are the same code.
    """

    batch_norm: bool = True  # behind every convolution
    bias: bool = False  # in convolutions, although the normalisation's shift makes it redundant
    scale: bool = True  # the normalisation multiplies (gamma) as well as shifts
    epsilon: float = 1e-3  # added to the variance
    activation: Activation = "relu"
    order: Literal["before", "after"] = "before"  # of the normalisation: before the activation or after it
    # What the kernels of convolutions are drawn from before training; weights that are loaded replace them. The first
    # is for layers in front of a ReLU (He et al., arXiv:1502.01852), the second Keras' default (Glorot and Bengio,
    # AISTATS 2010), which has half of its variance where a layer has as many outputs as inputs. Dense layers have the
    # second in every convention.
    initializer: Initializer = "he_normal"
    # "same" pads as TensorFlow does: with an odd total, one more at the bottom and right. "symmetric" pads
    # kernel // 2 on every side, as PyTorch's layers are told to, "after" only at the bottom and right, as Keras'
    # MobileNet does. They differ only where a stride is not 1; "same" and "after" only for sizes that are odd.
    padding: Literal["same", "symmetric", "after"] = "same"

    def normalised(self, where: Normalised) -> Convention:
        """The same with batch norm there, or nowhere; biases stay where they are."""
        bias = self.bias or not self.batch_norm
        return replace(self, batch_norm=where != "none", order="after" if where == "after" else "before", bias=bias)


TENSORFLOW = Convention()
TORCH = Convention(epsilon=1e-5, padding="symmetric")
PLAIN = Convention(batch_norm=False, bias=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture(ABC):
    """A row of the library: enough plain data to build one network.

    Families add their own fields (depths, widths, options) in a subclass beside the function that builds them, and
    name in `OPTIONS` those that a caller of `models.build` may change.
    """

    OPTIONS: ClassVar[tuple[str, ...]] = ()

    name: str  # "se_resnet20"
    variant: str  # "cifar": whose description of the network this row follows
    paper: str  # where the numbers come from
    input_shape: tuple[int, int, int]  # (height, width, channels) that the stem was designed for
    classes: int  # of the published form

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) that the network is built for unless its caller says otherwise.

        `input_shape`, except in families with an option that scales it, as MobileNet's resolution multiplier.
        """
        return self.input_shape

    @property
    def padding(self) -> Padding:
        """How images that are smaller than the input are padded in training, unless its caller says otherwise.

        The handbook adds zeros to the network's input.
        """
        return "zero" if self.variant == "handbook" else "fill"

    def served(self) -> Architecture:
        """The network without what only training uses: auxiliary classifiers, in the families that have them."""
        return self

    def layouts(self) -> Mapping[str, Layout]:
        """By publisher, how checkpoints of this network name their tensors; ours is always known and not listed."""
        return {}

    @abstractmethod
    def stages(self, x: KerasTensor, classes: int) -> Iterator[tuple[Stage, KerasTensor]]:
        """Yield every stage with its output, from ``x [N, H, W, C]`` to the logits ``[N, classes]``.

        The stages that are not auxiliary follow one another; the last of them is the network's answer.
        """
