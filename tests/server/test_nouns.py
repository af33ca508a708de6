"""What people read has one image and two images."""

from __future__ import annotations

import pytest

from glimpse.server.admission import Permits, _told
from glimpse.server.errors import InvalidRequestError
from glimpse.server.nouns import noun
from glimpse.server.open_inference import tensors
from glimpse.server.open_inference.messages import InputTensor


@pytest.mark.parametrize(
    ("number", "told"), [(0, "0 images"), (1, "1 image"), (2, "2 images"), (1.0, "1.0 image"), (0.5, "0.5 images")]
)
def test_a_noun_has_the_form_of_its_number(number: float, told: str) -> None:
    assert f"{number} {noun(number, 'image')}" == told


def test_a_form_of_its_own_may_be_given() -> None:
    assert [noun(number, "batch is", "batches are") for number in (1, 2)] == ["batch is", "batches are"]


@pytest.mark.parametrize(
    ("raw", "elements", "message"),
    [
        (b"\x01\x00\x00\x00a\x00", (), "must have 1 element. .* Received: 6 bytes, with 1 whole element in them."),
        (b"a", (), "Received: 1 byte, with 0 whole elements"),
        (None, (b"a", b"b"), "must have 1 element. Received: 2"),
    ],
)
def test_a_tensor_of_one_photo_has_one_element(raw: bytes | None, elements: tuple[bytes, ...], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        tensors.photos(InputTensor("image", "BYTES", (1,), raw, elements), 1)


def test_one_image_in_flight_is_told_as_one() -> None:
    assert _told(Permits(1, 1, 2)) == "1 image, 1 byte and 2 pixels of decoding"
