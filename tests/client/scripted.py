"""A server on a real socket that does as a test says: what a healthy Glimpse cannot be made to do on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn, Self

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer

from glimpse.client.channel import SERVICE
from glimpse.client.errors import Code
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1 import classifier_pb2_grpc

MODEL = pb.ModelIdentity(name="scripted", version="7", weights_digest="sha256:abc")
Context = grpc.ServicerContext
Stream = Callable[[Iterator[pb.ClassifyStreamRequest], Context], Iterable[pb.ClassifyStreamResponse]]


def result(image: pb.Image, top_k: int = 2) -> pb.ImageResult:
    """The image's bytes are its label; an image that begins with "bad" is none."""
    label = image.encoded.decode() if image.HasField("encoded") else f"{image.raw.height}x{image.raw.width}"
    if label.startswith("bad"):
        return pb.ImageResult(error=pb.ImageError(code=3, reason="NOT_AN_IMAGE", message=f"{label} is no image."))
    predictions = [
        pb.Prediction(index=0, label=label, class_id="n0", probability=0.75),
        pb.Prediction(index=1, label="other", probability=0.25),
    ]
    timing = pb.Timing(decode_seconds=0.1, pre_stem_seconds=0.2, queue_seconds=0.3, compute_seconds=0.4, batch_size=5)
    return pb.ImageResult(predictions=predictions[:top_k], timing=timing)


def response(request: pb.ClassifyRequest) -> pb.ClassifyResponse:
    """What a healthy server answers."""
    top_k = request.options.top_k if request.options.HasField("top_k") else 2
    return pb.ClassifyResponse(model=MODEL, results=[result(image, top_k) for image in request.images])


def stream_response(request: pb.ClassifyStreamRequest) -> pb.ClassifyStreamResponse:
    """The same on a stream."""
    return pb.ClassifyStreamResponse(id=request.id, response=response(request.request))


def refusal(
    request: pb.ClassifyStreamRequest, code: Code, reason: str, after: float = 0.0
) -> pb.ClassifyStreamResponse:
    """A request that a stream refuses, though it goes on."""
    error = pb.RequestError(code=code, reason=reason, message="as scripted", retry_after_seconds=after)
    return pb.ClassifyStreamResponse(id=request.id, error=error)


def abort(
    context: Context,
    code: grpc.StatusCode,
    reason: str = "",
    *details: Message,
    message: str = "as scripted",
    pushback_ms: int | None = None,
) -> NoReturn:
    """End the call with a status as Glimpse sends it."""
    trailers: list[tuple[str, str | bytes]] = []
    if pushback_ms is not None:
        trailers.append(("grpc-retry-pushback-ms", str(pushback_ms)))
    if reason:
        status = status_pb2.Status(code=code.value[0], message=message)
        for detail in (error_details_pb2.ErrorInfo(reason=reason, domain="glimpse"), *details):
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        trailers.append(("grpc-status-details-bin", status.SerializeToString()))
    context.set_trailing_metadata(tuple(trailers))
    context.abort(code, message)
    raise AssertionError  # abort has raised


