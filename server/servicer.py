"""The gRPC service: from protobuf to plain values and back. The work itself is the pipeline's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import structlog

from glimpse.models.decoding.cost import Cost
from glimpse.server import domain
from glimpse.server.access.call_context import CallContext, current_call
from glimpse.server.access.control import AccessControl
from glimpse.server.access.rights import still_good
from glimpse.server.describe import describe, identity
from glimpse.server.domain import Arrival, Caller, Classification, ImageResult
from glimpse.server.errors import Code, InvalidRequestError, Reason, ServiceError, defect, draining, shown
from glimpse.server.metrics import Metrics
from glimpse.server.pipeline import Pipeline
from glimpse.server.registry import ModelRegistry
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1 import classifier_pb2_grpc

_log = structlog.get_logger(__name__)

# What comes a little too fast waits for its turn, for which it is not sent again. A stream is not read on meanwhile, so
# that it has one such piece at a time; lone calls hold their images in memory, and so are few and short.
_PIECE_PATIENCE = 10.0  # seconds
_CALL_PATIENCE = 1.8  # seconds
_MOST_WAITING = 32 << 20  # bytes of images, of all lone calls that wait

# Characters of the id of a stream's piece, which is kept until its answer has been taken, in several copies; paths are
# shorter. And of a model's name as it is logged.
_LONGEST_ID = 4096
_LOGGED = 128

# Work that one image may be worth for a caller's rate: twice what an ordinary JPEG photo of 25 million pixels takes.
# What costs more counts as several.
_ONE_IMAGE = 50_000_000

SERVICE = pb.DESCRIPTOR.services_by_name["ImageClassifier"].full_name

Context = grpc.aio.ServicerContext[Any, Any]


class ImageClassifier(classifier_pb2_grpc.ImageClassifierServicer):
    """`glimpse.v1.ImageClassifier`."""

    def __init__(
        self,
        pipeline: Pipeline,
        registry: ModelRegistry,
        metrics: Metrics,
        limits: pb.Limits,
        access: AccessControl,
        *,
        stream_window: int,
    ) -> None:
        """Serve `pipeline` to whom `access` let in; one stream works on at most `stream_window` requests at once."""
        self._pipeline = pipeline
        self._registry = registry
        self._metrics = metrics
        self._limits = limits
        self._access = access
        self._stream_window = stream_window
        self._readers: set[asyncio.Task[None]] = set()
        self._waiting_bytes = 0  # of lone calls that wait for their turn
        self.bytes_read = 0  # of images of requests that are not answered yet, whether they are admitted or not
        self._drains = asyncio.Event()
        self._draining = False

    def drain(self) -> None:
        """Read no more from the open streams; they end once what they have sent is answered."""
        self._draining = True
        self._drains.set()
        for reader in self._readers:
            reader.cancel()

    async def Classify(self, request: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:  # noqa: N802 - the contract's name
        """Classify 1..N images."""
        call = current_call.get()
        return await self._classify(request, call, _caller(call, context), bulk=False)

    async def DescribeModel(  # noqa: N802 - the contract's name
        self,
        request: pb.DescribeModelRequest,
        context: Context,  # noqa: ARG002 - the contract's
    ) -> pb.DescribeModelResponse:
        """Describe a loaded model."""
        return describe(self._registry.resolve(_selector(request.model)), self._limits)

    # A coroutine that writes, which grpc.aio takes as well as a generator: answers come from many tasks.
    async def ClassifyStream(  # type: ignore[override]  # noqa: N802 - the contract's name
        self, requests: AsyncIterator[pb.ClassifyStreamRequest], context: Context
    ) -> None:
        """Classify without end: read while there is room, answer in the order of completion."""
        call = current_call.get()
        caller = _caller(call, context)
        window = asyncio.Semaphore(self._stream_window)
        writing = asyncio.Lock()
        in_flight: set[str] = set()

        complete = False  # the client has sent all that it wanted to

        async def read(answers: asyncio.TaskGroup) -> None:
            nonlocal complete
            incoming = aiter(requests)
            while True:
                await window.acquire()
                await self._pipeline.room(caller)
                request = await anext(incoming, None)
                complete = request is None
                if request is None or not still_good(call):
                    return
                if len(request.id) > _LONGEST_ID:
                    raise InvalidRequestError(
                        Reason.MALFORMED_MESSAGE,
                        f"The id of a request on a stream may have at most {_LONGEST_ID} characters. Received: "
                        f"{len(request.id)}. Send a shorter one.",
                        field="id",
                    )
                duplicate = request.id in in_flight
                in_flight.add(request.id)
                piece = call.piece()
                answers.create_task(answer(request, piece, duplicate))
                if self._access.rates is not None:
                    await asyncio.sleep(0)  # by then it knows whether it has to wait for its turn
                    await asyncio.sleep(piece.turn - time.monotonic())

        async def answer(request: pb.ClassifyStreamRequest, piece: CallContext, duplicate: bool) -> None:  # noqa: FBT001 - local
            response = await self._stream_response(request, piece, caller, duplicate=duplicate)
            call.model = piece.model
            call.images += piece.images
            call.bytes += piece.bytes
            if not duplicate:
                # Before it is written: the client may use the id again as soon as it has the answer.
                in_flight.discard(request.id)
            # Megabytes, which nobody has counted since it was answered, and the client may not read for long.
            del request
            # gRPC takes one message at a time. Where the client does not read, this waits, the window stays taken
            # and no more is read: that is the back-pressure.
            async with writing:
                await _write(call, context, response)
            window.release()

        # A task that fails ends the whole group, so a place in the window need not outlive its answer.
        async with asyncio.TaskGroup() as answers:
            if not self._draining:
                reader = answers.create_task(read(answers))
                self._readers.add(reader)
                reader.add_done_callback(self._readers.discard)
        if self._draining and not complete:
            raise draining()

    async def _stream_response(
        self, request: pb.ClassifyStreamRequest, piece: CallContext, caller: Caller, *, duplicate: bool
    ) -> pb.ClassifyStreamResponse:
        audit, begun = self._access.audit, time.monotonic()
        code, reason = "CANCELLED", ""  # unless it comes to an end
        try:
            response = await self._piece(request, piece, caller, duplicate=duplicate)
            refused = response.error if response.HasField("error") else None
            code, reason = ("OK", "") if refused is None else (Code(refused.code).name, refused.reason)
        finally:
            if audit is not None:
                seconds = time.monotonic() - begun
                audit.write(piece, code=code, reason=reason, seconds=seconds, piece=request.id)
        return response

    async def _piece(
        self, request: pb.ClassifyStreamRequest, piece: CallContext, caller: Caller, *, duplicate: bool
    ) -> pb.ClassifyStreamResponse:
        if duplicate:
            return self._refused(
                request.id,
                InvalidRequestError(
                    Reason.DUPLICATE_ID,
                    f"A request with the id {shown(request.id)} is already in flight on this stream. Use a different "
                    "id for each request.",
                ),
            )
        try:
            response = await self._classify(request.request, piece, caller, bulk=True, piece=request.id)
        except ServiceError as error:
            return self._refused(request.id, error)
        except Exception:  # noqa: BLE001 - its defect must not cost the other pieces their answers
            _log.exception("a defect of the service", stream_id=shown(request.id))
            return self._refused(request.id, defect())
        return pb.ClassifyStreamResponse(id=request.id, response=response)

    async def _classify(
        self, request: pb.ClassifyRequest, call: CallContext, caller: Caller, *, bulk: bool, piece: str = ""
    ) -> pb.ClassifyResponse:
        """What the caller may send now, through the pipeline.

        A request takes its images from the caller's rate even where it is refused later: what is wrong with it had to
        be found out. Only of more images than a request may hold nothing is found out but their number.

        Raises:
            ServiceError: expected; the request as a whole gets an error.
        """
        call.model, call.images = request.model.name[:_LOGGED], len(request.images)
        self._pipeline.check_number(call.images)
        asked = _request(request)
        call.bytes = size = sum(len(image.data) for image in asked.images)
        self.bytes_read += size
        try:
            costs = None
            if self._access.rates is not None:
                patience = _PIECE_PATIENCE if bulk else self._patience(call, caller)
                if (costs := self._pipeline.costs(asked)) is not None:
                    call.counted = sum(map(_counted, costs))
                if seconds := self._access.take(call, call.images, patience=patience):
                    await self._turn(call, seconds, bulk=bulk)
            arrival = Arrival(call.begun, call.complete or call.begun)
            answer = await self._pipeline.classify(asked, caller, costs=costs, bulk=bulk, arrival=arrival)
        finally:
            self.bytes_read -= size
        call.model = answer.model.name
        response = _response(answer)
        # What this took is part of the last stage, which the reply tells, too.
        self._pipeline.replied(answer)
        for told, result in zip(response.results, answer.results, strict=True):
            told.timing.reply_seconds = result.timing.reply
        if call.trace is not None:
            call.trace.images(answer.results, piece=piece)
        return response

    def _patience(self, call: CallContext, caller: Caller) -> float:
        """Seconds that a lone call may wait for its turn."""
        if self._waiting_bytes + call.bytes > _MOST_WAITING:
            return 0.0
        return _CALL_PATIENCE if caller.deadline is None else min(_CALL_PATIENCE, caller.deadline - time.monotonic())

    async def _turn(self, call: CallContext, seconds: float, *, bulk: bool) -> None:
        """Wait for the time at which the caller's rate lets in what has been taken from it.

        Raises:
            UnavailableError: expected; the server drains before that.
        """
        call.turn = time.monotonic() + seconds
        held = 0 if bulk else call.bytes
        self._waiting_bytes += held
        try:
            async with asyncio.timeout(seconds):
                await self._drains.wait()
        except TimeoutError:
            return
        except asyncio.CancelledError:
            self._access.give_back(call, call.images)
            raise
        finally:
            self._waiting_bytes -= held
        self._access.give_back(call, call.images)
        raise draining()

    def _refused(self, request_id: str, error: ServiceError) -> pb.ClassifyStreamResponse:
        self._metrics.request_rejected(error.reason)
        return pb.ClassifyStreamResponse(
            id=request_id,
            error=pb.RequestError(
                code=int(error.code),
                reason=error.reason.value,
                message=error.message,
                retry_after_seconds=error.retry_after or 0.0,
            ),
        )


def _counted(cost: Cost) -> int:
    """How many images one counts for."""
    return max(1, -(-cost.work // _ONE_IMAGE))


async def _write(call: CallContext, context: Context, response: pb.ClassifyStreamResponse) -> None:
    """Answer a piece, unless the caller's right has ended meanwhile: then the stream is being ended."""
    if still_good(call):
        await context.write(response)


