"""MobileNets equal those of Keras Applications and timm, stage by stage, at every width and at smaller images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image
from skimage import data

from glimpse.models import weights
from glimpse.models.builder import assemble
from glimpse.models.catalogue import find
from tests.models.parity.reference import Case, check

_REAL = Path(__file__).parents[4] / "shared/weights/mobilenet_v1_0.25_224_imagenet.tflite"

_KERAS = {
    "stem": "conv_pw_1_relu",
    "group1": "conv_pw_3_relu",
    "group2": "conv_pw_5_relu",
    "group3": "conv_pw_11_relu",
    "group4": "conv_pw_13_relu",
    "classifier": "predictions",
}
_TIMM = {"stem": "blocks.0", **{f"group{n}": f"blocks.{n}" for n in (1, 2, 3, 4)}, "classifier": "classifier"}

CASES = [
    *(
        Case(
            architecture="mobilenet",
            variant="keras",
            reference="keras:MobileNet",
            stages=_KERAS,
            options={"alpha": alpha},
            arguments={"alpha": alpha},
        )
        for alpha in (1.0, 0.75, 0.5, 0.25)
    ),
    # The paper's 128x128; and 56x56, where maps of 7x7 are halved to 3x3, as no padding but this variant's does it.
    *(
        Case(
            architecture="mobilenet",
            variant="keras",
            reference="keras:MobileNet",
            stages=_KERAS,
            options={"rho": rho},
            arguments={"input_shape": (side, side, 3)},
        )
        for rho, side in ((4 / 7, 128), (0.25, 56))
    ),
    Case(architecture="mobilenet", variant="timm", reference="timm:mobilenetv1_100", stages=_TIMM),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_mobilenet_equals_its_reference(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


def _interpreter(path: Path) -> Any:
    lite = pytest.importorskip("tensorflow", reason="TFLite's interpreter comes with TensorFlow").lite
    with pytest.warns(UserWarning, match="deprecated"):  # in favour of a package of its own
        return lite.Interpreter(str(path), num_threads=1)


@pytest.mark.skipif(not _REAL.is_file(), reason=f"the real weights are in {_REAL}, which is not there")
@pytest.mark.parametrize("image", ["chelsea", "coffee"])
def test_real_weights_of_tensorflow_equal_its_interpreter(image: str) -> None:
    pixels = np.asarray(Image.fromarray(getattr(data, image)()).resize((224, 224)), np.float32)[None] / 127.5 - 1
    interpreter = _interpreter(_REAL)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels)
    interpreter.invoke()
    expected = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    row = find("mobilenet", "tensorflow", {"alpha": 0.25})
    model = assemble(row).model
    weights.load(model, _REAL, row.layouts())
    probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(model(pixels, training=False)))
    assert expected.max() > 0.05
    np.testing.assert_allclose(probabilities, expected, rtol=0, atol=1e-5)
