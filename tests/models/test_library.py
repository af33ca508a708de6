"""Every architecture of the library, one battery for all."""

from __future__ import annotations

import csv
import itertools
import json
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest

from glimpse import models
from glimpse.models import network_limits
from glimpse.models.builder import assemble, trainable_parameters
from glimpse.models.catalogue import UnknownArchitectureError, find, rows
from glimpse.models.families.resnet import ResNet
from glimpse.models.network_limits import GiantNetworkError

FACTS = Path(__file__).parents[3] / "shared/facts/architectures.json"
EVERY = [(row.name, row.variant) for row in rows()]
_SMALL = 3_000_000  # parameters of a network that is quick to build
_ONE_EACH = {"se_resnet20-cifar", "mnist_dnn-handbook", "squeezenet1_1-torchvision", "mobilenet-keras-alpha=0.25"}
_SHAPE = tuple[int, ...]


class Counted(NamedTuple):
    """A line of parameters.csv: what a paper's code or a published library has."""

    architecture: str
    variant: str
    options: dict[str, Any]
    input_shape: _SHAPE
    total: int
    trainable: int


def _counted() -> Iterator[Any]:
    with (Path(__file__).parent / "parameters.csv").open(newline="") as file:
        for line in csv.DictReader(file):
            options = json.loads(line["options"] or "{}")
            shape = tuple(int(side) for side in line["input_shape"].split("x"))
            counted = Counted(
                line["architecture"],
                line["variant"],
                options,
                shape if len(shape) == 3 else (*shape, 1),
                int(line["total_params"]),
                int(line["trainable_params"]),
            )
            name = "-".join([counted.architecture, counted.variant, *(f"{k}={v}" for k, v in options.items())])
            yield pytest.param(counted, id=name, marks=[] if counted.total < _SMALL else pytest.mark.slow)


COUNTED = list(_counted())
# The same networks, of which `make test` takes one of each family.
_COME_BACK = [
    pytest.param(*each.values, id=each.id, marks=each.marks or (() if each.id in _ONE_EACH else pytest.mark.ci))
    for each in COUNTED
]


@pytest.mark.parametrize("counted", COUNTED)
def test_every_network_has_exactly_the_parameters_that_were_counted_for_it(counted: Counted) -> None:
    model = models.build(counted.architecture, variant=counted.variant, **counted.options)
    assert model.input_shape == (None, *counted.input_shape)
    assert (model.count_params(), trainable_parameters(model)) == (counted.total, counted.trainable)


