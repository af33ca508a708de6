"""What decoding one image may cost: as in training, but with limits."""

from models.decoding.limits import ImageLimits

__all__ = ["ImageLimits"]
