"""The refusals of a file, each with its reason and advice."""

from __future__ import annotations

from server.errors import InvalidImageError, Reason


def damaged(what: str) -> InvalidImageError:
    """`what` is a phrase with what is wrong."""
    return InvalidImageError(Reason.CORRUPT_IMAGE, f"The image is damaged ({what}). Save it anew.", field="encoded")


def truncated(what: str) -> InvalidImageError:
    """`what` is a phrase with what is missing."""
    return InvalidImageError(
        Reason.TRUNCATED_IMAGE,
        f"The data ends before the picture does ({what}). Send the whole file.",
        field="encoded",
    )


def costly(name: str, what: str) -> InvalidImageError:
    """`what` is more than any encoder writes, and would keep a decoder busy."""
    return InvalidImageError(Reason.CORRUPT_IMAGE, f"The {name} file has {what}. Save it anew.", field="encoded")


def unsupported(name: str, allowed: str) -> InvalidImageError:
    """A format, or a kind of one, that is refused on purpose."""
    return InvalidImageError(Reason.UNSUPPORTED_FORMAT, f"{name} is not accepted. Send {allowed}.", field="encoded")


def no_image(what: str, allowed: str) -> InvalidImageError:
    """`what` says what was received instead."""
    return InvalidImageError(Reason.NOT_AN_IMAGE, f"{what}. Send {allowed}.", field="encoded")