@pytest.mark.parametrize("counted", _COME_BACK)
def test_every_network_comes_back_from_a_file_in_safe_mode_with_equal_output(counted: Counted, tmp_path: Path) -> None:
    model = models.build(counted.architecture, variant=counted.variant, **counted.options)
    path = tmp_path / "model.keras"
    model.save(path)
    again = keras.saving.load_model(path, safe_mode=True)
    path.unlink()  # up to half a gigabyte
    x = np.random.default_rng(0).normal(0, 1, (1, *model.input_shape[1:])).astype(np.float32)
    for ours, theirs in zip(_arrays(model(x)), _arrays(again(x)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("counted", COUNTED)
def test_stages_add_up_to_the_network_and_lead_from_the_image_to_the_classes(counted: Counted) -> None:
    row = find(counted.architecture, counted.variant, {k: v for k, v in counted.options.items() if k != "classes"})
    assembly = assemble(row)
    assert sum(stage.parameters for stage in assembly.stages) == assembly.model.count_params()
    trunk = [stage for stage in assembly.stages if not stage.auxiliary]
    assert trunk[-1].output_shape == (row.classes,)
    sides = [stage.output_shape[0] for stage in trunk if len(stage.output_shape) == 3]
    assert sides == sorted(sides, reverse=True)
    assert all(stage.multiply_adds > 0 for stage in assembly.stages if stage.parameters)


def test_every_row_of_the_library_has_been_counted() -> None:
    counted = {(param.values[0].architecture, param.values[0].variant) for param in COUNTED}
    assert set(EVERY) - counted == set()


# Our variant (with options) and the facts' name of the same network.
TRACES = [
    ("vgg16", "handbook", {}, "vgg16_sequential"),
    ("vgg19", "handbook", {}, "vgg19_by_seed_conv_block"),
    ("resnet34", "handbook", {}, "handbook_resnet34"),
    ("resnet50", "handbook", {}, "handbook_resnet50"),
    ("resnext50", "handbook", {}, "handbook_resnext50"),
    ("resnext50", "handbook", {"factorized": True}, "handbook_resnext50_fig3d"),
    ("xception", "handbook", {}, "handbook_xception_1556"),
    ("mobilenet", "handbook", {}, "handbook_mobilenet_224_a1"),
    ("mobilenet", "handbook", {"alpha": 0.25}, "handbook_mobilenet_224_a0.25"),
    ("mobilenet", "handbook", {"rho": 0.25}, "handbook_mobilenet_rho_0.25_of_224_is_56"),
    ("squeezenet1_0", "handbook", {}, "handbook_squeezenet_v1.0"),
    ("resnet34", "geron", {}, "geron_resnet34_1000_classes"),
    ("se_resnet34", "geron", {}, "se_resnet34_geron_1000"),
    ("se_resnet50", "handbook", {}, "se_resnet50_handbook"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "variant", "options", "fact"), TRACES, ids=[trace[3] for trace in TRACES])
def test_stage_shapes_follow_the_trace_of_the_seeds_own_code(
    architecture: str, variant: str, options: dict[str, Any], fact: str
) -> None:
    if not FACTS.is_file():
        pytest.skip(f"the traces are in {FACTS}, which is not there")
    shapes = [stage.output_shape for stage in assemble(find(architecture, variant, options)).stages]
    known = json.loads(FACTS.read_text())["seed"][fact]
    trace = [tuple(shape[1:]) for _, shape in known["shape_trace"]]
    if () in trace:  # a long one is cut in its middle; what each resolution ends with is there in full
        trace = [*map(tuple, known["spatial_stages_hwc_last"]), trace[-1]]
        shapes = [list(of_one_size)[-1] for _, of_one_size in itertools.groupby(shapes, key=lambda shape: shape[:2])]
    # The traces name a shape once while it stays.
    stages = [shape for shape, _ in itertools.groupby(shapes)]
    assert stages[-1] == trace[-1]
    _assert_in_order(stages, trace)


def _assert_in_order(stages: Sequence[_SHAPE], trace: Sequence[_SHAPE]) -> None:
    """Every stage's shape comes in the trace, in the same order."""
    left = iter(trace)
    for shape in stages:
        assert any(shape == traced for traced in left), f"{shape} comes nowhere further on in {trace}"


@pytest.mark.parametrize("counted", [param for param in COUNTED if not param.marks])
def test_networks_take_other_classes_and_sizes(counted: Counted) -> None:
    height, width, channels = (side + 8 for side in counted.input_shape)
    shape = (height, width, channels - 8)
    model = models.build(
        counted.architecture, variant=counted.variant, **{**counted.options, "classes": 7, "input_shape": shape}
    )
    assert model.input_shape == (None, *shape)
    assert model.output_shape == (None, 7)


def test_se_resnet20_is_described_as_a_stem_three_groups_and_a_classifier() -> None:
    stages = assemble(find("se_resnet20")).stages
    assert [(s.name, s.block, s.repeats, s.output_shape) for s in stages] == [
        ("stem", "conv3x3", 1, (32, 32, 16)),
        ("group1", "se_basic", 3, (32, 32, 16)),
        ("group2", "se_basic", 3, (16, 16, 32)),
        ("group3", "se_basic", 3, (8, 8, 64)),
        ("classifier", "global_average_pooling+dense", 1, (10,)),
    ]


def test_multiply_adds_are_those_counted_by_hand() -> None:
    stages = {stage.name: stage.multiply_adds for stage in assemble(find("resnet20")).stages}
    # 3x3 kernels at every position; the projections are 1x1.
    assert stages == {
        "stem": 32 * 32 * 9 * 3 * 16,
        "group1": 6 * 32 * 32 * 9 * 16 * 16,
        "group2": 16 * 16 * (9 * 16 * 32 + 5 * 9 * 32 * 32 + 16 * 32),
        "group3": 8 * 8 * (9 * 32 * 64 + 5 * 9 * 64 * 64 + 32 * 64),
        "classifier": 64 * 10,
    }


def test_a_row_whose_groups_disagree_is_refused() -> None:
    with pytest.raises(ValueError, match=r"same groups. Received: depths=\(1, 2\), widths=\(16,\)"):
        ResNet(name="odd", variant="x", paper="", input_shape=(32, 32, 3), classes=10, depths=(1, 2), widths=(16,))


def test_an_unknown_name_is_answered_with_near_ones() -> None:
    with pytest.raises(UnknownArchitectureError, match=r"Did you mean .*se_resnet20"):
        models.build("se_resnet2")


def _arrays(outputs: Any) -> list[Any]:
    return [keras.ops.convert_to_numpy(value) for value in (outputs if isinstance(outputs, list) else [outputs])]


def test_an_unknown_variant_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownArchitectureError, match=r"no variant 'imagenet'.*Available: cifar, cifar_wide\."):
        models.build("se_resnet20", variant="imagenet")


def test_an_unknown_option_is_answered_with_near_ones() -> None:
    with pytest.raises(
        UnknownArchitectureError, match=r"mobilenet \(keras\) has no option 'alhpa'. Did you mean alpha"
    ):
        models.build("mobilenet", variant="keras", alhpa=0.5)


@pytest.mark.parametrize(
    ("architecture", "option", "value", "wanted"),
    [
        ("mobilenet", "alpha", "x", "a number"),
        ("mobilenet", "alpha", "0.5", "a number"),
        ("mobilenet", "alpha", True, "a number"),
        ("mobilenet", "alpha", [1], "a number"),
        ("mobilenet", "alpha", float("inf"), "a number"),
        ("mobilenet", "rho", None, "a number"),
        ("mobilenet_v2", "alpha", "1", "a number"),
        ("vgg16", "dropout", "half", "a number"),
        ("resnet20", "batch_norm", "yes", "true or false"),
        ("resnet20", "batch_norm", 1, "true or false"),
        ("inception_v3", "auxiliary", None, "true or false"),
        ("resnet20", "se_ratio", 0, "a whole number from 1 on, or null"),
        ("resnet20", "se_ratio", 1.5, "a whole number from 1 on, or null"),
        ("densenet121", "growth", 0, "a whole number from 1 on"),
        ("xception", "middle", True, "a whole number from 1 on"),
        ("densenet121", "depths", 6, "a list of whole numbers from 1 on"),
        ("basic_cnn", "hidden", [], "a list of whole numbers from 1 on"),
        ("mnist_dnn", "hidden", [512, 0], "a list of whole numbers from 1 on"),
    ],
)
def test_an_option_of_another_type_is_answered_with_what_it_must_be(
    architecture: str, option: str, value: Any, wanted: str
) -> None:
    expected = f"{architecture}: {option} must be {wanted}. Received: {value!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        find(architecture, options={option: value})


@pytest.mark.parametrize(
    ("architecture", "options", "message"),
    [
        ("mobilenet", {"dropout": 1}, "mobilenet: dropout must be at least 0 and less than 1. Received: 1"),
        ("densenet121", {"compression": 1.5}, "compression must be above 0 and at most 1. Received: 1.5"),
        ("resnext50", {"cardinality": 48}, "cardinality must divide the channels of every 3x3 convolution, [128, 256"),
        ("resnet18", {"cardinality": 2}, "resnet18 has no bottlenecks to split into groups. Leave cardinality=1."),
        ("resnet18", {"depths": [2, 2]}, "depths and widths must name the same groups"),
    ],
)
def test_an_option_out_of_its_range_is_refused(architecture: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        find(architecture, options=options)


@pytest.mark.parametrize(
    ("architecture", "options", "shape", "message"),
    [
        ("densenet121", {"growth": 60_000}, None, "densenet121 would have more than 1,073,741,824 weights: "),
        ("resnet50", {"widths": [65_536] * 4}, None, "resnet50 would have more than 1,073,741,824 weights: "),
        ("basic_cnn", {}, (60_000, 60_000, 1), "basic_cnn would have more than 1,073,741,824 weights: "),
        ("squeezenet1_1", {}, (100_000, 100_000, 3), "multiply-adds for one image, and at most 10,000,000,000,000 are"),
    ],
)
def test_what_together_makes_a_giant_is_refused_before_its_memory_is_taken(
    architecture: str, options: dict[str, Any], shape: tuple[int, ...] | None, message: str
) -> None:
    """Each of the options and sizes is in bounds by itself; the memory of the weights would end the test."""
    with pytest.raises(GiantNetworkError, match=re.escape(message)):
        assemble(find(architecture, options=options), input_shape=shape)
    assert assemble(find("mnist_dnn")).model.count_params() == 669_706


def test_what_another_thread_builds_meanwhile_does_not_count() -> None:
    """A server loads models side by side, and the limit of a bundle is twice the size of its weights file."""
    with network_limits.parameters_of("small", 100):
        beside = threading.Thread(target=keras.layers.Dense(100).build, args=((None, 100),))
        beside.start()
        beside.join()
        small = keras.layers.Dense(9)
        small.build((None, 10))
        with pytest.raises(GiantNetworkError, match="more than 100 weights: 109 with its layer one_more"):
            keras.layers.Dense(1, name="one_more").build((None, 10))
    assert small.count_params() == 99
    keras.layers.Dense(100).build((None, 100))


def test_every_option_may_be_given_as_it_is_by_itself() -> None:
    for row in rows():
        assert find(row.name, row.variant, {name: getattr(row, name) for name in row.OPTIONS}) == row


@pytest.mark.parametrize("classes", [0, -1])
def test_a_model_needs_a_class(classes: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1. Received: {classes}"):
        models.build("se_resnet20", classes=classes)


@pytest.mark.parametrize("shape", [(0, 32, 3), (32, 32)])
def test_a_model_needs_three_positive_sizes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="three positive sizes"):
        models.build("se_resnet20", input_shape=shape)
