"""The pre-stem recipe: a frozen value that belongs to the weights, because they were trained behind it."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

Geometry = Literal["crop", "squash", "letterbox"]
Filter = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Channels = Literal["RGB", "BGR"]
Smaller = Literal["pad", "resize"]

_CHOICES = {"geometry": Geometry, "filter": Filter, "smaller": Smaller, "channels": Channels}
# Fields that came later: left out of the digest where they say what was always so, and so older digests hold.
_LATER = {"smaller": "pad", "channels": "RGB"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How an image of any size becomes the network's input.

    An image larger than the input is resized down with antialiasing. A smaller one is padded with `fill` up to the
    input, because enlarging adds artefacts that the network has not seen; where `smaller` is ``resize`` it is
    enlarged, because most published networks have seen nothing else. The geometries differ in what they do with an
    image of another aspect ratio:

    - ``crop``: the short side to ``input / crop_share``, then the centre of the input's size; the edges go. Both are
      rounded as torchvision's `Resize` and `CenterCrop` round them.
    - ``squash``: both sides to the input; the aspect ratio goes.
    - ``letterbox``: the long side to the input, the rest is fill; nothing goes.
    """

    height: int  # of the network's input, pixels
    width: int
    geometry: Geometry = "crop"
    crop_share: float = 1.0  # of the resized short side that the centre crop keeps; geometry "crop" only
    filter: Filter = "bilinear"
    fill: tuple[int, int, int] = (0, 0, 0)  # RGB of padding and letterbox bars
    smaller: Smaller = "pad"  # what becomes of an image that is smaller than the input
    channels: Channels = "RGB"  # order in which the network sees them; `mean` and `std` are given in that order
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)  # subtracted from 0..255 values in the graph
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)  # then divided by

    def __post_init__(self) -> None:
        # 0 and 0.0 are equal but written differently in JSON: one form, so that equal recipes have equal digests.
        for field in ("mean", "std"):
            object.__setattr__(self, field, tuple(float(value) for value in getattr(self, field)))
        object.__setattr__(self, "crop_share", float(self.crop_share))
        if self.height < 1 or self.width < 1:
            raise ValueError(f"The input size must be positive. Received: {self.height}x{self.width}")
        for field, allowed in _CHOICES.items():
            if getattr(self, field) not in get_args(allowed):
                raise ValueError(
                    f"{field} must be one of {', '.join(get_args(allowed))}. Received: {getattr(self, field)!r}"
                )
        if not 0 < self.crop_share <= 1:
            raise ValueError(f"crop_share must be in (0, 1]. Received: {self.crop_share}")
        if len(self.fill) != 3 or not all(0 <= value <= 255 for value in self.fill):
            raise ValueError(f"fill must be three values in 0..255. Received: {self.fill}")
        if not (
            len(self.mean) == len(self.std) == 3
            and all(map(math.isfinite, self.mean + self.std))
            and all(value > 0 for value in self.std)
        ):
            raise ValueError(f"mean and std are three numbers each, std positive. Received: {self.mean}, {self.std}")

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The recipe written by `to_dict`.

        Raises:
            ValueError: an unknown field, or a value that cannot be; the message names it.
        """
        try:
            fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
            return cls(**fields)
        except TypeError as error:
            raise ValueError(f"Not a pre-stem recipe: {error}. Received: {values}") from error

    @property
    def digest(self) -> str:
        """``sha256:`` and the hash of the canonical JSON: equal digests mean equal pixels for the network."""
        values = {field: value for field, value in self.to_dict().items() if _LATER.get(field) != value}
        canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()
