"""The examples in the clients' docstrings are run, as they stand there."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import re
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from glimpse import client
from glimpse.client import AsyncClient, Client
from tests.client.scripted import ScriptedServer


def examples(thing: Any) -> list[str]:
    """The indented blocks of a docstring, up to its sections."""
    text = re.split(r"^(?:Args|Raises|Returns|Yields):$", inspect.getdoc(thing) or "", flags=re.MULTILINE)[0]
    return [textwrap.dedent(block) for block in re.findall(r"(?:^ {4}.*\n(?:\n(?= {4}))?)+", text + "\n", re.MULTILINE)]


PLACES = {
    "the package": client,
    "Client": Client,
    "Client.classify_many": Client.classify_many,
    "AsyncClient": AsyncClient,
    "AsyncClient.classify": AsyncClient.classify,
    "AsyncClient.classify_many": AsyncClient.classify_many,
    "AsyncClient.health": AsyncClient.health,
}


async def camera() -> AsyncIterator[tuple[int, bytes]]:
    for number in range(3):
        yield number, b"cat"


@pytest.mark.parametrize("place", PLACES)
def test_an_example_works_as_it_stands(
    scripted: ScriptedServer, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cat.jpg", "dog.jpg", "photos/cat.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("cat")
    blocks = examples(PLACES[place])
    assert blocks

    async def run(code: str) -> None:
        names: dict[str, Any] = {"asyncio": asyncio, "contextlib": contextlib, "Path": Path}
        names |= {"Client": Client, "AsyncClient": AsyncClient}
        # Method by method they speak of a client that is there.
        if "Async" in place:
            async with AsyncClient(scripted.target) as there:
                exec(_function(code), names)  # noqa: S102  (our own docstrings)
                await names["example"](there, camera())
        else:
            with Client(scripted.target) as there_too:
                exec(_function(code), names)  # noqa: S102  (as above)
                await names["example"](there_too, [b"cat"])

    for block in blocks:
        before = len(scripted.tokens)
        asyncio.run(run(block.replace("localhost:50051", scripted.target)))
        assert len(scripted.tokens) > before or "health" in block, "it called nothing"


def _function(code: str) -> str:
    return "async def example(client, camera):\n" + textwrap.indent(code, "    ")
