"""The client for programs without asyncio."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from glimpse.client import feedback, health, messages
from glimpse.client.base import BaseClient
from glimpse.client.bulk import Bulk
from glimpse.client.calls import Calls
from glimpse.client.feedback import FeedbackResult, TrueClass
from glimpse.client.options import Options
from glimpse.client.reachability import Reachability
from glimpse.client.results import ImageResult, ModelDescription
from glimpse.v1 import classifier_pb2, classifier_pb2_grpc

if TYPE_CHECKING:
    from types import TracebackType

    from glimpse.client.image_values import ImageInput

K = TypeVar("K")


class Client(BaseClient):
    """Calls a Glimpse server. Safe to share between threads; close it, or use it as a context manager.

        with Client("localhost:50051") as client:
            print(client.classify("cat.jpg").predictions[0].label)

    A call that the server has no room for is repeated up to 4 times, each time when the server says. A call that is
    refused because calls come too fast also delays the calls after it. Calls that were interrupted because a server
    shut down or died are repeated on another one. Classification changes nothing, so repeating a call is harmless.
    """

    def _prepare(self) -> None:
        self._channel = self._connection.open()
        self._reachability = Reachability()
        self._calls = Calls(self._reachability)
        self._stub = classifier_pb2_grpc.ImageClassifierStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Calls in flight are cancelled."""
        self._channel.close()

    def classify(
        self,
        image: ImageInput,
        *,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> ImageResult:
        """Classify one image.

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
        request = messages.to_requests(options, self._connection.max_message_bytes)(image)
        response = self._answer(self._stub.Classify, request, timeout)
        return messages.from_response(response)[0].raise_for_error()

    def classify_many(
        self,
        images: Iterable[tuple[K, ImageInput]],
        *,
        timeout: float | None = None,
        in_flight: int = 32,
        ordered: bool = False,
        **options: Unpack[Options],
    ) -> Iterator[tuple[K, ImageResult]]:
        """Classify any number of images over a stream, several at a time.

        Images are read in a thread of their own, and only as far ahead as `in_flight` allows, so memory stays bounded
        however many there are, and a slow consumer slows the reading down. If a server shuts down or dies, its
        unanswered images are sent to another one.

            for path, result in client.classify_many((path, path) for path in Path("photos").rglob("*.jpg")): ...
            for number, result in client.classify_many(enumerate(camera)): ...

        Args:
            images: pairs of a key of your own and an image as `classify` takes it.
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
        bulk: Bulk[K] = Bulk(
            self._open_stream,
            self.target,
            messages.to_requests(options, self._connection.max_message_bytes),
            in_flight=in_flight,
            ordered=ordered,
            reachability=self._reachability,
            timeout=self._seconds(timeout),
        )
        return bulk.run(images)

    def describe(self, *, model: str = "", version: str = "", timeout: float | None = None) -> ModelDescription:
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
        reply = self._answer(self._stub.DescribeModel, request, timeout)
        return messages.from_description(reply)

    def feedback(self, classes: Iterable[TrueClass], *, timeout: float | None = None) -> list[FeedbackResult]:
        """Tell what images that were classified really show.

        The server counts how often its answers were right, and writes the true class beside those images that it has
        kept as samples. It has to permit it (GLIMPSE_FEEDBACK). Any number may be told at once.

            result = client.classify("cat.jpg")
            client.feedback([TrueClass(result, "tiger cat")])

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
            results += feedback.from_response(self._answer(self._stub.Feedback, request, timeout))
        return results

    def health(self, *, timeout: float | None = None) -> health.Health:
        """Ask whether a server is alive and takes images. Where the target has several servers, one of them is asked.

        Args:
            timeout: seconds to wait for the answer; without it, the client's own timeout.

        Raises:
            UnavailableError: no server answers. A server that answers and is not serving is not an error.
            GlimpseError: the call failed; `glimpse.client.errors` shows the tree of errors.
        """
        # The client's own channel does not call servers that are not serving.
        with self._connection.open(all_servers=True) as all_servers:
            return health.check(
                all_servers,
                self.target,
                timeout=self._seconds(timeout),
                metadata=self._connection.metadata(),
                wait_for_ready=self._wait,
            )

    def _answer(self, method: Any, request: Any, timeout: float | None) -> Any:
        """What a method answers; repeated where that may help.

        Raises:
            GlimpseError: it got no answer.
        """

        def attempt(seconds: float) -> Any:
            metadata = self._connection.metadata()
            return method(request, timeout=seconds, metadata=metadata, wait_for_ready=self._wait)

        return self._calls.run(attempt, self.target, self._seconds(timeout))

    def _open_stream(self, requests: Iterator[classifier_pb2.ClassifyStreamRequest]) -> Any:
        return self._stub.ClassifyStream(requests, metadata=self._connection.metadata(), wait_for_ready=self._wait)
