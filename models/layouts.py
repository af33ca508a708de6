"""How publishers name the tensors of a network: rules that map our layer names to theirs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Role = Literal["kernel", "depthwise", "bias", "gamma", "beta", "moving_mean", "moving_variance"]
Replacement = str | Callable[[re.Match[str]], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """How a framework writes a layer: what follows the layer's name for each role, and the order of a kernel's axes."""

    # "HWIO": TensorFlow's. "OIHW": PyTorch's and ONNX's, whose dense kernels are OI. "OHWI": TFLite's, dense OI.
    order: Literal["HWIO", "OIHW", "OHWI"]
    # In order of preference. In one with {0} that stands for the layer's name, which such files put elsewhere or twice.
    suffixes: Mapping[Role, tuple[str, ...]]

    def tensors(self, layer: str, role: Role) -> list[str]:
        """The possible names of the tensor of a role, in order of preference; `layer` is the publisher's name."""
        suffixes = self.suffixes.get(role, ())
        return [suffix.format(layer) if "{" in suffix else layer + suffix for suffix in suffixes]


KERAS = Naming(
    order="HWIO",
    suffixes={
        # A separable convolution of Keras holds both of its kernels.
        "kernel": ("/kernel", "/pointwise_kernel"),
        "depthwise": ("/depthwise_kernel", "/kernel"),
        "bias": ("/bias",),
        "gamma": ("/gamma",),
        "beta": ("/beta",),
        "moving_mean": ("/moving_mean",),
        "moving_variance": ("/moving_variance",),
    },
)
TORCH = Naming(
    order="OIHW",
    suffixes={
        "kernel": (".weight",),
        "depthwise": (".weight",),
        "bias": (".bias",),
        "gamma": (".weight",),
        "beta": (".bias",),
        "moving_mean": (".running_mean",),
        "moving_variance": (".running_var",),
    },
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a publisher names the layers of a network."""

    naming: Naming
    rename: Callable[[str], str]  # name of our layer -> the publisher's, for example "layer1.0.conv1"
    # In its place, names of all our layers that have weights at once -> the publisher's: for names that depend on the
    # other layers. A layer may be several of theirs, whose tensors then follow one another along the last axis.
    names: Callable[[Iterable[str]], Mapping[str, tuple[str, ...]]] | None = None
    # Patterns (of a full match) of names in the file that serving has no use for, as auxiliary classifiers.
    unused: tuple[str, ...] = ()
    # Keras numbers layers that were given no name ("conv2d_17") over all that a process builds. Those of the classes
    # named here are counted anew, in the same order from 1, before names are compared.
    recounted: tuple[str, ...] = ()
    # A classifier with one class more than ours has one for "nothing" first, which is left out.
    background: bool = False

    def theirs(self, layers: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
        """By the name of each of our layers with weights, the publisher's layers that it stands for, most often one."""
        return self.names(layers) if self.names else {layer: (self.rename(layer),) for layer in layers}

    def canonical(self, names: Iterable[str]) -> dict[str, str]:
        """The names in a file by the canonical names under which they are compared."""
        if not self.recounted:
            return {name: name for name in names}
        numbered = re.compile(rf"({'|'.join(self.recounted)})(?:_(\d+))?(/.*)")
        matches = {name: numbered.fullmatch(name) for name in names}
        layers: dict[str, set[int]] = {}
        for match in filter(None, matches.values()):
            layers.setdefault(match[1], set()).add(int(match[2] or 0))
        ranks = {
            (kind, number): rank
            for kind, numbers in layers.items()
            for rank, number in enumerate(sorted(numbers), start=1)
        }

        def compared(match: re.Match[str]) -> str:
            return f"{match[1]}_{ranks[match[1], int(match[2] or 0)]}{match[3]}"

        return {compared(match) if match else name: name for name, match in matches.items()}


def renaming(*rules: tuple[str, Replacement]) -> Callable[[str], str]:
    r"""A function that gives a layer the publisher's name.

    Args:
        rules: pairs of a pattern, which must match the whole of our name, and what the publisher calls it: a template
            (``r"\1"``) or a function of the match, for counting from 0 where we count from 1. The first that fits
            counts; a name that none fits stays as it is.
    """
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]

    def rename(layer: str) -> str:
        for pattern, replacement in compiled:
            if match := pattern.fullmatch(layer):
                return replacement(match) if callable(replacement) else match.expand(replacement)
        return layer

    return rename


OWN = Layout(naming=KERAS, rename=renaming())