class ScriptedServer(classifier_pb2_grpc.ImageClassifierServicer):
    """Healthy until a test replaces `classify`, `stream` or `describe`, or says otherwise."""

    def __init__(
        self,
        *,
        credentials: grpc.ServerCredentials | None = None,
        port: int = 0,
        offers_health: bool = True,
        max_connection_age_ms: int = 2**31 - 1,
        max_message_bytes: int = 16 * 1024 * 1024,
    ) -> None:
        self.requests: list[pb.ClassifyRequest] = []
        self.fed_back: list[pb.FeedbackRequest] = []
        self.tokens: list[str | None] = []  # what each call had for `authorization`, streams included
        self.classify: Callable[[pb.ClassifyRequest, Context], pb.ClassifyResponse] = lambda request, _: response(
            request
        )
        self.stream: Stream = lambda requests, _: map(stream_response, requests)
        self.describe: Callable[[pb.DescribeModelRequest, Context], pb.DescribeModelResponse] = lambda *_: DESCRIPTION
        self._server = grpc.server(
            ThreadPoolExecutor(32),  # each call takes one until it ends, one that watches health as well
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_connection_age_ms", max_connection_age_ms),
                ("grpc.max_connection_age_grace_ms", 20),
            ],
        )
        classifier_pb2_grpc.add_ImageClassifierServicer_to_server(self, self._server)
        # Blocking: otherwise a watcher's connection that ends while its first status is sent can stop the whole server.
        # The library sends under a lock that the end of a call needs as well, in the one thread that could tell it
        # that the status has been sent.
        self.health = HealthServicer(experimental_non_blocking=False)
        self.serving(yes=True)
        if offers_health:
            health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        address = f"127.0.0.1:{port}"
        if credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, credentials)
        self.target = f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Go away, whatever is under way."""
        self._server.stop(grace=None).wait()

    def serving(self, *, yes: bool) -> None:
        """What health says of the classifier; the process lives in any case."""
        status = health_pb2.HealthCheckResponse
        self.health.set(SERVICE, status.SERVING if yes else status.NOT_SERVING)

    def _note(self, context: Context) -> None:
        self.tokens.append(next((str(v) for k, v in context.invocation_metadata() if k == "authorization"), None))

    def Classify(self, request: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:  # noqa: N802
        self._note(context)
        self.requests.append(request)
        return self.classify(request, context)

    def ClassifyStream(  # noqa: N802
        self, request_iterator: Iterator[pb.ClassifyStreamRequest], context: Context
    ) -> Iterator[pb.ClassifyStreamResponse]:
        self._note(context)
        yield from self.stream(request_iterator, context)

    def DescribeModel(  # noqa: N802
        self, request: pb.DescribeModelRequest, context: Context
    ) -> pb.DescribeModelResponse:
        return self.describe(request, context)

    def Feedback(  # noqa: N802
        self, request: pb.FeedbackRequest, context: Context
    ) -> pb.FeedbackResponse:
        self.fed_back.append(request)
        context.set_trailing_metadata(())
        return pb.FeedbackResponse(
            results=[pb.FeedbackResult(outcome=pb.FEEDBACK_OUTCOME_FIRST, sampled=True) for _ in request.images]
        )


DESCRIPTION = pb.DescribeModelResponse(
    model=MODEL,
    architecture="plain2",
    variant="test",
    paper="none",
    input=pb.InputShape(height=8, width=8, channels=3),
    classes=[pb.ClassLabel(index=0, label="cat", class_id="n0"), pb.ClassLabel(index=1, label="dog")],
    parameters=1234,
    trainable_parameters=1200,
    stages=[
        pb.Stage(
            name="stem", block="convolution", repeats=1, output_shape=[8, 8, 16], parameters=1000, multiply_adds=64_000
        ),
        pb.Stage(name="classifier", block="dense", repeats=1, output_shape=[2], parameters=234, multiply_adds=200),
    ],
    pre_stem=pb.PreStem(
        height=8,
        width=8,
        geometry="crop",
        crop_share=0.875,
        filter="bicubic",
        fill=[0, 0, 0],
        mean=[127.5, 127.5, 127.5],
        std=[64, 64, 64],
        digest="sha256:def",
        channels="RGB",
        smaller="pad",
        antialias=True,
    ),
    temperature=1.25,
    output="probabilities",
    options={"alpha": "0.25", "stem": '"handbook"'},
    runtime=pb.Runtime(
        name="tensorflow",
        device="cpu",
        precision="float32",
        batch_sizes=[1, 8],
        agreement=pb.Agreement(precision="bfloat16", top1=0.9, pictures=200, unclear=7),
    ),
    limits=pb.Limits(
        max_images_per_request=64,
        max_image_bytes=1000000,
        max_image_pixels=2000000,
        max_message_bytes=3000000,
        max_images_in_flight=512,
        formats=["JPEG", "PNG"],
        max_jpeg_pixels=100000000,
        jpeg_reducing_gap=2,
        geometries=["letterbox", "pad"],
        max_bytes_in_flight=268435456,
    ),
)
