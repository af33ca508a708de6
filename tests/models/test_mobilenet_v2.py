"""MobileNetV2: where its units add and how its widths are rounded."""

from __future__ import annotations

import keras
import pytest

from glimpse import models
from glimpse.models.builder import assemble
from glimpse.models.catalogue import find


@pytest.mark.parametrize(
    ("alpha", "stem", "groups", "last"),
    [
        (1.0, 32, [16, 24, 32, 64, 96, 160, 320], 1280),
        # 0.35 of 32 is 11.2: 8 would be a tenth less and more.
        (0.35, 16, [8, 8, 16, 24, 32, 56, 112], 1280),
        (1.4, 48, [24, 32, 48, 88, 136, 224, 448], 1792),
    ],
)
def test_widths_are_multiples_of_8_and_only_the_last_convolution_never_narrows(
    alpha: float, stem: int, groups: list[int], last: int
) -> None:
    assembly = assemble(find("mobilenet_v2", options={"alpha": alpha}))
    channels = [stage.output_shape[-1] for stage in assembly.stages]
    assert channels == [stem, *groups, last, 1000]


def test_a_unit_adds_its_input_where_shapes_agree_and_is_linear_before_it() -> None:
    model = models.build("mobilenet_v2")
    added = {layer.name for layer in model.layers if isinstance(layer, keras.layers.Add)}
    # All but the first unit of each of the seven groups.
    repeats = {2: 2, 3: 3, 4: 4, 5: 3, 6: 3}
    assert added == {f"group{g}_block{b}_add" for g, count in repeats.items() for b in range(2, count + 1)}
    before = [layer._keras_history.operation.name for layer in model.get_layer("group2_block2_add").input]
    assert before == ["group2_block1_project_bn", "group2_block2_project_bn"]
