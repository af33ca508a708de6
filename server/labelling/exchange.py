"""Feedback that comes to another worker than the request did: it is compared where the answer is remembered.

A worker tells the supervisor what it does not know, the supervisor tells all other workers as it is, and each of them
answers in the same way. In a worker, on its event loop:

    exchange = Exchange(channel.send, workers, feedback.compare)
    feedback.ask = exchange.ask
    exchange.heard(message.body)                # for each {"do": "feedback", ...} that comes
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from glimpse.server.labelling.feedback import Outcome, Told, TrueClass

_SECONDS = 1.0  # that the others have to answer: one of them may just be replaced

Body = dict[str, Any]


@dataclass(slots=True)
class _Question:
    """What the other workers were asked."""

    found: list[Told | None]
    answers: int  # that are still to come
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Exchange:
    """Asks and answers."""

    def __init__(
        self,
        send: Callable[[Body], bool],
        workers: int,
        compare: Callable[[TrueClass], Told | None],
        *,
        seconds: float = _SECONDS,
    ) -> None:
        """Prepare to ask.

        Args:
            send: sends a message to all other workers, and returns whether it could.
            workers: of the server.
            compare: compares with what this worker remembers; None: it does not.
            seconds: that the others have to answer.
        """
        self._send, self._workers, self._compare, self._seconds = send, workers, compare, seconds
        self._questions: dict[int, _Question] = {}

    async def ask(self, classes: Sequence[TrueClass]) -> list[Told | None]:
        """What the worker says that remembers the answer; None where nobody does."""
        question = _Question([None] * len(classes), self._workers - 1)
        number = random.getrandbits(53)
        given = [[each.request_id, each.image, each.name, each.new_class] for each in classes]
        self._questions[number] = question
        try:
            if self._send({"do": "feedback", "ask": number, "classes": given}):
                async with asyncio.timeout(self._seconds):
                    await question.done.wait()
        except TimeoutError:
            pass
        finally:
            del self._questions[number]
        return question.found

    def heard(self, body: Mapping[str, Any]) -> None:
        """Something that another worker has said."""
        number = body["ask"]
        if "classes" in body:
            told = [self._compare(TrueClass(*each)) for each in body["classes"]]
            answer = [None if each is None else [each.outcome.value, each.label] for each in told]
            self._send({"do": "feedback", "ask": number, "told": answer})
        elif (question := self._questions.get(number)) is not None:
            for index, each in enumerate(body["told"]):
                if each is not None:
                    question.found[index] = Told(Outcome(each[0]), each[1])
            question.answers -= 1
            if question.answers <= 0 or None not in question.found:
                question.done.set()
