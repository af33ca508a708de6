"""The pre-stem recipe: how images are preprocessed for a network; it belongs to the weights trained with it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from numbers import Real
from typing import Any, Literal, Self, get_args

from glimpse.models.suggestions import nearest

Geometry = Literal["crop", "squash", "letterbox", "pad"]
Filter = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Channels = Literal["RGB", "BGR", "GRAY"]
Smaller = Literal["pad", "resize"]
Padding = Literal["fill", "zero"]

# A recipe may come from an untrusted source, with its weights: what it asks for must fit in memory.
MAX_SIDE = 10_000  # pixels of the network's input
_LEAST_SHARE = 0.001  # smallest share of a side that a crop keeps

_CHOICES = {"geometry": Geometry, "filter": Filter, "smaller": Smaller, "channels": Channels, "padding": Padding}
# Fields that were added later, with their former behaviour as the default. They are not part of the digest where they
# have that value, so that older digests remain valid.
_LATER = {"smaller": "pad", "channels": "RGB", "antialias": True, "padding": "fill"}

_DEFAULTS = {"fill": 0, "mean": 0.0, "std": 1.0}  # of every channel


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How an image of any size becomes the network's input.

    An image larger than the input is reduced with antialiasing. A smaller one is padded with `fill`, because enlarging
    adds artefacts that the network was not trained on; with `smaller` ``resize`` it is enlarged, as most published
    networks were trained. The geometries differ in how they treat an image of another aspect ratio:

    - ``crop``: resize the shorter side to ``input / crop_share``, then crop the centre; the edges are lost. Both steps
      round as torchvision's `Resize` and `CenterCrop` do.
    - ``squash``: resize both sides to the input; the aspect ratio is lost.
    - ``letterbox``: resize the longer side to the input, and pad the other with `fill`; nothing is lost.
    - ``pad``: as letterbox, but an image is never enlarged: one that exceeds the input is reduced until it fits, and
      the rest is padded with `fill`. It requires `smaller` to be ``pad``.

    With `padding` ``fill``, padding is pixels, which are scaled as all others are: black ones become -mean / std. With
    ``zero`` it is exactly 0 in the network's input, behind the scaling, as layers of a network pad; `fill` is then not
    used.

    With `channels` ``GRAY`` the network sees one channel, the luma of ITU-R Recommendation BT.601 (0.299 red, 0.587
    green, 0.114 blue), taken before anything is resized; `fill`, `mean` and `std` are then one number each.

    With `antialias` off, reducing does not average: the filter uses only the nearest pixels, 2 x 2 for bilinear, 4 x 4
    for bicubic and 6 x 6 for lanczos, and details become noise. This is the default of ``tf.image.resize``, Keras'
    ``Resizing`` and OpenCV's bilinear filter, with which many networks were trained. It has no effect on enlarging, and
    none on ``nearest``, which never averages.
    """

    height: int  # of the network's input, pixels
    width: int
    geometry: Geometry = "crop"
    crop_share: float = 1.0  # share of the resized shorter side that the centre crop keeps; for geometry "crop" only
    filter: Filter = "bilinear"
    antialias: bool = True  # whether reducing an image averages over all of its pixels
    fill: tuple[int, ...] = ()  # of padding and letterbox bars: red, green, blue, or one grey; all 0 if not given
    padding: Padding = "fill"  # whether padding has the pixels of `fill` or is 0 in the network's input
    smaller: Smaller = "pad"  # what is done with an image that is smaller than the input
    channels: Channels = "RGB"  # of the network's input, in this order, which is also that of `mean` and `std`
    mean: tuple[float, ...] = ()  # subtracted from pixel values of 0 to 255, one number a channel; all 0 if not given
    std: tuple[float, ...] = ()  # divides the result, one number a channel; all 1 if not given

    def __post_init__(self) -> None:
        for field in ("height", "width"):
            if not _is_whole(side := getattr(self, field)) or not 1 <= side <= MAX_SIDE:
                raise ValueError(f"{field} must be a whole number of pixels from 1 to {MAX_SIDE:,}. Received: {side!r}")
        for field, allowed in _CHOICES.items():
            if getattr(self, field) not in get_args(allowed):
                raise ValueError(
                    f"{field} must be one of {', '.join(get_args(allowed))}. Received: {getattr(self, field)!r}"
                )
        if self.antialias is not True and self.antialias is not False:
            raise ValueError(f"antialias must be true or false. Received: {self.antialias!r}")
        if not _is_number(self.crop_share) or not _LEAST_SHARE <= self.crop_share <= 1:
            raise ValueError(f"crop_share must be a number from {_LEAST_SHARE} to 1. Received: {self.crop_share!r}")
        self._set_channels()
        if self.geometry == "pad" and self.smaller != "pad":
            raise ValueError(
                f"geometry pad never enlarges an image, so smaller must be pad, too. Received: smaller "
                f"{self.smaller!r}. Use geometry letterbox to enlarge."
            )
        # One form, so that equal recipes have equal digests: in JSON, 0 and 0.0 are written differently.
        object.__setattr__(self, "crop_share", float(self.crop_share))

    def _set_channels(self) -> None:
        """Check the fields that have a number for each channel, and bring them into one form."""
        for field, default in _DEFAULTS.items():
            if getattr(self, field) == ():
                object.__setattr__(self, field, (default,) * self.depth)
        if not all(_is_whole(value) and 0 <= value <= 255 for value in self._each(self.fill, "fill")):
            raise ValueError(f"fill must be {self._numbers('whole ', ' from 0 to 255')}. Received: {self.fill!r}")
        if not all(value > 0 for value in self._finite(self.std, "std")):
            raise ValueError(f"std must be {self._numbers('positive ')}. Received: {self.std!r}")
        if self.padding == "zero" and any(self.fill):
            raise ValueError(
                "With padding zero, fill has no effect and must be left out. Use padding fill to pad with these "
                f"pixels. Received: fill {self.fill!r}"
            )
        object.__setattr__(self, "fill", tuple(self.fill))
        object.__setattr__(self, "mean", self._finite(self.mean, "mean"))
        object.__setattr__(self, "std", self._finite(self.std, "std"))

    @property
    def depth(self) -> int:
        """The number of channels that the network sees: 1 for grey, else 3."""
        return 1 if self.channels == "GRAY" else 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the network's input for one image."""
        return self.height, self.width, self.depth

    @property
    def masked(self) -> bool:
        """Whether pixels travel with one more channel, which is 1, and 0 where they are padding."""
        return self.padding == "zero"

    @property
    def pixels_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the uint8 pixels that the host half makes and the graph half takes."""
        return self.height, self.width, self.depth + self.masked

    @property
    def blank(self) -> tuple[int, ...]:
        """One pixel of padding, as the host half makes it."""
        return (*self.fill, 0) if self.masked else self.fill

    def with_geometry(self, name: str) -> Self:
        """The recipe with another geometry, for a request that asks for one; all other fields are unchanged.

        ``pad`` brings `smaller` ``pad`` with it. The others keep `smaller`: whether enlarged pixels are something that
        the network knows is a matter of its weights, not of the request. So ``letterbox`` and ``squash`` of weights
        that pad leave an image that is smaller than the input as small as it is, and ``letterbox`` is then the same
        as ``pad``. `crop_share` is kept, too, for ``crop``; 1 takes the whole short side.

        Raises:
            ValueError: there is no such geometry; the message lists the valid ones.
        """
        changes: dict[str, Any] = {"geometry": name}
        if name == "pad":
            changes["smaller"] = "pad"
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Create a recipe from the values of `to_dict`, or of a TOML or JSON file.

        Raises:
            ValueError: a field is missing, unknown or not valid; the message names it.
        """
        known = [field.name for field in fields(cls)]
        missing = [field for field in ("height", "width") if field not in values]
        unknown = [field for field in values if field not in known]
        if unknown:
            raise ValueError(
                f"The recipe has no field {unknown[0]!r}.{nearest(str(unknown[0]), known)} "
                f"Its fields are {', '.join(known)}. Received: {dict(values)}"
            )
        if missing:
            raise ValueError(
                f"The recipe must give {' and '.join(missing)}, the size of the network's input in pixels. "
                f"Received: {dict(values)}"
            )
        return cls(**values)

    @property
    def digest(self) -> str:
        """``sha256:`` and the hash of the canonical JSON: equal digests mean equal pixels for the network."""
        values = {field: value for field, value in self.to_dict().items() if _LATER.get(field) != value}
        canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()

    def _each(self, values: object, field: str) -> tuple[Any, ...]:
        """The values of a field, one a channel; from a file they come as a list."""
        if not isinstance(values, (list, tuple)) or len(values) != self.depth:
            raise ValueError(f"{field} must be {self._numbers()}. Received: {values!r}")
        return tuple(values)

    def _finite(self, values: object, field: str) -> tuple[float, ...]:
        if not all(_is_number(value) and math.isfinite(value) for value in self._each(values, field)):
            raise ValueError(f"{field} must be {self._numbers()}. Received: {values!r}")
        return tuple(float(value) for value in self._each(values, field))

    def _numbers(self, kind: str = "", limits: str = "") -> str:
        """What a field needs that has a number for each channel, for a message."""
        if self.depth == 1:
            return f"a list of one {kind}number{limits}, because channels is GRAY"
        return f"three {kind}numbers{limits}"


def change_for(recipe: Recipe, shape: Sequence[int | None]) -> str:
    """What to change of a recipe for a network that takes images of another shape, (height, width, channels)."""
    sizes = zip(recipe.shape[:2], shape[:2], strict=True)
    if shape[2] in {1, 3} and shape[2] != recipe.depth and all(theirs in {None, ours} for ours, theirs in sizes):
        return f"Set channels of the recipe to {'GRAY' if shape[2] == 1 else 'RGB'}."
    return "Change height and width of the recipe."


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
