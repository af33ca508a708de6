"""Reference implementations at random weights, and the comparison of a network of ours with one of them.

A reference gets weights that a mistake would show in: batch-norm statistics of real activations, then disturbed, and a
last layer scaled so that one class stands out. Its publisher's own file format carries them to ours.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from glimpse.models import weights
from glimpse.models.builder import assemble
from glimpse.models.catalogue import find

Array = NDArray[np.float32]
_PROBABILITY = 1e-5  # largest difference of a probability
_STAGE = 2e-4  # of a stage's output, relative to its largest value
_PEAK = 6.0  # spread of the logits: one class takes a good part of the probability
# Mean of the normalisations' shifts. About 0, half of every ReLU's inputs are cut, and in a deep residual network
# rounding errors grow from unit to unit: timm's SENet-154 in float32 is then 2e-4 from itself in float64.
_SHIFT = 0.5


@dataclass(frozen=True, kw_only=True)
class Case:
    """A variant of ours and the network that it must equal."""

    architecture: str
    variant: str
    reference: str  # "torchvision:resnet50", "timm:legacy_senet154", "keras:ResNet50"
    stages: Mapping[str, str]  # our stage -> module or layer of the reference with the same output, in order
    options: Mapping[str, Any] = field(default_factory=dict)  # of ours
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of the reference

    def __str__(self) -> str:
        options = "".join(f"-{name}={value}" for name, value in self.options.items())
        return f"{self.architecture}-{self.variant}{options}"


def check(case: Case, folder: Path) -> None:
    """Fail with the first stage that differs, or with what the probabilities differ by."""
    row = find(case.architecture, case.variant, case.options)
    assembly = assemble(row)
    pixels = np.random.default_rng(1).standard_normal((1, *assembly.model.input_shape[1:]), np.float32)
    publisher, _, name = case.reference.partition(":")
    make = _keras_reference if publisher == "keras" else functools.partial(_torch_reference, publisher)
    path, theirs, their_logits = make(name, case, pixels, folder)

    layout = weights.load(assembly.model, path, row.layouts())
    assert layout != "glimpse", "Read with our own names: the case tells nothing."
    stages = keras.Model(assembly.model.inputs, [assembly.outputs[stage] for stage in case.stages])
    ours = [np.asarray(keras.ops.convert_to_numpy(value)) for value in stages([pixels], training=False)]
    for stage, mine in zip(case.stages, ours, strict=True):
        other = theirs[case.stages[stage]]
        assert mine.shape == other.shape, f"stage {stage}: {mine.shape} against {other.shape}"
        difference = np.abs(mine - other).max() / np.abs(other).max()
        assert difference < _STAGE, f"stage {stage} is the first that differs, by {difference:.1e} of its largest value"
    logits = assembly.model(pixels, training=False)
    logits = np.asarray(keras.ops.convert_to_numpy(logits[0] if isinstance(logits, list) else logits))
    expected = _softmax(their_logits)
    assert expected.max() > 0.05, f"The reference's softmax is flat: {expected.max()}"
    assert np.abs(_softmax(logits) - expected).max() < _PROBABILITY


def _softmax(logits: Array) -> Array:
    shifted = np.exp(logits.astype(np.float64) - logits.max())
    return (shifted / shifted.sum()).astype(np.float32)


def torch_publisher(name: str) -> Any:
    """torchvision or timm; their compiled operators are not needed and may be missing.

    Skips the test where PyTorch or the publisher's package is not installed.
    """
    torch = pytest.importorskip("torch", reason="parity needs PyTorch: see CONTRIBUTING.md")
    _declare_operators(torch)
    package = pytest.importorskip(name, reason=f"parity needs {name}: see CONTRIBUTING.md")
    return package.models if name == "torchvision" else package


@functools.cache
def _declare_operators(torch: Any) -> Any:
    # torchvision registers the gradients of operators that its compiled part declares; without one, we declare them.
    try:
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    except RuntimeError:
        return None
    return library


def _torch_reference(
    publisher: str, name: str, case: Case, pixels: Array, folder: Path
) -> tuple[Path, dict[str, Array], Array]:
    package = torch_publisher(publisher)
    import torch

    torch.manual_seed(0)
    create: Callable[..., Any] = (
        getattr(package, name) if publisher == "torchvision" else functools.partial(package.create_model, name)
    )
    model = create(**{**_UNTRAINED[publisher], **case.arguments})
    image = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
    disturb_torch(model, image)

    outputs: dict[str, Array] = {}

    def keep(module: str) -> Callable[..., None]:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            value = output.detach().numpy()
            # A copy: the next layer may be an activation that works in place.
            outputs[module] = (value.transpose(0, 2, 3, 1) if value.ndim == 4 else value).copy()

        return hook

    for module in case.stages.values():
        model.get_submodule(module).register_forward_hook(keep(module))
    with torch.inference_mode():
        logits = model(image).numpy()
    path = folder / ("reference.pth" if publisher == "torchvision" else "reference.safetensors")
    if publisher == "torchvision":
        torch.save(model.state_dict(), path)
    else:
        from safetensors.torch import save_file

        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    return path, outputs, logits


_UNTRAINED: dict[str, dict[str, Any]] = {"torchvision": {"weights": None}, "timm": {"pretrained": False}}


def disturb_torch(model: Any, image: Any) -> None:
    """Give `model` weights in which a mistake would show: see above."""
    import torch

    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0  # the moving statistics become this batch's
            norm.weight.uniform_(0.7, 1.3)
            norm.bias.normal_(_SHIFT, 0.2)
        model.train()
        model(torch.cat([image, image.flip(-1) * 0.7]))
        model.eval()
        for norm in norms:
            norm.running_mean += 0.1 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
            norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.8, 1.25)
        classifier = [
            module
            for module in model.modules()
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d) and module.weight.shape[0] == 1000
        ][-1]
        # Behind a last ReLU (SqueezeNet) a scale of the weights is one of the logits, too.
        scale = _PEAK / model(image).std()
        classifier.weight *= scale
        if classifier.bias is not None:
            classifier.bias *= scale


def _keras_reference(name: str, case: Case, pixels: Array, folder: Path) -> tuple[Path, dict[str, Array], Array]:
    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(weights=None, classifier_activation=None, **case.arguments)
    rng = np.random.default_rng(2)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for norm in norms:
        norm.momentum = 0.0  # the moving statistics become this batch's
        if norm.gamma is not None:
            norm.gamma.assign(rng.uniform(0.7, 1.3, norm.gamma.shape))
        norm.beta.assign(rng.normal(_SHIFT, 0.2, norm.beta.shape))
    model(np.concatenate([pixels, pixels[:, :, ::-1] * np.float32(0.7)]), training=True)
    for norm in norms:
        mean, variance = (keras.ops.convert_to_numpy(v) for v in (norm.moving_mean, norm.moving_variance))
        norm.moving_mean.assign(mean + 0.1 * np.sqrt(variance) * rng.standard_normal(mean.shape))
        norm.moving_variance.assign(variance * rng.uniform(0.8, 1.25, variance.shape))
    classifier = [layer for layer in model.layers if layer.weights][-1]
    scale = _PEAK / np.std(keras.ops.convert_to_numpy(model(pixels, training=False)))
    for variable in classifier.weights:
        variable.assign(keras.ops.convert_to_numpy(variable) * scale)

    taps = keras.Model(model.inputs, [model.get_layer(layer).output for layer in case.stages.values()])
    values = taps([pixels], training=False)
    outputs = {
        layer: np.asarray(keras.ops.convert_to_numpy(value))
        for layer, value in zip(case.stages.values(), values, strict=True)
    }
    logits = np.asarray(keras.ops.convert_to_numpy(model(pixels, training=False)))
    return _legacy_h5(model, folder / "reference.h5"), outputs, logits


def _legacy_h5(model: keras.Model, path: Path) -> Path:
    """The file that Keras 2 wrote and Keras Applications still publish."""
    import h5py
    from keras.src.legacy.saving import legacy_h5_format

    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)
    return path
