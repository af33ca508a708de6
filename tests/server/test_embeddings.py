"""Embeddings and logits with the answer: the numbers of the network's own layers, over every protocol."""

from __future__ import annotations

import io
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path

import grpc
import keras
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from glimpse.client import Client, InvalidRequestError
from glimpse.models import features, sources
from glimpse.models.outputs import EMBEDDING, LOGITS, PROBABILITIES
from glimpse.models.prestem import graph
from glimpse.models.serving import load_bundle, serving_outputs
from glimpse.server.runtime.openvino import OpenVINORuntime
from glimpse.server.runtime.openvino_graphs import convert
from glimpse.server.runtime.tensorflow import TensorFlowRuntime, with_values
from tests.conftest import RunningServer
from tests.server.open_inference.caller import OpenInferenceCaller, numbers, photos
from tests.variations import with_two_workers_too

EVERY = frozenset({PROBABILITIES, LOGITS, EMBEDDING})
CIFAR10 = 112  # numbers of its embedding


def pieces(side: int) -> NDArray[np.uint8]:
    """Pieces of four photographs, ``[4, side, side, 3]``."""
    photos = (data.chelsea(), data.coffee(), data.astronaut(), data.rocket())
    return np.stack([photo[60 : 60 + side, 100 : 100 + side] for photo in photos])


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="both runtimes build on TensorFlow")
@pytest.mark.parametrize("weights", ["cifar10", pytest.param("imagenet", marks=pytest.mark.ci)])
def test_the_embedding_is_what_the_keras_layer_gives(weights: str, tmp_path: Path) -> None:
    bundle = sources.resolve(sources.ModelSource(weights=weights))
    assembly = load_bundle(bundle)
    pixels = pieces(bundle.input_shape[0])
    pooling = keras.Model(assembly.model.inputs, assembly.model.get_layer("classifier_pool").output)
    expected = np.asarray(pooling(graph.scale(keras.ops.convert_to_tensor(pixels), bundle.recipe), training=False))
    assert assembly.summary.embedding == expected.shape[1]
    model = serving_outputs(assembly, bundle.recipe, bundle.temperature)
    for runtime in (
        OpenVINORuntime(convert(with_values(model), tmp_path), "float32"),
        TensorFlowRuntime(model, "float32"),
    ):
        found = runtime(pixels, EVERY)
        np.testing.assert_allclose(found[EMBEDDING], expected, rtol=0, atol=1e-5)
        # The last layer makes the logits of it.
        kernel, bias = assembly.model.get_layer("classifier_logits").get_weights()
        np.testing.assert_allclose(found[LOGITS], expected @ kernel + bias, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("side", "size"), [(64, 8 * 64 * 64), (65, 0)])
def test_a_flattened_map_of_many_numbers_is_no_embedding(side: int, size: int) -> None:
    """Each image in flight has room for one, and so has each reply."""
    pixels = keras.Input((side, side, 3))
    flat = keras.layers.Flatten()(keras.layers.Conv2D(8, 1)(pixels))
    assert features.size(keras.Model(pixels, keras.layers.Dense(2)(flat))) == size


def test_the_embedding_of_channels_that_come_first_is_of_the_channels() -> None:
    """A network that takes them last may turn its maps; of a square map, its shape would not tell."""
    pixels = keras.Input((3, 3, 3))
    turned = keras.layers.Permute((3, 1, 2))(pixels)
    classes = keras.layers.Conv2D(5, 1, data_format="channels_first")(turned)
    network = keras.Model(pixels, keras.layers.GlobalAveragePooling2D(data_format="channels_first")(classes))
    found = features.embedding(network)
    assert found is not None
    assert features.size(network) == 3
    values = np.random.default_rng(0).random((2, 3, 3, 3), np.float32)
    embedding = keras.Model(pixels, found)  # no CPU of TensorFlow's computes such a convolution
    np.testing.assert_allclose(embedding(values), values.mean(axis=(1, 2)), atol=1e-6)


