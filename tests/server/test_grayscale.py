"""Networks that see one channel on a real server: exactly as described, whatever form an image has."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import grpc
import keras
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from glimpse.client import Client
from glimpse.client.commands.render import facts
from glimpse.client.load import images
from glimpse.models import weights
from glimpse.models.builder import assemble
from glimpse.models.catalogue import find
from glimpse.models.decoding.limits import ImageLimits
from glimpse.models.prestem import host
from glimpse.models.prestem.recipe import Padding, Recipe
from glimpse.models.serving import serving_model
from glimpse.server import domain
from glimpse.server.decoding.prepare import prepare
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.conftest import RunningServer
from tests.server.conftest import TIMEOUT

# Keras hands TensorFlow's variables to NumPy, whose `__array__` is older than NumPy 2's `copy`; not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

# The handbook's own numbers of parameters: with three channels they would be 1,472,522 and 8,402,906.
PARAMETERS = {"mnist_dnn": 669_706, "basic_cnn": 8_402_618}
MEAN, STD = 33.3, 78.6


class Grey:
    """A server of a network with random weights, and the network itself."""

    def __init__(self, name: str, padding: Padding, folder: Path, start: Callable[..., RunningServer]) -> None:
        keras.utils.set_random_seed(0)
        assembly = assemble(find(name))
        height, width, _ = assembly.model.input_shape[1:]
        self.recipe = Recipe(
            height=height, width=width, channels="GRAY", mean=(MEAN,), std=(STD,), geometry="pad", padding=padding
        )
        weights.save(assembly.model, folder / "weights.safetensors")
        self.classes = assembly.model.output_shape[-1]
        (folder / "labels.txt").write_text("".join(f"class {number}\n" for number in range(self.classes)))
        text = "".join(f"{field} = {json.dumps(value)}\n" for field, value in self.recipe.to_dict().items())
        (folder / "recipe.toml").write_text(text)
        self.network = serving_model(assembly, self.recipe, 1.0)
        environment = {"GLIMPSE_MODEL": name, "GLIMPSE_WEIGHTS": str(folder / "weights.safetensors")}
        environment["GLIMPSE_PRECISION"] = "float32"  # in which Keras computes, too
        self.server = start(environment=environment)
        self.server.wait_for("serving")

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        return host.fit(image, self.recipe)[np.newaxis]

    def expected(self, image: Image.Image) -> NDArray[np.float32]:
        """The probabilities of an image, computed by Keras here."""
        found: NDArray[np.float32] = self.network.predict(self.pixels(image), verbose=0)[0]
        return found


@pytest.fixture(params=[("mnist_dnn", "zero"), pytest.param(("basic_cnn", "fill"), marks=pytest.mark.slow)], ids=str)
def grey(request: pytest.FixtureRequest, tmp_path: Path, start_server: Callable[..., RunningServer]) -> Grey:
    name, padding = request.param
    return Grey(name, padding, tmp_path, start_server)


def noise(*shape: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(5).integers(0, 256, shape, np.uint8))


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.mark.ci
def test_a_network_of_one_channel_is_served_as_described(grey: Grey) -> None:
    """Its parameters are the handbook's, and its answers Keras', for colour and grey, for files and raw pixels."""
    colour = noise(300, 300, 3)
    luma = colour.convert("L")
    ready = Image.fromarray(grey.pixels(colour)[0, ..., 0])
    with Client(grey.server.target) as client:
        description = client.describe()
        assert description.parameters == PARAMETERS[description.architecture]
        assert (description.input.channels, description.pre_stem.channels) == (1, "GRAY")
        assert (description.pre_stem.mean, description.pre_stem.std) == ((MEAN,), (STD,))
        assert description.pre_stem.padding == grey.recipe.padding
        assert facts(description)["input"].endswith("x 1")
        # Smaller than the input, so that it is padded.
        result = client.classify(noise(12, 10), top_k=grey.classes).raise_for_error()
        found = [each.probability for each in sorted(result.predictions, key=lambda each: each.index)]
        np.testing.assert_allclose(found, grey.expected(noise(12, 10)), atol=1e-5)
        for image in (
            *(png(colour), png(luma), colour, luma, np.asarray(colour), np.asarray(luma)),
            *(np.asarray(luma)[..., np.newaxis], np.asarray(ready), np.asarray(ready.convert("RGB"))),
        ):
            result = client.classify(image, top_k=grey.classes).raise_for_error()
            found = [each.probability for each in sorted(result.predictions, key=lambda each: each.index)]
            np.testing.assert_allclose(found, grey.expected(colour), atol=1e-5)
        assert np.ptp(grey.expected(colour)) > 1e-3, "it says nothing"
    with grpc.insecure_channel(grey.server.target) as channel:
        stub = ImageClassifierStub(channel)
        made = images.made(description.input.height, description.input.width, 0, description.input.channels)
        assert len(made.good[0].raw.data) == description.input.height * description.input.width
        good, bad = stub.Classify(pb.ClassifyRequest(images=[made.good[0], made.broken[0]]), timeout=TIMEOUT).results
        assert good.predictions
        assert bad.error.reason == "RAW_PIXELS_MISMATCH"


@pytest.mark.parametrize("padding", get_args(Padding))
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_pixels_of_the_inputs_size_are_prepared_as_a_file_is(padding: Padding, mode: str) -> None:
    """With and without a short way, and with the mask of a recipe that pads with zero."""
    recipe = Recipe(height=24, width=20, channels="GRAY", padding=padding)
    image = noise(24, 20, 3).convert(mode)
    limits = ImageLimits(max_bytes=1 << 20, max_pixels=1 << 20)
    raw = domain.RawImage(24, 20, image.tobytes(), len(image.getbands()))
    found = prepare(raw, recipe, limits).pixels
    assert found.shape == recipe.pixels_shape
    np.testing.assert_array_equal(found, prepare(domain.EncodedImage(png(image)), recipe, limits).pixels)


def grey_raw(height: int, width: int, data: bytes, channels: int = 1) -> pb.Image:
    return pb.Image(raw=pb.RawPixels(height=height, width=width, data=data, channels=channels))


@pytest.mark.parametrize("size", [(32, 32), (50, 40)], ids=["as large as the input", "larger"])
def test_grey_pixels_for_a_network_in_colour_are_three_equal_ones(
    stub: ImageClassifierStub, size: tuple[int, int]
) -> None:
    luma = noise(*size)
    forms = [
        grey_raw(*size, luma.tobytes()),
        grey_raw(*size, luma.convert("RGB").tobytes(), channels=3),
        grey_raw(*size, luma.convert("RGB").tobytes(), channels=0),
        pb.Image(encoded=png(luma)),
    ]
    results = stub.Classify(pb.ClassifyRequest(images=forms), timeout=TIMEOUT).results
    first = [each.probability for each in results[0].predictions]
    for result in results:
        np.testing.assert_allclose([each.probability for each in result.predictions], first, atol=1e-5)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (grey_raw(4, 4, bytes(48)), "need height x width x 1 bytes"),
        (grey_raw(4, 4, bytes(16), channels=0), "Set channels to 1 if they are grey"),
        (grey_raw(4, 4, bytes(64), channels=4), "3 channels, red, green and blue, or 1, grey. Received: 4"),
        (grey_raw(4, 4, b"", channels=2**32 - 1), "Received: 4294967295 channels"),
    ],
)
def test_raw_pixels_of_other_channels_are_refused_with_the_cause(
    stub: ImageClassifierStub, image: pb.Image, said: str
) -> None:
    (result,) = stub.Classify(pb.ClassifyRequest(images=[image]), timeout=TIMEOUT).results
    assert result.error.reason == "RAW_PIXELS_MISMATCH"
    assert said in result.error.message
