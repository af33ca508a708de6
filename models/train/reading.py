"""One image file as the network's input, and what is said of files that cannot be read. Keras is not imported here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from glimpse.models.decoding.decode import decode
from glimpse.models.decoding.limits import OWN_FILES
from glimpse.models.decoding.refusals import RefusedImageError
from glimpse.models.prestem import host
from glimpse.models.prestem.recipe import Recipe
from glimpse.models.train import files

_SHOWN = 20  # of the images that cannot be read


def network_input(data: bytes, recipe: Recipe) -> NDArray[np.uint8]:
    """The network's input of the bytes of one image file: uint8 ``[*recipe.pixels_shape]``.

    Raises:
        UnreadableError: it cannot be decoded.
    """
    try:
        return host.fit(decode(data, OWN_FILES), recipe)
    except RefusedImageError as error:
        raise files.UnreadableError(f"cannot be decoded: {str(error).rstrip('.')}") from error


def summary(unreadable: Sequence[tuple[str, str]]) -> str:
    """Why images cannot be read, for people: in one line where all have the same reason, else one line an image.

    Args:
        unreadable: the name of each file, and the reason as the rest of a sentence that begins with the name. Only the
            first ones are listed.
    """
    shown, hidden = unreadable[:_SHOWN], len(unreadable) - _SHOWN
    more = f"and {hidden:,} more" if hidden > 0 else ""
    if len(unreadable) == 1:
        return "{} {}.".format(*unreadable[0])
    head = f"{len(unreadable):,} images cannot be read:"
    if len({reason for _, reason in unreadable}) == 1:
        names = ", ".join(name for name, _ in shown)
        return f"{head} {names}{' ' * bool(more)}{more}. Each {unreadable[0][1]}."
    lines = [head, *(f"{name} {reason}." for name, reason in shown), *([f"{more}."] if more else [])]
    return "\n  ".join(lines)
