"""The key of a converted network: a hash of all that it follows from, so that what is kept is never out of date.

Of the code of the runtimes only what converts is part of it: what serves, measures or compares may change, and the
networks stay. What is measured of a network has a key of its own, see `server.runtime.kept_measurements`.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from glimpse.models.bundle import Bundle
from glimpse.models.files import bounded_files
from glimpse.server import build, runtimes

# By the names under which they are published.
_PACKAGES = ("keras", "keras-nightly", "tensorflow", "tensorflow-cpu", "tf-nightly", "tf-nightly-cpu", "openvino")
_PACKAGE = Path(__file__).parents[2]
# Of Keras' settings those that change a network, with the values that they have unless somebody changes them. The
# format of images is none: with channels first our networks take no weights, and a layer in a file has its own.
_KERAS = {"floatx": "float32", "epsilon": 1e-7}
# Of this folder, by their names: all that `conversion_worker` imports, which a test compares, and what tells apart
# whether a network can be converted from whether it could be this time.
CONVERTS = (
    "__init__",
    "conversion",
    "conversion_process",
    "conversion_worker",
    "converted_cache",
    "converted_key",
    "graph_conversion",
    "graph_embedding",
    "graph_input",
    "graph_operators",
    "keras_conversion",
    "openvino_graphs",
    "openvino_library",
    "openvino_requests",
    "precision",
    "process_limits",
    "quantisation",
    "quantising",
    "tensorflow",
)


def identity(bundle: Bundle) -> str:
    """A hash of everything that the files of a bundle's network follow from, our own code among it."""
    follows_from = {
        "code": _code(),
        "packages": {name: build.version(name) for name in _PACKAGES},
        "keras": _keras_settings(),
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


def _keras_settings() -> dict[str, Any]:
    """What Keras' settings are, where they change a network; those of its file unless Keras is loaded."""
    config = getattr(sys.modules.get("keras"), "config", None)
    if config is not None:
        found = {"floatx": config.floatx(), "epsilon": config.epsilon()}
    else:
        try:
            found = bounded_files.parse_json(bounded_files.read_text(_keras_folder() / "keras.json"))
            found = {name: found[name] for name in _KERAS if name in found}
        except (OSError, ValueError, TypeError):
            found = {}  # Keras does the same where the file cannot be read; of a wrong value it tells when it is loaded
    return {**_KERAS, **found}


def _keras_folder() -> Path:
    """Where Keras has its settings."""
    if "KERAS_HOME" in os.environ:
        return Path(os.environ["KERAS_HOME"]).expanduser()
    home = Path.home()
    return Path(home if os.access(home, os.W_OK) else "/tmp", ".keras")  # noqa: S108 - it is Keras' own


@cache
def _code() -> str:
    """A hash of our own code that makes a network of a bundle and says how it is kept."""
    converts = (Path(__file__).with_name(f"{name}.py") for name in CONVERTS)
    return _digest([*(_PACKAGE / "models").rglob("*.py"), *converts, Path(runtimes.__file__)])


@cache
def measuring() -> str:
    """A hash of our own code that serves and measures a network, whatever made it."""
    return _digest([*Path(__file__).parent.glob("*.py")])


def _digest(files: list[Path]) -> str:
    whole = hashlib.sha256()
    for path in sorted(files):
        whole.update(f"{path.relative_to(_PACKAGE)}\n".encode() + path.read_bytes())
    return whole.hexdigest()
