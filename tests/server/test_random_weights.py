"""A server with random weights: it says so everywhere, and serves where a trained model would be refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import structlog

from glimpse.client import Client
from glimpse.models.catalogue import rows
from glimpse.models.spec import Architecture
from glimpse.server.app import Server
from glimpse.server.messages.describe import describe, limits
from glimpse.server.settings import Settings
from glimpse.server.settings import load as load_settings
from tests.conftest import RunningServer

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@pytest.mark.ci
def test_random_weights_are_served_and_say_so(start_server: Callable[..., RunningServer]) -> None:
    """Such a MobileNet gives a black picture and noise the same answer, for which trained weights are refused."""
    chosen = {"GLIMPSE_MODEL": "mobilenet", "GLIMPSE_OPTIONS": json.dumps({"alpha": 0.25}), "GLIMPSE_WEIGHTS": "random"}
    server = start_server(environment=chosen)
    server.wait_for("serving")
    said = server.wait_for("random weights")
    assert (said["level"], said["model"]) == ("warning", "mobilenet_random")
    assert "has not been trained" in said["detail"]
    with Client(server.target) as client:
        result = client.classify(np.zeros((20, 20, 3), np.uint8)).raise_for_error()
        assert result.model is not None
        assert result.model.name == "mobilenet_random"
        assert result.predictions[0].label == f"class {result.predictions[0].index}"
        description = client.describe()
        assert (description.architecture, description.parameters) == ("mobilenet", 475_544)


@pytest.mark.slow
@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row.name}-{row.variant}")
def test_every_architecture_can_be_loaded_and_described(row: Architecture) -> None:
    chosen: dict[str, Any] = {"model": row.name, "variant": row.variant, "weights": "random", "runtime": "tensorflow"}
    chosen |= {"precision": "float32", "max_batch_size": 2}

    async def load() -> None:
        model = Server(Settings(**chosen)).models._prepare_and_load()
        try:
            reply = describe(model, limits(load_settings([])))
            assert sum(stage.parameters for stage in reply.stages) == reply.parameters > 0
            assert tuple(model.bundle.input_shape) == row.shape
            assert reply.model.name == f"{row.name}_random"
        finally:
            assert model.batcher.close(60)

    with structlog.testing.capture_logs():
        asyncio.run(load())
