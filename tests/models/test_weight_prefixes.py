"""State dicts whose names have something in front, or that lie deeper in their file: stripped, taken, and said."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from glimpse.models import weights
from glimpse.models.builder import Assembly, assemble
from glimpse.models.catalogue import find
from glimpse.models.weights import WeightsMismatchError
from glimpse.models.weights.files import contents
from tests.models.weight_makers import Call, Global, torch_saved
from tests.variations import mostly_in_ci

State = dict[str, NDArray[Any]]
ROW = find("squeezenet1_1")


@pytest.fixture(scope="module")
def network() -> Assembly:
    return assemble(ROW, classes=3, input_shape=(64, 64, 3))


@pytest.fixture(scope="module")
def state(network: Assembly) -> State:
    """As torchvision names and arranges it."""
    rng = np.random.default_rng(1)
    layout = ROW.layouts()["torchvision"]
    found: State = {}
    for layer in network.model.layers:
        for variable in layer.weights:
            value = rng.normal(size=variable.shape).astype(np.float32)
            kernel = variable.name == "kernel"
            name = layout.rename(layer.name) + (".weight" if kernel else ".bias")
            found[name] = np.ascontiguousarray(value.transpose(3, 2, 0, 1)) if kernel else value
    return found


def loaded(network: Assembly, path: Path) -> tuple[State, list[str]]:
    """What the network has then, and what was said."""
    said: list[str] = []
    for variable in network.model.weights:
        variable.assign(np.zeros(variable.shape, np.float32))
    weights.load(network.model, path, ROW.layouts(), row=ROW, say=said.append)
    return {variable.path: np.asarray(variable) for variable in network.model.weights}, said


def plain(network: Assembly, state: State, folder: Path) -> State:
    save_file(state, folder / "plain.safetensors")
    values, said = loaded(network, folder / "plain.safetensors")
    assert said == []
    return values


def same(found: State, expected: State) -> None:
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def under(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def other(state: State) -> State:
    """Another training's weights."""
    return {name: value + 1 for name, value in state.items()}


