"""What may be asked for besides the image: one list, of which each way to ask knows every option."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from glimpse import AsyncClient, Classifier, Client
from glimpse.client import messages
from glimpse.client.options import ImageOptions, Options
from glimpse.server.domain import RawImage
from glimpse.server.in_process import values
from tests.client.scripted import ScriptedServer

# Of each option a value other than what is asked for without it.
VALUES: dict[str, Any] = {
    "top_k": 3,
    "min_probability": 0.5,
    "geometry": "pad",
    "outputs": ["logits"],
    "allow": ["cat"],
    "deny": ["dog"],
    "roll_up": 0.5,
    "novelty": True,
    "require_known": True,
    "explain": "auto",
    "explain_class": "cat",
    "embedding_type": "float16",
    "model": "cats",
    "version": "2",
}
TOGETHER: dict[str, Any] = {"explain_class": {"explain": "auto"}}  # what an option has an effect with
PIXEL = RawImage(1, 1, bytes(3))


@pytest.mark.parametrize("name", Options.__annotations__)
def test_every_option_changes_what_is_sent_to_a_server(name: str) -> None:
    besides = TOGETHER.get(name, {})
    asked = messages.to_requests({**besides, name: VALUES[name]})  # type: ignore[misc]  # the names are those of `Options`
    assert asked(b"cat") != messages.to_requests(besides)(b"cat")


@pytest.mark.parametrize("name", ImageOptions.__annotations__)
def test_every_option_of_an_image_changes_what_the_pipeline_is_asked(name: str) -> None:
    besides = TOGETHER.get(name, {})
    asked = values.to_request({**besides, name: VALUES[name]})  # type: ignore[misc]  # as above
    assert asked(PIXEL) != values.to_request(besides)(PIXEL)


@pytest.mark.parametrize(
    ("ask", "kind"),
    [
        (Client.classify, Options),
        (Client.classify_many, Options),
        (AsyncClient.classify, Options),
        (AsyncClient.classify_many, Options),
        (Classifier.classify, ImageOptions),
        (Classifier.classify_all, ImageOptions),
        (Classifier.classify_many, ImageOptions),
    ],
)
def test_editors_and_type_checkers_see_the_options_of_every_way_to_ask(ask: Callable[..., Any], kind: type) -> None:
    assert inspect.signature(ask).parameters["options"].annotation == f"Unpack[{kind.__name__}]"


def test_an_unknown_option_is_named_with_those_that_there_are(scripted: ScriptedServer) -> None:
    """Type checkers say so before, as of a value of another type; mypy would tell of a comment without an error."""
    with Client(scripted.target) as client:
        with pytest.raises(TypeError, match=r"no option 'topk'\. There are: top_k, .*version"):
            client.classify(b"cat", topk=3)  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="no option 'topk'"):
            client.classify_many([(1, b"cat")], topk=3)  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            client.classify(b"cat", top_k="3")  # type: ignore[arg-type]
