"""What decoding one image may cost; the decoder of training has the same limits, with other values."""

from models.decoding.limits import ImageLimits

__all__ = ["ImageLimits"]
