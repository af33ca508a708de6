"""The refusals of a file, each with its reason and advice."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """Why a file is refused, for programs; the service answers with the same words."""

    EMPTY_IMAGE = "EMPTY_IMAGE"
    IMAGE_BYTES_EXCEEDED = "IMAGE_BYTES_EXCEEDED"
    IMAGE_PIXELS_EXCEEDED = "IMAGE_PIXELS_EXCEEDED"
    NOT_AN_IMAGE = "NOT_AN_IMAGE"
    UNSUPPORTED_FORMAT = "UNSUPPORTED_FORMAT"
    TRUNCATED_IMAGE = "TRUNCATED_IMAGE"
    CORRUPT_IMAGE = "CORRUPT_IMAGE"
    DECODER_FAILED = "DECODER_FAILED"


class RefusedImageError(ValueError):
    """A file cannot be decoded, or is refused because of what decoding it would take.

    Attributes:
        kind: for programs.
        message: for people: what was wrong, what was received, what to do.
    """

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


def damaged(what: str) -> RefusedImageError:
    """`what` is a phrase with what is wrong."""
    return RefusedImageError(Kind.CORRUPT_IMAGE, f"The image is damaged ({what}). Save it again.")


def truncated(what: str) -> RefusedImageError:
    """The image is truncated; `what` is a phrase that says where."""
    return RefusedImageError(
        Kind.TRUNCATED_IMAGE, f"The data ends before the image is complete ({what}). Send the whole file."
    )


def no_memory() -> RefusedImageError:
    """There was not enough memory; the image itself may be valid."""
    return RefusedImageError(
        Kind.DECODER_FAILED, "There is not enough memory to decode the image. Send a smaller image, or try again later."
    )


def too_expensive(name: str, what: str) -> RefusedImageError:
    """`what` is more than any encoder writes, and would keep a decoder busy."""
    return RefusedImageError(Kind.CORRUPT_IMAGE, f"The {name} file has {what}. Save it again.")


def unsupported(name: str, allowed: str) -> RefusedImageError:
    """A format, or a variant of one, that is not supported."""
    return RefusedImageError(Kind.UNSUPPORTED_FORMAT, f"{name} is not accepted. Send {allowed}.")


def no_image(what: str, allowed: str) -> RefusedImageError:
    """The data is not an image; `what` is a sentence that says what was received."""
    return RefusedImageError(Kind.NOT_AN_IMAGE, f"{what}. Send {allowed}.")


def too_many_pixels(what: str) -> RefusedImageError:
    """`what` says how many there may be, and how many there are."""
    return RefusedImageError(Kind.IMAGE_PIXELS_EXCEEDED, f"{what}. Send a smaller image.")
