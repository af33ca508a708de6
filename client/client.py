"""The synchronous client."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Self, TypeVar

import grpc

from glimpse.client import health, messages
from glimpse.client.base import BaseClient
from glimpse.client.bulk import Bulk
from glimpse.client.calls import Calls
from glimpse.client.results import ImageResult, ModelDescription
from glimpse.client.status import from_rpc_error
from glimpse.v1 import classifier_pb2, classifier_pb2_grpc

if TYPE_CHECKING:
    from types import TracebackType

    from glimpse.client.image_input import ImageInput

K = TypeVar("K")


class Client(BaseClient):
    """Calls a Glimpse server. Safe to share between threads; close it, or use it as a context manager.

        with Client("localhost:50051") as client:
            print(client.classify("cat.jpg").predictions[0].label)

    Calls that the server has no room for are repeated up to 4 times, when the server says, and what it refuses for
    coming too fast holds back the calls after it; those of a server that goes or dies are repeated on another one.
    Classification changes nothing, so repeating it is harmless.
    """

    def _prepare(self) -> None:
        self._channel = self._connection.open()
        self._calls = Calls()
        self._stub = classifier_pb2_grpc.ImageClassifierStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        self._channel.close()

    def classify(
        self,
        image: ImageInput,
        *,
        top_k: int | None = None,
        min_probability: float = 0.0,
        geometry: str = "",
        model: str = "",
        version: str = "",
        timeout: float | None = None,
    ) -> ImageResult:
        """Classify one image.

        Args:
            image: the path of an image file, or its bytes; or pixels as a NumPy array of uint8 ``[height, width, 3]``
                in the order red, green, blue; or a Pillow image, which travels as the pixels that a viewer would show
                (upright, transparency on white). Pixels have to fit into a message, as about 5.5 megapixels do.
            top_k: how many predictions; 5, or all classes where there are fewer, when left out.
            min_probability: leave out predictions below it.
            geometry: how the image is fitted to the network's input, one of those that the server allows
                (``describe().limits.geometries``); the model's own when empty.
            model: name of a loaded model; the server's default when empty.
            version: of that model; its newest when empty.
            timeout: seconds to wait for the answer, retries included; the client's own when left out.

        Returns:
            The predictions by falling probability; never an `error`.

        Raises:
            ImageRefusedError: the image cannot be classified; expected where images come from outside.
            OSError: the file cannot be read.
            GlimpseError: the call got no answer; see the tree in `client.errors`.
        """
        request = messages.to_requests(top_k, min_probability, geometry, model, version)(image)

        def attempt(seconds: float) -> classifier_pb2.ClassifyResponse:
            metadata = self._connection.metadata()
            answer: classifier_pb2.ClassifyResponse = self._stub.Classify(
                request, timeout=seconds, metadata=metadata, wait_for_ready=self._wait
            )
            return answer

        response = self._calls.run(attempt, self.target, self._seconds(timeout))
        return messages.from_response(response)[0].raise_for_error()

    def classify_many(
        self,
        images: Iterable[tuple[K, ImageInput]],
        *,
        top_k: int | None = None,
        min_probability: float = 0.0,
        geometry: str = "",
        model: str = "",
        version: str = "",
        timeout: float | None = None,
        in_flight: int = 32,
        ordered: bool = False,
    ) -> Iterator[tuple[K, ImageResult]]:
        """Classify any number of images over a stream, several at a time.

        `images` is read in a thread of its own, and only as far ahead as `in_flight` allows: memory stays bounded
        however many there are, and a slow consumer slows the reading down. Where a server goes or dies, its unanswered
        images are sent to another one.

            for path, result in client.classify_many((path, path) for path in Path("photos").rglob("*.jpg")): ...
            for number, result in client.classify_many(enumerate(camera)): ...

        Args:
            images: pairs of a key of your own and an image as `classify` takes it.
            top_k, min_probability, geometry, model, version: as for `classify`, for all images.
            timeout: seconds without any answer after which to give up; the client's own when left out.
            in_flight: images at a time between being read and being done with, at least 1.
            ordered: yield in the order of `images`; otherwise as the answers arrive.

        Yields:
            Your key and its result, exactly one for each image. A file that cannot be read and an image that cannot
            be classified give a result with an `error`; their neighbours are answered.

        Raises:
            StreamBrokenError: one stream after the other ended without an answer, and images are unanswered.
            RequestRefusedError: the options are at fault, so that every image would fail alike.
            GlimpseError: see the tree in `client.errors`.
            Whatever `images` itself raises.
        """
        bulk: Bulk[K] = Bulk(
            self._open_stream,
            self.target,
            messages.to_requests(top_k, min_probability, geometry, model, version),
            in_flight=in_flight,
            ordered=ordered,
            timeout=self._seconds(timeout),
        )
        return bulk.run(images)

    def describe(self, *, model: str = "", version: str = "", timeout: float | None = None) -> ModelDescription:
        """What a loaded model is, what it wants and how it runs.

        Args:
            model: name of a loaded model; the server's default when empty.
            version: of that model; its newest when empty.
            timeout: seconds to wait for the answer; the client's own when left out.

        Raises:
            ModelNotFoundError: no loaded model has this name and version.
            GlimpseError: see the tree in `client.errors`.
        """
        request = messages.to_describe(model, version)
        try:
            reply = self._stub.DescribeModel(
                request,
                timeout=self._seconds(timeout),
                metadata=self._connection.metadata(),
                wait_for_ready=self._wait,
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error, self.target) from error
        return messages.from_description(reply)

    def health(self, *, timeout: float | None = None) -> health.Health:
        """Whether a server lives and takes images; where the target has several, of one of them.

        Args:
            timeout: seconds to wait for an answer; the client's own when left out.

        Raises:
            UnavailableError: nobody answers. A server that answers and is not serving is no error.
            GlimpseError: see the tree in `client.errors`.
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

    def _open_stream(self, requests: Iterator[classifier_pb2.ClassifyStreamRequest]) -> Any:
        return self._stub.ClassifyStream(requests, metadata=self._connection.metadata(), wait_for_ready=self._wait)
