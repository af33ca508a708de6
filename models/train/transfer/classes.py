"""How many classes a weights file has, from the shape of its last layer."""

from __future__ import annotations

from collections.abc import Mapping

from glimpse.models.layouts import OWN, Layout, Role
from glimpse.models.weights import prefixes
from glimpse.models.weights.contents import Contents

_ROLES: tuple[Role, ...] = ("bias", "kernel")


def classes_in(found: Contents, head: str, layouts: Mapping[str, Layout]) -> int | None:
    """The number of classes of the tensors of a file.

    Args:
        found: the tensors.
        head: our name of the layer that gives the scores.
        layouts: of the publishers whose names are understood beside our own.

    Returns:
        None where no tensor has the name of that layer in any layout.
    """
    for named in prefixes.candidates(found):
        for layout in (OWN, *layouts.values()):
            originals = layout.canonical(named.tensors)
            for role in _ROLES:
                for name in layout.naming.tensors(layout.rename(head), role):
                    if name not in originals:
                        continue
                    shape = named.tensors[originals[name]].shape
                    # PyTorch's kernels have the outputs first, TensorFlow's last.
                    count = shape[0] if role == "kernel" and layout.naming.order == "OIHW" else shape[-1]
                    return int(count) - bool(layout.background and count == _WITH_BACKGROUND)
    return None


_WITH_BACKGROUND = 1001  # ImageNet's classes, and one for everything else before them