_AVERAGES = np.array(7, np.float32)
_PREFIXES: dict[str, tuple[Callable[[State], State], str]] = {
    "torch.compile": (lambda s: under("_orig_mod.", s), r"'_orig_mod\.' is taken off"),
    "several devices": (lambda s: under("module.", s), r"'module\.' is taken off"),
    "both": (lambda s: under("module._orig_mod.", s), r"'module\.' and '_orig_mod\.' is taken off"),
    "a framework's module": (lambda s: under("model.", s), r"begin with 'model\.', which is taken off"),
    "a name of one's own": (lambda s: under("net.backbone.", s), r"begin with 'net\.backbone\.'"),
    "a wrapper within a module": (lambda s: under("model.module.", s), r"begin with 'model\.'"),
    "parts on several devices": (
        lambda s: {name.replace("features.", "features.module."): value for name, value in s.items()},
        r"'module\.' is taken off",
    ),
    "AveragedModel": (lambda s: {"n_averaged": _AVERAGES, **under("module.", s)}, "the weights are averaged"),
    "beside the state of a loss": (
        lambda s: {**under("model.", s), "loss.weight": np.ones(3, np.float32)},
        r"1 are left: loss\.weight",
    ),
    "features under a name, the classifier without": (
        lambda s: {(f"body.{name}" if "features" in name else name): value for name, value in s.items()},
        r"begin with 'body\.'",
    ),
    "averaged beside last": (
        lambda s: {**under("model.", other(s)), **under("ema_model.", s)},
        r"begin with 'ema_model\.'",
    ),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(
    "way", mostly_in_ci(_PREFIXES, "torch.compile", "both", "parts on several devices", "averaged beside last")
)
def test_what_stands_in_front_of_all_names_is_taken_off_and_said(
    way: str, suffix: str, network: Assembly, state: State, tmp_path: Path
) -> None:
    change, message = _PREFIXES[way]
    expected, path = plain(network, state, tmp_path), tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        save_file(change(state), path)
    else:
        torch_saved(path, change(state))
    found, said = loaded(network, path)
    same(found, expected)
    assert any(re.search(message, note) for note in said), said


_DEEPER: dict[str, tuple[Callable[[State], Any], str]] = {
    "state_dict": (lambda s: {"state_dict": s, "epoch": 3}, "under 'state_dict'"),
    "state_dict_ema": (lambda s: {"state_dict_ema": s}, "under 'state_dict_ema'"),
    "net": (lambda s: {"net": s, "acc": 93}, "under 'net'"),
    "weights": (lambda s: {"weights": s}, "under 'weights'"),
    "two levels": (lambda s: {"checkpoint": {"model_state_dict": s}}, r"under 'checkpoint\.model_state_dict'"),
    "timm's": (
        lambda s: {
            "state_dict": other(s),
            "state_dict_ema": s,
            "optimizer": {"state": {0: {"exp_avg": np.ones((3, 3), np.float32)}}},
            "args": Call("argparse.Namespace", state={"lr": 0}),
        },
        "those of 'state_dict_ema', which are averaged, are taken, not 'state_dict'",
    ),
    "torchvision's": (
        lambda s: {"model": other(s), "model_ema": {"n_averaged": _AVERAGES, **under("module.", s)}},
        "those of 'model_ema', which are averaged, are taken, not 'model'",
    ),
    "an average of nothing": (
        lambda s: {"model": s, "model_ema": {"n_averaged": np.zeros((), np.float32), **under("module.", other(s))}},
        "those of 'model' are taken, not 'model_ema'",
    ),
    "Lightning's": (
        lambda s: {
            "state_dict": under("net._orig_mod.", s),
            "callbacks": {"best": {"score": np.array(0.5, np.float32)}},
            "hyper_parameters": Call("lightning.fabric.utilities.data.AttributeDict"),
        },
        "under 'state_dict'",
    ),
}


@pytest.mark.parametrize(("change", "message"), _DEEPER.values(), ids=_DEEPER.keys())
def test_a_checkpoint_s_state_dict_is_found_and_averaged_weights_are_preferred(
    change: Callable[[State], Any], message: str, network: Assembly, state: State, tmp_path: Path
) -> None:
    expected = plain(network, state, tmp_path)
    found, said = loaded(network, torch_saved(tmp_path / "w.pth", change(state)))
    same(found, expected)
    assert any(re.search(message, note) for note in said), said


def test_averaged_weights_of_another_network_leave_the_last_ones(
    network: Assembly, state: State, tmp_path: Path
) -> None:
    expected = plain(network, state, tmp_path)
    value = {"model": state, "ema": {"teacher.weight": np.ones((2, 2), np.float32)}}
    found, said = loaded(network, torch_saved(tmp_path / "w.pth", value))
    same(found, expected)
    assert "those of 'model' are taken, not 'ema'" in said[0]


def test_a_network_in_two_modules_loses_the_name_of_each(network: Assembly, state: State, tmp_path: Path) -> None:
    expected = plain(network, state, tmp_path)
    parts = {
        ("head." if name.startswith("classifier.") else "backbone.") + name: value for name, value in state.items()
    }
    save_file(parts, tmp_path / "parts.safetensors")
    found, said = loaded(network, tmp_path / "parts.safetensors")
    same(found, expected)
    (note,) = said
    assert note in {
        f"the names begin with {first!r} or {second!r}, which is taken off"
        for first, second in (("backbone.", "head."), ("head.", "backbone."))
    }


def test_names_that_fit_as_they_are_keep_what_stands_in_front(tmp_path: Path) -> None:
    image = keras.Input((2,))
    model = keras.Model(image, keras.layers.Dense(1, name="module.dense")(image))
    state = {"module.dense/kernel": np.ones((2, 1), np.float32), "module.dense/bias": np.ones(1, np.float32)}
    save_file(state, tmp_path / "w.safetensors")
    said: list[str] = []
    weights.load(model, tmp_path / "w.safetensors", say=said.append)
    assert said == []


def test_what_is_in_a_checkpoint_beside_tensors_is_neither_made_nor_run(tmp_path: Path) -> None:
    value = {
        "state_dict": {"w": np.ones((2, 2), np.float32)},
        "args": Call("argparse.Namespace", state={"out": Call("pathlib.PosixPath", ("a", "b"))}),
        "metric": Call("numpy._core.multiarray.scalar", (Call("numpy.dtype", ("f8", False, True), state=(3, "<")), "")),
        "dtype": Global("torch.float32"),
    }
    found = contents(torch_saved(tmp_path / "w.pth", value))
    assert list(found.tensors) == ["w"]
    assert found.place == "state_dict"


def test_names_that_fit_in_no_way_are_refused_in_few_words(network: Assembly, state: State, tmp_path: Path) -> None:
    renamed = {f"model.some_rather_long_name_of_a_layer.{number}": value for number, value in enumerate(state.values())}
    save_file(renamed, tmp_path / "w.safetensors")
    with pytest.raises(WeightsMismatchError) as error:
        loaded(network, tmp_path / "w.safetensors")
    message = str(error.value).removeprefix(str(tmp_path))
    assert len(message) < 500
    assert "missing: stem_conv/kernel" in message
    # The sizes of the kernels tell what it is, whatever they are called.
    assert "have the sizes of this network's" in message
