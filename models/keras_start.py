"""Importing Keras without two libraries that it imports wherever they are installed and that nothing here uses."""

from __future__ import annotations

import sys

# For Keras' wrappers of estimators and its galleries of pictures: a quarter and a tenth of the time that the import of
# Keras with TensorFlow takes. nncf, which quantises, brings scikit-learn; training brings matplotlib.
_UNUSED = ("sklearn", "matplotlib")


def import_keras() -> None:
    """Import Keras and its backend, in a process of our own: to it, the two are not installed while it is imported.

    Afterwards they can be imported as ever. What has been imported already stays. Layers take the channels last unless
    they say otherwise, whatever the user's keras.json has: all networks of ours are built for that.
    """
    if "keras" in sys.modules:
        return
    hidden = [name for name in _UNUSED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: whoever imports it gets ImportError
    try:
        import keras
    finally:
        for name in hidden:
            del sys.modules[name]
    keras.config.set_image_data_format("channels_last")