def _caller(call: CallContext, context: Context) -> Caller:
    remaining = context.time_remaining()
    return Caller(
        lane=call.lane,
        deadline=None if remaining is None else time.monotonic() + remaining,
    )


def _selector(model: pb.ModelSelector) -> domain.ModelSelector:
    return domain.ModelSelector(model.name, model.version)


def _request(request: pb.ClassifyRequest) -> domain.ClassifyRequest:
    options = request.options
    return domain.ClassifyRequest(
        images=tuple(_image(image) for image in request.images),
        model=_selector(request.model),
        top_k=options.top_k if options.HasField("top_k") else None,
        min_probability=options.min_probability,
        geometry=options.geometry,
    )


def _image(image: pb.Image) -> domain.Image:
    if image.WhichOneof("source") == "raw":
        return domain.RawImage(image.raw.height, image.raw.width, image.raw.data)
    return domain.EncodedImage(image.encoded)


def _response(answer: Classification) -> pb.ClassifyResponse:
    return pb.ClassifyResponse(model=identity(answer.model), results=[_result(result) for result in answer.results])


def _result(result: ImageResult) -> pb.ImageResult:
    error = result.error
    timing = result.timing
    return pb.ImageResult(
        predictions=[
            pb.Prediction(index=p.index, label=p.label, class_id=p.class_id, probability=p.probability)
            for p in result.predictions
        ],
        error=None
        if error is None
        else pb.ImageError(code=int(error.code), reason=error.reason.value, message=error.message),
        timing=pb.Timing(
            decode_seconds=timing.decode,
            pre_stem_seconds=timing.pre_stem,
            queue_seconds=timing.queue,
            compute_seconds=timing.compute,
            batch_size=timing.batch_size,
            decode_wait_seconds=timing.decode_wait,
            receive_seconds=timing.receive,
            admission_seconds=timing.admission,
        ),
    )
