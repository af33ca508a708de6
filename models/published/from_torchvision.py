"""What torchvision publishes: PyTorch files with the first digits of their SHA-256 in their names."""

from __future__ import annotations

from glimpse.models.published import recipes
from glimpse.models.published.checkpoint import Checkpoint, Checksum

_URL = "https://download.pytorch.org/models/"
_SOURCE = "https://docs.pytorch.org/vision/stable/models.html"
_LICENCE = "BSD-3-Clause"  # torchvision's own; it states none for single weights


def _row(
    architecture: str,
    file: str,
    accuracy: tuple[float, float],
    *,
    model: str = "",
    version: int = 1,
    size: int = 224,
    resize: int = 256,
    transform_input: bool = False,
) -> Checkpoint:
    recipe = recipes.torch(size, resize)
    if transform_input:
        # The weights came from TensorFlow: torchvision normalises as for all others, and the network's first step
        # takes that back to x / 127.5 - 1. Ours has no such step.
        recipe = recipes.torch(size, resize, mean=recipes.HALF, std=recipes.HALF)
    return Checkpoint(
        architecture=architecture,
        variant="torchvision",
        tag="imagenet" if version == 1 else f"imagenet_v{version}",
        alias="imagenet_v1" if version == 1 else "",
        publisher="torchvision",
        upstream=f"{model or architecture} IMAGENET1K_V{version}",
        url=_URL + file,
        file=file,
        checksum=Checksum("sha256", file.removesuffix(".pth").rpartition("-")[2]),
        recipe=recipe,
        top1=accuracy[0],
        top5=accuracy[1],
        source=_SOURCE,
        licence=_LICENCE,
    )


ROWS = (
    _row("vgg16", "vgg16-397923af.pth", (71.592, 90.382)),
    _row("vgg19", "vgg19-dcbb9e9d.pth", (72.376, 90.876)),
    _row("resnet18", "resnet18-f37072fd.pth", (69.758, 89.078)),
    _row("resnet34", "resnet34-b627a593.pth", (73.314, 91.42)),
    _row("resnet50", "resnet50-0676ba61.pth", (76.13, 92.862)),
    _row("resnet50", "resnet50-11ad3fa6.pth", (80.858, 95.434), version=2, resize=232),
    _row("resnet101", "resnet101-63fe2227.pth", (77.374, 93.546)),
    _row("resnet101", "resnet101-cd907fc2.pth", (81.886, 95.78), version=2, resize=232),
    _row("resnet152", "resnet152-394f9c45.pth", (78.312, 94.046)),
    _row("resnet152", "resnet152-f82ba261.pth", (82.284, 96.002), version=2, resize=232),
    _row("resnext50", "resnext50_32x4d-7cdf4587.pth", (77.618, 93.698), model="resnext50_32x4d"),
    _row("resnext50", "resnext50_32x4d-1a0047aa.pth", (81.198, 95.34), model="resnext50_32x4d", version=2, resize=232),
    _row("densenet121", "densenet121-a639ec97.pth", (74.434, 91.972)),
    _row("densenet169", "densenet169-b2777c0a.pth", (75.6, 92.806)),
    _row("densenet201", "densenet201-c1103571.pth", (76.896, 93.37)),
    _row("googlenet", "googlenet-1378be20.pth", (69.778, 89.53), transform_input=True),
    _row(
        "inception_v3", "inception_v3_google-0cc3c7bd.pth", (77.294, 93.45), size=299, resize=342, transform_input=True
    ),
    _row("squeezenet1_0", "squeezenet1_0-b66bff10.pth", (58.092, 80.42)),
    _row("squeezenet1_1", "squeezenet1_1-b8a52dc0.pth", (58.178, 80.624)),
    _row("mobilenet_v2", "mobilenet_v2-b0353104.pth", (71.878, 90.286)),
    _row("mobilenet_v2", "mobilenet_v2-7ebf99e0.pth", (72.154, 90.822), version=2, resize=232),
)
