"""What the trainer takes where the command does not say: by architecture, and by the number of images.

A rate suits an optimiser and a network. SGD with momentum at a peak rate of 0.2 trains residual networks with batch
normalisation well; networks without normalisation diverge with it, or their activations die. Adam with Keras' own rate
trains nearly all others, as it does in the handbook; deep networks without normalisation need a tenth of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from glimpse.models.spec import Architecture
from glimpse.models.train.plan import Optimizer

REFERENCE_BATCH = 128  # images in a batch for which SGD's rates below are meant
_MIN_BATCH = 8
_MIN_STEPS = 32  # in an epoch, while batches are larger than the smallest


@dataclass(frozen=True, slots=True)
class Defaults:
    """An optimiser and its peak learning rate."""

    optimizer: Optimizer
    learning_rate: float  # of SGD for batches of `REFERENCE_BATCH`, of Adam for any


SGD = Defaults("sgd", 0.2)
ADAM = Defaults("adam", 0.001)  # Keras' own rate
SLOWER_ADAM = Defaults("adam", 0.0003)
SLOWEST_ADAM = Defaults("adam", 0.0001)

_BY_ARCHITECTURE: dict[str, Defaults] = {
    # The shipped CIFAR-10 weights were trained so, and networks of this kind with Adam generalise less well in long
    # runs (Wilson et al., arXiv:1705.08292).
    **dict.fromkeys(("resnet20", "se_resnet20", "resnet18", "resnet34", "se_resnet34"), SGD),
    # Their logits stand behind a ReLU: if it dies, all classes are equally likely for good. At 0.001, 1.0 does that.
    **dict.fromkeys(("squeezenet1_0", "squeezenet1_1"), SLOWER_ADAM),
    # GoogLeNet without normalisation; the gates behind its modules begin at one half. At 0.001 it learns nothing.
    "se_inception": SLOWER_ADAM,
    # Sixteen layers and more without normalisation: at larger rates their ReLUs die.
    **dict.fromkeys(("vgg16", "vgg19"), SLOWEST_ADAM),
}
# Of variants that need another rate than the architecture, by its name and theirs.
_BY_VARIANT: dict[tuple[str, str], Defaults] = {
    # Kernels drawn by Glorot's uniform: at 0.0003 the ReLU in front of its logits dies in the first epoch.
    ("squeezenet1_0", "handbook"): SLOWEST_ADAM,
}


def of(row: Architecture) -> Defaults:
    """The optimiser and the rate for an architecture; without batch normalisation, SGD gives way to Adam."""
    own = _BY_VARIANT.get((row.name, row.variant)) or _BY_ARCHITECTURE.get(row.name, ADAM)
    return own if own.optimizer == "adam" or getattr(row, "batch_norm", True) else SLOWER_ADAM


def learning_rate(row: Architecture, optimizer: Optimizer, batch_size: int) -> float:
    """The peak learning rate for an architecture with an optimiser, which need not be the default one.

    That of SGD is in proportion to the batch (Goyal et al., arXiv:1706.02677, section 2.1), but no larger than for
    `REFERENCE_BATCH` images.
    """
    own = of(row)
    rate = own.learning_rate if own.optimizer == optimizer else {"sgd": SGD, "adam": ADAM}[optimizer].learning_rate
    if optimizer == "sgd":
        rate *= min(batch_size / REFERENCE_BATCH, 1.0)
    return rate


def batch_size(images: int) -> int:
    """Images in a batch: 128, or less where an epoch would have fewer than 32 steps; at least 8."""
    size = REFERENCE_BATCH
    while size > _MIN_BATCH and images < size * _MIN_STEPS:
        size //= 2
    return size


def auxiliary_weight(row: Architecture) -> float:
    """The weight of an auxiliary classifier's loss in training.

    GoogLeNet's is that of its paper (arXiv:1409.4842, section 5). The paper of Inception v3 (arXiv:1512.00567) states
    none; 0.4 is what TF-Slim and torchvision train it with.
    """
    return 0.4 if row.name == "inception_v3" else 0.3


def architectures(optimizer: Optimizer) -> list[str]:
    """The architectures that have an entry of their own and are trained with an optimiser."""
    return [name for name, own in _BY_ARCHITECTURE.items() if own.optimizer == optimizer]


def exceptions() -> dict[float, list[str]]:
    """By rate, the architectures whose rate is not the usual one of their optimiser, some with a variant."""
    found: dict[float, list[str]] = {}
    variants = {f"{name} ({variant})": own for (name, variant), own in _BY_VARIANT.items()}
    for name, own in (_BY_ARCHITECTURE | variants).items():
        if own not in (SGD, ADAM):
            found.setdefault(own.learning_rate, []).append(name)
    return found
