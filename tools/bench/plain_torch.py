"""ResNet in plain PyTorch, as its users would write it: what Glimpse's PyTorch runtime is compared with.

A worker (`python -m tools.bench.plain_torch`). Bottleneck blocks with the stride in the 3 x 3 convolution, ResNet-50
being (3, 4, 6, 3) of them (He et al., arXiv:1512.03385, table 1). The weights are random; the cost is that of any.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tools.bench.worker import serve

BLOCKS = {"resnet50": (3, 4, 6, 3)}
_CLASSES = 1000


class _Unit(nn.Module):  # type: ignore[misc]
    """A bottleneck with its shortcut: ``[N, inputs, H, W]`` -> ``[N, 4 * width, H / stride, W / stride]``."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            *_convolution(inputs, width, 1),
            nn.ReLU(inplace=True),
            *_convolution(width, width, 3, stride),
            nn.ReLU(inplace=True),
            *_convolution(width, 4 * width, 1),
        )
        changed = stride > 1 or inputs != 4 * width
        self.shortcut = nn.Sequential(*(_convolution(inputs, 4 * width, 1, stride) if changed else ()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu_(self.main(x) + self.shortcut(x))


class Plain:
    """The network on the GPU, or on the CPU where there is none."""

    def __init__(self) -> None:
        """Nothing yet; `describe` makes the network."""
        self._network: Any = None

    def describe(self, network: str, precision: str) -> dict[str, str]:
        """Make the network; ``auto`` is bfloat16 on a GPU and float32 elsewhere."""
        gpu = torch.cuda.is_available()
        self._device = torch.device("cuda" if gpu else "cpu")
        reduced = precision == "bfloat16" or (precision == "auto" and gpu)
        self._type = torch.bfloat16 if reduced else torch.float32
        made = _network(BLOCKS[network]).eval().to(self._device, self._type)
        self._network = made.to(memory_format=torch.channels_last)
        return {"device": "gpu:0" if gpu else "cpu", "precision": str(self._type).removeprefix("torch.")}

    def compute(self, batch: int, seconds: float, side: int = 224) -> dict[str, float]:
        """Batches of uint8 pixels from the host's memory to probabilities there, one after the other."""
        pixels = torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8)

        def once() -> None:
            x = pixels.to(self._device).permute(0, 3, 1, 2).to(self._type).sub_(120).div_(60)
            self._network(x).float().softmax(1).cpu()

        with torch.inference_mode():
            for _ in range(2):
                once()
            images, begun = 0, time.monotonic()
            while images == 0 or time.monotonic() < begun + seconds:
                once()
                images += batch
            return {"images": images, "wall": time.monotonic() - begun}


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    return (
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )


def _network(blocks: tuple[int, ...]) -> nn.Module:
    layers: list[nn.Module] = [*_convolution(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for stage, number in enumerate(blocks):
        width = 64 << stage
        for unit in range(number):
            layers.append(_Unit(inputs, width, 2 if stage and not unit else 1))
            inputs = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, _CLASSES))


def _jobs() -> dict[str, Callable[..., Any]]:
    plain = Plain()
    return {"describe": plain.describe, "compute": plain.compute}


if __name__ == "__main__":
    serve(_jobs)
