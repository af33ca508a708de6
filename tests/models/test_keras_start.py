"""How Keras is imported: a user's own settings of Keras do not change what is built."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_SHAPES = """
from glimpse.models import quiet
quiet.load_keras()
import keras
print(keras.layers.Conv2D(5, 3).compute_output_shape((1, 8, 9, 3)))
"""


@pytest.mark.ci
def test_layers_take_the_channels_last_whatever_keras_json_has(tmp_path: Path) -> None:
    (tmp_path / "keras.json").write_text(json.dumps({"image_data_format": "channels_first"}), encoding="utf-8")
    environment = {**os.environ, "KERAS_HOME": str(tmp_path)}
    told = subprocess.run(
        [sys.executable, "-c", _SHAPES], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert told.stdout.strip() == "(1, 6, 7, 5)"
