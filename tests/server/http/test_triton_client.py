"""Triton's own HTTP client, as it is, against both names of a model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.server.http.asking import MODEL
from tests.server.rig import SIZE

triton = pytest.importorskip(
    "tritonclient.http", reason="tritonclient[http] is not installed; `make test` installs it", exc_type=ImportError
)


@pytest.fixture(scope="module")
def client(http_port: int) -> Iterator[Any]:
    """A client of the shared server, whose network is a real one."""
    with triton.InferenceServerClient(f"127.0.0.1:{http_port}") as made:
        yield made


def photo_input(path: Path) -> Any:
    made = triton.InferInput("image", [1, 1], "BYTES")
    made.set_data_from_numpy(np.array([[path.read_bytes()]], dtype=object))
    return made


def test_the_client_learns_that_the_server_and_the_model_are_ready(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.get_server_metadata()["name"] == "glimpse"
    assert client.get_model_metadata(MODEL)["inputs"][0]["datatype"] == "BYTES"


def test_the_client_learns_how_the_model_is_configured(client: Any) -> None:
    """As numbers and names, as Triton's own examples and `perf_analyzer` read them."""
    photo, pixels = client.get_model_config(MODEL), client.get_model_config(f"{MODEL}.pixels")
    assert photo["max_batch_size"] == pixels["max_batch_size"] > 1
    (tensor,) = photo["input"]
    assert (tensor["name"], tensor["data_type"], tensor["dims"]) == ("image", "TYPE_STRING", [1])
    (tensor,) = pixels["input"]
    assert (tensor["data_type"], tensor["format"], tensor["dims"]) == ("TYPE_UINT8", "FORMAT_NHWC", [SIZE, SIZE, 3])
    assert pixels["output"][0]["data_type"] == "TYPE_FP32"


def test_the_client_is_told_what_the_model_has_done(client: Any, cat_photo: Path) -> None:
    (before,) = client.get_inference_statistics(MODEL)["model_stats"]
    client.infer(MODEL, [photo_input(cat_photo)])
    (after,) = client.get_inference_statistics(MODEL, before["version"])["model_stats"]
    assert after["inference_count"] > before["inference_count"]
    assert [each["name"] for each in client.get_inference_statistics()["model_stats"]] == [MODEL]
    assert after["inference_stats"]["compute_infer"]["ns"] > before["inference_stats"]["compute_infer"]["ns"]


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_the_client_gets_probabilities_and_labels_of_a_photo(client: Any, cat_photo: Path, binary: bool) -> None:  # noqa: FBT001 - a variation
    whole = triton.InferRequestedOutput("probabilities", binary_data=binary)
    probabilities = client.infer(MODEL, [photo_input(cat_photo)], outputs=[whole]).as_numpy("probabilities")
    assert probabilities.shape == (1, 10)
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)
    best = triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=1)
    answer = client.infer(MODEL, [photo_input(cat_photo)], outputs=[best], request_id="mine", timeout=60_000_000)
    ((text,),) = answer.as_numpy("probabilities")
    text = text.decode() if isinstance(text, bytes) else text
    assert text == f"{probabilities.max():.6f}:3:cat"
    assert answer.get_response()["id"] == "mine"


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_the_client_sends_pixels(client: Any, binary: bool) -> None:  # noqa: FBT001 - a variation
    pixels = np.full((2, SIZE, SIZE, 3), 128, np.uint8)
    given = triton.InferInput("pixels", list(pixels.shape), "UINT8")
    given.set_data_from_numpy(pixels, binary_data=binary)
    assert client.infer(f"{MODEL}.pixels", [given]).as_numpy("probabilities").shape == (2, 10)


def test_the_client_is_told_what_is_wrong(client: Any, cat_photo: Path) -> None:
    with pytest.raises(triton.InferenceServerException, match="No model 'none'"):
        client.infer("none", [photo_input(cat_photo)])
