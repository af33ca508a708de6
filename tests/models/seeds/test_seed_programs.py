"""The seeds' own networks, cut out of the seeds and run, answer as the library's rows do with what they have saved."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from glimpse.models import weights
from glimpse.models.builder import assemble, trainable_parameters
from glimpse.models.catalogue import find
from tests.models.seeds import cut
from tests.models.seeds.programs import FOLDER, PROGRAMS, Program
from tests.models.seeds.snippets import SNIPPETS, Snippet

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),  # a program with a thousand layers is built, and saved in three formats
    pytest.mark.skipif(not FOLDER.is_dir(), reason="the seeds are not at ../shared/seeds"),
    # Keras warns of input_shape in a layer, and that .h5 is its older format.
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
_RATIO = 16  # of the SE block in the book's words


class SqueezeExcitation(keras.layers.Layer):
    """The SE block as the book describes it: an average of each map, two dense layers, and a product."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        channels = int(shape[-1] or 0)
        self.average = keras.layers.GlobalAveragePooling2D(keepdims=True)
        self.hidden = keras.layers.Dense(channels // _RATIO, activation="relu")
        self.out = keras.layers.Dense(channels, activation="sigmoid")
        self.hidden.build((None, 1, 1, channels))
        self.out.build((None, 1, 1, channels // _RATIO))

    def call(self, inputs: Any) -> Any:
        return inputs * self.out(self.hidden(self.average(inputs)))


def _program(program: Program, size: tuple[int, int] | None) -> keras.Model:
    text = cut.source(program.file, program.lines, program.repairs)
    if size is not None:
        assert program.size in text
        text = text.replace(program.size, f"{size[0]}, {size[1]}")
    keras.utils.clear_session()
    model = cut.run(text, SqueezeExcitation=SqueezeExcitation)["model"]
    assert isinstance(model, keras.Model)
    return model


def _save(model: keras.Model, suffix: str, folder: Path) -> Path:
    path = folder / f"program{suffix}"
    (model.save_weights if suffix == ".weights.h5" else model.save)(path)
    return path


def _answers(model: keras.Model, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(keras.ops.convert_to_numpy(model(pixels, training=False)))


def check(theirs: NDArray[np.float32], ours: NDArray[np.float32]) -> None:
    """Fail where they differ, or where the answers would not tell."""
    assert np.isfinite(theirs).all()
    scale = float(np.std(theirs))
    assert np.abs(theirs[0] - theirs[1]).max() > 1e-3 * scale, "it tells the pictures apart"
    assert np.abs(theirs - ours).max() < 1e-5 * max(scale, float(np.abs(theirs).max()))


@pytest.mark.parametrize("odd", [False, True], ids=["its size", "odd size"])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_a_program_and_its_row_give_equal_logits(
    program: Program,
    odd: bool,  # noqa: FBT001
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the program's size by its ``.keras`` file; at a size where padding shows in every format that it can save."""
    with cut.recorded(monkeypatch) as made:
        model = _program(program, program.odd if odd else None)
    in_order = cut.of(model, made)
    cut.randomise(in_order)
    row = find(*program.row, program.options)
    shape = tuple(side for side in model.input_shape[1:] if side)
    shape = shape if len(shape) == 3 else (*shape, 1)
    pixels = np.random.default_rng(1).normal(0, 1, (2, *shape)).astype(np.float32)
    paths = [_save(model, suffix, tmp_path) for suffix in (program.formats if odd else program.formats[:1])]
    expected = _answers(cut.without_softmax(model), pixels if len(model.input_shape) == 4 else pixels[..., 0])
    counts = model.count_params(), trainable_parameters(model)

    with cut.recorded(monkeypatch) as made:
        ours = assemble(row, classes=program.classes, input_shape=shape).model
    assert (ours.count_params(), trainable_parameters(ours)) == counts
    if not paths:
        for variable, value in zip(cut.of(ours, made), in_order, strict=True):
            variable.assign(value)
        check(expected, _answers(ours, pixels))
    for path in paths:
        for variable in ours.weights:
            variable.assign(np.zeros(tuple(variable.shape), np.float32))
        assert weights.load(ours, path, row.layouts(), row=row) != "glimpse"
        check(expected, _answers(ours, pixels))
        path.unlink()


@pytest.mark.parametrize("odd", [False, True], ids=["its size", "odd size"])
@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: snippet.name)
def test_a_snippet_and_its_block_give_equal_maps(
    snippet: Snippet,
    odd: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the weights of one copied to the other in the order of their creation."""
    keras.utils.clear_session()
    image = keras.Input(snippet.odd if odd else snippet.shape)
    with cut.recorded(monkeypatch) as made:
        text = cut.source(snippet.file, snippet.lines, snippet.repairs)
        names = {"x": image, **dict.fromkeys(snippet.inputs, image)}
        variables = cut.run(f"{text}\nx = {snippet.call or 'x'}", **names)
        theirs = keras.Model(image, variables["x"])
    in_order = cut.of(theirs, made)
    with cut.recorded(monkeypatch) as made:
        ours = keras.Model(image, snippet.ours(image))
    assert (ours.count_params(), trainable_parameters(ours)) == (theirs.count_params(), trainable_parameters(theirs))
    cut.randomise(in_order)
    for variable, value in zip(cut.of(ours, made), in_order, strict=True):
        variable.assign(value)
    pixels = np.random.default_rng(1).normal(0, 1, (2, *image.shape[1:])).astype(np.float32)
    check(_answers(theirs, pixels), _answers(ours, pixels))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_a_program_and_its_row_draw_kernels_alike(program: Program) -> None:
    """By the mean square of all kernels together, and of the largest, which the initialiser and the shapes decide."""
    model = _program(program, (64, 64))
    row = find(*program.row, program.options)
    shape = tuple(side for side in model.input_shape[1:] if side)
    ours = assemble(row, classes=program.classes, input_shape=shape if len(shape) == 3 else (*shape, 1)).model
    for of in (sum, max):
        theirs_, ours_ = of(_squares(model)), of(_squares(ours))
        assert math.isclose(theirs_, ours_, rel_tol=0.05), f"{theirs_} and {ours_}"


def _squares(model: keras.Model) -> list[float]:
    """The sum of the squares of each kernel."""
    kernels = [variable for variable in model.weights if variable.path.endswith("kernel")]
    return [float(np.square(keras.ops.convert_to_numpy(kernel), dtype=np.float64).sum()) for kernel in kernels]
