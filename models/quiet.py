"""Loading Keras without what TensorFlow writes while it starts."""

from __future__ import annotations

import os
import re
import sys
import tempfile

from glimpse.models import keras_start

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
# What TensorFlow's core writes before its log is set up, whatever the level: a head, and lines with a level and a date.
_CORE = re.compile(rb"[IW]\d{4} [\d:.]+ |WARNING: All log messages before absl::InitializeLog")


def load_keras() -> None:
    """Import Keras and its backend; what TensorFlow's core says of itself, such as that it uses oneDNN, is left out.

    All else is written to the standard error when the import has ended. Whoever sets ``TF_CPP_MIN_LOG_LEVEL`` gets
    everything, at once.
    """
    if "keras" in sys.modules:
        return
    if _LEVEL in os.environ:
        keras_start.import_keras()
        return
    os.environ[_LEVEL] = "3"
    sys.stderr.flush()
    with tempfile.TemporaryFile() as said:
        kept = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            keras_start.import_keras()
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            said.seek(0)
            for line in said:
                if not _CORE.match(line):
                    sys.stderr.write(line.decode(errors="replace"))
