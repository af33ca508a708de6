"""The client for asyncio, with the methods of `client.client`, which do not block the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack
from weakref import WeakSet

import grpc
import grpc.aio

from glimpse.client import feedback, health, messages
from glimpse.client.aio_bulk import AsyncBulk
from glimpse.client.aio_reading import off_the_loop
from glimpse.client.aio_stream import OpenCall, cancelled_from_outside
from glimpse.client.base import BaseClient
from glimpse.client.calls import AsyncCalls
from glimpse.client.errors import Code, GlimpseError
from glimpse.client.feedback import FeedbackResult, TrueClass
from glimpse.client.options import Options
from glimpse.client.reachability import Reachability
from glimpse.client.results import ImageResult, ModelDescription
from glimpse.v1 import classifier_pb2_grpc

if TYPE_CHECKING:
    from types import TracebackType

    from glimpse.client.image_values import ImageInput

K = TypeVar("K")


class AsyncClient(BaseClient):
    """Calls a Glimpse server from asyncio. Use it as an async context manager, or `close` it.

        async with AsyncClient("localhost:50051") as client:
            result = await client.classify("cat.jpg")
            print(result.predictions[0].label)

    It may be made anywhere, and belongs to the event loop of its first call. Files are read and Pillow images decoded
    in threads. Calls are repeated as those of `Client` are. A call whose task is cancelled is cancelled on the server,
    too.
    """

    def _prepare(self) -> None:
        self._credentials = self._connection.credentials()
        # A channel belongs to an event loop, and there may be none yet.
        self._channel: grpc.aio.Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._reachability = Reachability()
        self._calls = AsyncCalls(self._reachability)
        self._runs: WeakSet[AsyncBulk[Any]] = WeakSet()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls in flight are cancelled, and nothing of them goes on."""
        self._closed = True
        for run in list(self._runs):
            await run.stop()
        if self._channel is not None:
            await self._channel.close()

    async def classify(
        self,
        image: ImageInput,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  (the call's own, which the server hears of, too)
        **options: Unpack[Options],
    ) -> ImageResult:
        """Classify one image.

            results = await asyncio.gather(*(client.classify(path) for path in ("cat.jpg", "dog.jpg")))

        Args:
            image: the path of an image file, or its bytes; or pixels as a NumPy array of uint8 ``[height, width, 3]``
                in the order red, green, blue, or grey ``[height, width]``; or a Pillow image, which travels as the
                pixels that a viewer would show (upright, transparency on white). Pixels have to fit into a message of
                `max_message_bytes`, as about 5.5 megapixels do by default, and three times as many of a grey array.
            timeout: seconds to wait for the answer, retries included; without it, the client's own timeout.
            options: what to return, and which model is to answer, all optional, such as ``top_k=3``:
                `glimpse.client.options.Options` describes each.

        Returns:
            The predictions, the most probable first. There is never an `error`.

        Raises:
            ImageRefusedError: the image cannot be classified. Expect this where images come from outside.
            OSError: the file cannot be read.
            GlimpseError: the call failed; `glimpse.client.errors` shows the tree of errors.
        """
        to_request = messages.to_requests(options, self._connection.max_message_bytes)
        request = await off_the_loop(image, lambda: to_request(image))
        response = await self._answer(self._stub().Classify, request, timeout)
        return messages.from_response(response)[0].raise_for_error()

    def classify_many(
        self,
        images: Iterable[tuple[K, ImageInput]] | AsyncIterable[tuple[K, ImageInput]],
        *,
        timeout: float | None = None,
        in_flight: int = 32,
        ordered: bool = False,
        **options: Unpack[Options],
    ) -> AsyncGenerator[tuple[K, ImageResult], None]:
        """Classify any number of images over a stream, several at a time.

        Images are read only as far ahead as `in_flight` allows, so memory stays bounded however many there are, and a
        slow consumer slows the reading down. If a server shuts down or dies, its unanswered images are sent to another
        one.

            async for path, result in client.classify_many((path, path) for path in Path("photos").rglob("*.jpg")): ...
            async for number, result in client.classify_many(camera): ...

        To stop before the end and go on using the client, close the generator, so that the stream ends at once:
        ``async with contextlib.aclosing(client.classify_many(photos)) as results: ...``

        Args:
            images: pairs of a key of your own and an image as `classify` takes it. An iterable that is not async may
                block, and is read in a thread of its own.
            timeout: seconds without any answer after which to give up; without it, the client's own timeout.
            in_flight: how many images may be read and not yet be yielded, at least 1.
            ordered: yield in the order of `images`. Otherwise results are yielded as the answers arrive.
            options: as for `classify`, for all images.

        Yields:
            Your key and its result, exactly one for each image. A file that cannot be read and an image that cannot
            be classified give a result with an `error`; their neighbours are answered.

        Raises:
            StreamBrokenError: one stream after the other ended without an answer, and images are unanswered.
            RequestRefusedError: the options are wrong, so every image would fail in the same way.
            GlimpseError: the call failed; `glimpse.client.errors` shows the tree of errors.
            Whatever `images` itself raises.
        """
        bulk: AsyncBulk[K] = AsyncBulk(
            self._stream_opener,
            self.target,
            messages.to_requests(options, self._connection.max_message_bytes),
            in_flight=in_flight,
            ordered=ordered,
            reachability=self._reachability,
            timeout=self._seconds(timeout),
        )
        self._runs.add(bulk)
        return bulk.run(images)

    async def describe(
        self,
        *,
        model: str = "",
        version: str = "",
        timeout: float | None = None,  # noqa: ASYNC109  (as above)
    ) -> ModelDescription:
        """Describe a loaded model: its classes, network, preprocessing, runtime and limits.

        Args:
            model: the name of a loaded model; if empty, the server's default model.
            version: the version of that model; if empty, its newest.
            timeout: seconds to wait for the answer; without it, the client's own timeout.

        Raises:
            ModelNotFoundError: no loaded model has this name and version.
            GlimpseError: the call failed; `glimpse.client.errors` shows the tree of errors.
        """
        request = messages.to_describe(model, version)
        return messages.from_description(await self._answer(self._stub().DescribeModel, request, timeout))

    async def feedback(
        self,
        classes: Iterable[TrueClass],
        *,
        timeout: float | None = None,  # noqa: ASYNC109  (as above)
    ) -> list[FeedbackResult]:
        """Tell what images that were classified really show.

        The server counts how often its answers were right, and writes the true class beside those images that it has
        kept as samples. It has to permit it (GLIMPSE_FEEDBACK). Any number may be told at once.

            result = await client.classify("cat.jpg")
            await client.feedback([TrueClass(result, "tiger cat")])

        Args:
            classes: of images that this server has answered.
            timeout: seconds to wait for each of the answers; without it, the client's own timeout.

        Returns:
            One result for each, in their order.

        Raises:
            ValueError: an answer has no request id, because the server takes no feedback.
            AccessDeniedError: the caller may not give feedback.
            GlimpseError: the call failed; `glimpse.client.errors` shows the tree of errors.
        """
        results: list[FeedbackResult] = []
        for request in feedback.to_requests(classes):
            results += feedback.from_response(await self._answer(self._stub().Feedback, request, timeout))
        return results

    async def health(self, *, timeout: float | None = None) -> health.Health:  # noqa: ASYNC109  (as above)
        """Ask whether a server is alive and takes images. Where the target has several servers, one of them is asked.

            if (await client.health()).serving: ...

        Args:
            timeout: seconds to wait for the answer; without it, the client's own timeout.

        Raises:
            UnavailableError: no server answers. A server that answers and is not serving is not an error.
            GlimpseError: the call failed; `glimpse.client.errors` shows the tree of errors.
        """
        # The client's own channel does not call servers that are not serving.
        async with self._connection.open_async(self._credentials, all_servers=True) as all_servers:
            return await health.check_async(
                all_servers,
                self.target,
                timeout=self._seconds(timeout),
                metadata=await self._metadata(),
                wait_for_ready=self._wait,
            )

    async def _answer(self, method: Any, request: Any, timeout: float | None) -> Any:  # noqa: ASYNC109  (as above)
        return await self._calls.run(
            lambda seconds: self._attempt(method, request, seconds), self.target, self._seconds(timeout)
        )

    async def _attempt(self, method: Any, request: Any, seconds: float) -> Any:
        metadata = await self._metadata()
        try:
            return await method(request, timeout=seconds, metadata=metadata, wait_for_ready=self._wait)
        except asyncio.CancelledError:
            if cancelled_from_outside():
                raise
            raise GlimpseError(Code.CANCELLED, "", "The client was closed.") from None

    def _stream_opener(self) -> OpenCall:
        stub = self._stub()

        async def open_stream() -> Any:
            return stub.ClassifyStream(metadata=await self._metadata(), wait_for_ready=self._wait)

        return open_stream

    def _stub(self) -> Any:
        """The service's methods on this event loop.

        Raises:
            ValueError: the client is closed.
            RuntimeError: it belongs to another event loop.
        """
        if self._closed:
            raise ValueError("The client was closed.")
        loop = asyncio.get_running_loop()
        if self._channel is None:
            self._channel, self._loop = self._connection.open_async(self._credentials), loop
        elif self._loop is not loop:
            raise RuntimeError("This AsyncClient belongs to the event loop of its first call; make one for each loop.")
        return classifier_pb2_grpc.ImageClassifierStub(self._channel)

    async def _metadata(self) -> tuple[tuple[str, str], ...]:
        """What each call has to carry; a token's file is looked at in a thread."""
        token = self._connection.token
        return await asyncio.to_thread(self._connection.metadata) if token is not None else ()
