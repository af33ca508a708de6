"""The comparison of protocols: what it sends is answered by each of them, and its ratios are within turns."""

from __future__ import annotations

import pytest

from tools.bench import protocols


def test_ratios_are_those_within_a_turn_with_grpc() -> None:
    found = {protocols.FIRST: [(1e-3, 2e-3), (2e-3, 2e-3)], "other": [(2e-3, 3e-3), (2e-3, 5e-3)]}
    text = protocols.table(found)
    assert text.splitlines()[2:] == [
        f"| {protocols.FIRST} | 1500 | 2.00 | 1.00 |",
        "| other | 2000 | 4.00 | 1.50 |",
    ]


@pytest.mark.ci
def test_every_protocol_answers_the_same_photo() -> None:
    environment = {"GLIMPSE_WEIGHTS": "cifar10", "GLIMPSE_PRECISION": "float32"}
    found = protocols.run(protocols.PHOTO.read_bytes(), turns=2, seconds=0.05, environment=environment)
    assert len(found) == 5
    assert all(cpu >= 0 and clock > 0 for turns in found.values() for cpu, clock in turns)