@with_two_workers_too
def test_a_client_gets_the_outputs_that_it_asks_for(
    start_server: Callable[..., RunningServer], cat_photo: Path
) -> None:
    """Whole and halved, in a call and on a stream; and who asks for nothing gets the predictions alone."""
    server = start_server("--precision=float32")
    server.wait_for("serving")
    with Client(server.target) as client:
        assert {each.name: each.size for each in client.describe().outputs} == {
            PROBABILITIES: 10,
            LOGITS: 10,
            EMBEDDING: CIFAR10,
        }
        plain = client.classify(cat_photo)
        assert (plain.logits, plain.embedding, plain.probability_outside) == (None, None, None)
        found = client.classify(cat_photo, outputs=["embedding", "logits"], top_k=10)
        assert found.embedding is not None
        assert found.logits is not None
        assert (len(found.embedding), len(found.logits)) == (CIFAR10, 10)
        order = np.argsort(-np.asarray(found.logits), kind="stable")
        assert [each.index for each in found.predictions] == order.tolist()
        halved = client.classify(cat_photo, outputs=["embedding"], embedding_type="float16")
        assert halved.logits is None
        np.testing.assert_allclose(np.asarray(halved.embedding), np.asarray(found.embedding), rtol=2e-3, atol=1e-6)
        streamed = dict(client.classify_many(((name, cat_photo) for name in "abc"), outputs=["embedding"]))
        assert set(streamed) == set("abc")
        for each in streamed.values():
            np.testing.assert_allclose(np.asarray(each.embedding), np.asarray(found.embedding), atol=1e-5)
        assert [each.label for each in plain.predictions] == [each.label for each in found.predictions[:5]]


def test_an_unknown_output_is_refused_with_those_there_are(server: RunningServer, cat_photo: Path) -> None:
    with (
        Client(server.target) as client,
        pytest.raises(InvalidRequestError, match=r"embedding, logits, probabilities\. Received: 'features'") as refused,
    ):
        client.classify(cat_photo, outputs=["features"])
    assert (refused.value.reason, refused.value.field) == ("UNKNOWN_OUTPUT", "options.outputs")


def test_every_protocol_gives_the_same_embedding(server: RunningServer, cat_photo: Path) -> None:
    with Client(server.target) as client:
        expected = client.classify(cat_photo, outputs=["embedding"]).embedding
    assert expected is not None
    photo = cat_photo.read_bytes()
    by_query = urllib.request.Request(f"http://{server.http}/classify?outputs=embedding,logits", photo)
    with urllib.request.urlopen(by_query) as response:  # noqa: S310 - our own server
        (told,) = json.load(response)["results"]
    assert len(told["logits"]) == 10
    np.testing.assert_allclose(told["embedding"], np.asarray(expected), atol=1e-4)
    with grpc.insecure_channel(server.target) as channel:
        request = photos(photo)
        request.outputs.add(name=EMBEDDING)
        answer = OpenInferenceCaller(channel).infer(request)
        np.testing.assert_allclose(numbers(answer), np.asarray(expected)[np.newaxis], atol=1e-4)
        request.outputs[0].parameters["classification"].int64_param = 3
        with pytest.raises(grpc.RpcError, match="embedding has no classes"):
            OpenInferenceCaller(channel).infer(request)


def test_a_photo_and_its_small_jpeg_have_nearly_the_same_embedding(default_server: RunningServer) -> None:
    """Of the default model; other photographs are farther away."""
    found = []
    with Client(default_server.target) as client:
        for name, quality in (("chelsea", 95), ("chelsea", 75), ("coffee", 95)):
            file = io.BytesIO()
            Image.fromarray(getattr(data, name)()).save(file, "JPEG", quality=quality)
            vector = np.asarray(client.classify(file.getvalue(), outputs=["embedding"]).embedding)
            found.append(vector / np.linalg.norm(vector))
    assert found[0] @ found[1] > 0.98
    assert found[0] @ found[2] < 0.8
