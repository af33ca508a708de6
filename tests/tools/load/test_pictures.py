"""The pictures of the loads, as the client sends them."""

from __future__ import annotations

import numpy as np
import pytest

from glimpse.client import image_input
from glimpse.v1 import classifier_pb2 as pb
from tools.load.pictures import source


@pytest.mark.parametrize("channels", [0, 1, 3])
def test_raw_pixels_come_out_of_the_client_as_they_went_in(channels: int) -> None:
    """Grey ones, too; 0 is what nothing said about the channels means."""
    data = np.random.default_rng(0).integers(0, 256, 5 * 4 * (channels or 3), np.uint8).tobytes()
    image = pb.Image(raw=pb.RawPixels(height=5, width=4, channels=channels, data=data))
    sent = image_input.load(source(image)).raw
    assert (sent.height, sent.width, sent.channels or 3, sent.data) == (5, 4, channels or 3, data)


def test_a_file_is_sent_as_it_is() -> None:
    assert source(pb.Image(encoded=b"a file")) == b"a file"
