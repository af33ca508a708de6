"""The key of a converted network: a hash of all that it follows from, so that what is kept is never out of date."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

from glimpse.models.bundle import Bundle
from glimpse.server import build, runtimes

# By the names under which they are published.
_PACKAGES = ("keras", "keras-nightly", "tensorflow", "tensorflow-cpu", "tf-nightly", "tf-nightly-cpu", "openvino")
_PACKAGE = Path(__file__).parents[2]


def identity(bundle: Bundle) -> str:
    """A hash of everything that the files of a bundle's network follow from, our own code among it."""
    follows_from = {
        "code": _code(),
        "packages": {name: build.version(name) for name in _PACKAGES},
        "weights": bundle.weights_digest,
        "network": [bundle.architecture, bundle.variant, dict(bundle.options), bundle.graph, bundle.embedding],
        "input_shape": bundle.input_shape,
        "classes": len(bundle.labels),
        "recipe": bundle.recipe.digest,
        "temperature": bundle.temperature,
        "head": bundle.head.to_dict(),
        "statistics": bundle.statistics_layer,
    }
    return hashlib.sha256(json.dumps(follows_from, sort_keys=True).encode()).hexdigest()[:32]


@cache
def _code() -> str:
    """A hash of our own code that makes a network of a bundle and says how it is kept."""
    whole = hashlib.sha256()
    ours = [*(_PACKAGE / "models").rglob("*.py"), *Path(__file__).parent.glob("*.py"), Path(runtimes.__file__)]
    for path in sorted(ours):
        whole.update(f"{path.relative_to(_PACKAGE)}\n".encode() + path.read_bytes())
    return whole.hexdigest()
