"""The gRPC servicer of the Open Inference Protocol: from its messages to plain values and back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import grpc
import grpc.aio

from glimpse.server.access.call_context import CallContext, current_call
from glimpse.server.classify_stream import ClassifyStream
from glimpse.server.domain import Classification
from glimpse.server.errors import InvalidRequestError, Reason, ServiceError
from glimpse.server.fields import Field, Names
from glimpse.server.grpc.call import caller_of
from glimpse.server.grpc.handlers import Gate
from glimpse.server.open_inference import descriptions, faces, inference
from glimpse.server.open_inference import open_inference_pb2 as pb
from glimpse.server.open_inference.inference import Asked
from glimpse.server.open_inference.messages import (
    NO_PARAMETERS,
    NO_TENSOR,
    InferRequest,
    InferResponse,
    InputTensor,
    Parameters,
    RequestedOutput,
)
from glimpse.server.open_inference.packed import small_numbers
from glimpse.server.repository.management import ModelManagement
from glimpse.server.service import Service

SERVICE_DESCRIPTOR = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
SERVICE = SERVICE_DESCRIPTOR.full_name
POOL = pb.DESCRIPTOR.pool
# Health checks: anybody may call them, as those of grpc.health.v1.
PROBES = frozenset({f"/{SERVICE}/ServerLive", f"/{SERVICE}/ServerReady"})
_RAW = "raw_input_contents"
_PARAMETER = "parameters['{}']"
_INFER = inference.names("model_name", "model_version", _PARAMETER)
_CONTENTS = {faces.BYTES: "bytes_contents", faces.UINT8: "uint_contents"}  # of a tensor of each type

Context = grpc.aio.ServicerContext[Any, Any]


def gates(service: Service) -> Mapping[str, Gate]:
    """What gives the calls of each method that classifies a place, before their messages are read."""
    return {f"/{SERVICE}/ModelInfer": service.place_for_call, f"/{SERVICE}/ModelStreamInfer": service.place_for_stream}


def names() -> Mapping[str, Names]:
    """What the messages of each method call the fields that errors are about."""
    told: Names = {Field.MODEL: "name", Field.VERSION: "version"}
    managed: Names = {Field.MODEL: "model_name"}
    by_method: dict[str, Names] = {
        **dict.fromkeys(("ModelInfer", "ModelStreamInfer"), _INFER),
        **dict.fromkeys(("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"), told),
        **dict.fromkeys(("RepositoryModelLoad", "RepositoryModelUnload"), managed),
    }
    return {f"/{SERVICE}/{method}": found for method, found in by_method.items()}


class OpenInference:
    """`inference.GRPCInferenceService`."""

    def __init__(self, service: Service, management: ModelManagement, *, max_images: int) -> None:
        """Serve `service`, whose requests may have `max_images`; models are loaded and unloaded by `management`."""
        self._service = service
        self._max_images = max_images
        self._management = management
        self._codec = _Codec(service)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Have a server answer the methods of the service."""
        handlers = {method.name: _handler(method, getattr(self, method.name)) for method in SERVICE_DESCRIPTOR.methods}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    async def ServerLive(self, _: pb.ServerLiveRequest, __: Context) -> pb.ServerLiveResponse:  # noqa: N802 - the protocol's name, as those below
        """Whether the process lives, and nothing in it hangs."""
        return pb.ServerLiveResponse(live=self._service.alive)

    async def ServerReady(self, _: pb.ServerReadyRequest, __: Context) -> pb.ServerReadyResponse:  # noqa: N802
        """Whether the server takes requests, as health checks tell it."""
        return pb.ServerReadyResponse(ready=self._service.ready)

    async def ModelReady(self, request: pb.ModelReadyRequest, _: Context) -> pb.ModelReadyResponse:  # noqa: N802
        """Whether a model takes requests."""
        return pb.ModelReadyResponse(ready=faces.is_ready(self._service, request.name, request.version))

    async def ServerMetadata(self, _: pb.ServerMetadataRequest, __: Context) -> pb.ServerMetadataResponse:  # noqa: N802
        """What the server is, and its extensions."""
        return descriptions.server()

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, _: Context) -> pb.ModelMetadataResponse:  # noqa: N802
        """The tensors of a model."""
        return descriptions.metadata(self._face(request.name, request.version), self._service)

    async def ModelConfig(self, request: pb.ModelConfigRequest, _: Context) -> pb.ModelConfigResponse:  # noqa: N802
        """The configuration of a model."""
        return descriptions.configuration(self._face(request.name, request.version), self._max_images)

    async def ModelStatistics(self, request: pb.ModelStatisticsRequest, _: Context) -> pb.ModelStatisticsResponse:  # noqa: N802
        """What a model has done, or all that are loaded."""
        found = [self._face(request.name, request.version)] if request.name else faces.loaded(self._service)
        counts = self._service.statistics
        return pb.ModelStatisticsResponse(
            model_stats=[descriptions.statistics(face, counts.of(face.model.identity)) for face in found]
        )

    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest, _: Context) -> pb.RepositoryIndexResponse:  # noqa: N802
        """All models with their states; for callers who may not manage models, those that answer."""
        managed = self._management.allowed(current_call.get())
        return descriptions.index(self._service.models(), ready=request.ready, managed=managed)

    async def RepositoryModelLoad(  # noqa: N802
        self, request: pb.RepositoryModelLoadRequest, _: Context
    ) -> pb.RepositoryModelLoadResponse:
        """Load the newest version of a model, for callers who may."""
        await self._management.load(current_call.get(), _named(request), "")
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(  # noqa: N802
        self, request: pb.RepositoryModelUnloadRequest, _: Context
    ) -> pb.RepositoryModelUnloadResponse:
        """Unload all versions of a model, for callers who may."""
        await self._management.unload(current_call.get(), _named(request), "")
        return pb.RepositoryModelUnloadResponse()

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:  # noqa: N802
        """Classify the photos, or the pixels, of one request."""
        call = current_call.get()
        asked = self._codec.request(request, call)
        answer = await self._service.classify(asked, call, caller_of(call, context))
        return await self._codec.response(asked, answer, call)

    async def ModelStreamInfer(self, requests: AsyncIterator[pb.ModelInferRequest], context: Context) -> None:  # noqa: N802
        """Classify without end: read while there is room, answer in the order of the requests."""
        call = current_call.get()
        await ClassifyStream(self._service, self._codec, call, caller_of(call, context), context.write).run(requests)

    def _face(self, name: str, version: str) -> faces.Face:
        return faces.find(self._service, name, version)


class _Codec:
    """Converts the messages of calls and of streams. Ids are for callers alone: they may be empty, or the same."""

    in_order = True

    def __init__(self, service: Service) -> None:
        self._service = service

    def request_id(self, message: pb.ModelInferRequest) -> str:
        return message.id

    def request(self, message: pb.ModelInferRequest, call: CallContext) -> Asked:
        return inference.asked(_plain(message), self._service, call)

    async def response(
        self, request: Asked, answer: Classification, call: CallContext, *, stream_id: str = ""
    ) -> pb.ModelInferResponse:
        response = _message(await inference.answered(request, answer, self._service, call))
        self._service.replied(answer, call, stream_id=stream_id)
        return response

    async def answer(
        self, request_id: str, request: Asked, answer: Classification, call: CallContext
    ) -> pb.ModelStreamInferResponse:
        response = await self.response(request, answer, call, stream_id=request_id)
        return pb.ModelStreamInferResponse(infer_response=response)

    def refusal(self, request_id: str, error: ServiceError) -> pb.ModelStreamInferResponse:
        response = pb.ModelStreamInferResponse(error_message=error.message)
        response.infer_response.id = request_id
        told = response.infer_response.parameters
        told["code"].string_param = error.code.name
        told["reason"].string_param = error.reason.value
        if field := _INFER.get(error.field, error.field):
            told["field"].string_param = field
        if error.retry_after is not None:
            told["retry_after_seconds"].double_param = error.retry_after
        return response


def _handler(method: Any, answer: Callable[..., Any]) -> grpc.RpcMethodHandler[Any, Any]:
    """The handler of a method of the service."""
    received, sent = getattr(pb, method.input_type.name), getattr(pb, method.output_type.name)
    make: Any = (
        grpc.stream_stream_rpc_method_handler if method.client_streaming else grpc.unary_unary_rpc_method_handler
    )
    handler: grpc.RpcMethodHandler[Any, Any] = make(answer, received.FromString, sent.SerializeToString)
    return handler


def _named(request: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest) -> str:
    """The model that a request names; KServe's file has it where Triton's has the repository."""
    return (request.model_name or request.repository_name).removesuffix(faces.SUFFIX)


def _plain(message: pb.ModelInferRequest) -> InferRequest:
    """A request as plain values.

    Raises:
        InvalidRequestError: expected; INVALID_TENSOR: there are contents twice, or for an input that there is not.
    """
    raw = message.raw_input_contents
    inputs = message.inputs
    if raw and len(raw) != len(inputs):
        raise _wrong(f"There must be as many entries as inputs, {len(inputs)}. Received: {len(raw)}.", _RAW)
    return InferRequest(
        model_name=message.model_name,
        model_version=message.model_version,
        id=message.id,
        parameters=_values(message.parameters),
        # One is all that a model takes: others are counted, not converted.
        inputs=[_tensor(each, raw[0] if raw else None) for each in inputs]
        if len(inputs) == 1
        else [NO_TENSOR] * len(inputs),
        outputs=[
            RequestedOutput(each.name, _values(each.parameters, f"outputs[{number}]."))
            for number, each in enumerate(message.outputs)
        ],
    )


_NO_ELEMENTS: Sequence[bytes] = ()


def _tensor(message: pb.ModelInferRequest.InferInputTensor, raw: bytes | None) -> InputTensor:
    where, contents, elements = f"{_RAW}[0]", message.contents, _NO_ELEMENTS
    if message.HasField("contents") and (present := contents.ListFields()):
        where = "inputs[0].contents"
        if raw is not None:
            raise _wrong(f"Where {_RAW} is used, no input may have contents. Send one of the two.", where)
        wanted = _CONTENTS.get(message.datatype)
        if wanted is None:  # no model takes it, which is told by its name
            return InputTensor(message.name, message.datatype, tuple(message.shape), None, (), where)
        for field, _ in present:
            if field.name != wanted:
                raise _wrong(
                    f"The contents of a tensor of {message.datatype} must be in {wanted}. Received: {field.name}.",
                    f"{where}.{field.name}",
                )
        where = f"{where}.{wanted}"
        if message.datatype == faces.BYTES:
            elements = contents.bytes_contents
        else:
            raw = small_numbers(contents.SerializeToString(), where)
    return InputTensor(
        message.name,
        message.datatype,
        tuple(message.shape),
        raw,
        elements,
        where,
        _values(message.parameters, "inputs[0]."),
    )


def _values(parameters: Mapping[str, pb.InferParameter], of: str = "") -> Parameters:
    """Parameters of the request, or of that part of it."""
    if not parameters:
        return NO_PARAMETERS
    values = {
        name: None if (kind := value.WhichOneof("parameter_choice")) is None else getattr(value, kind)
        for name, value in parameters.items()
    }
    return Parameters(values, of + _PARAMETER)


def _message(response: InferResponse) -> pb.ModelInferResponse:
    message = pb.ModelInferResponse(
        model_name=response.model_name, model_version=response.model_version, id=response.id
    )
    for name, value in response.parameters.items():
        message.parameters[name].string_param = value
    # Raw, always: several clients read nothing else, and some without looking whether it is there.
    for each in response.outputs:
        message.outputs.add(name=each.name, datatype=each.datatype, shape=each.shape)
        message.raw_output_contents.append(each.raw)
    return message


def _wrong(message: str, field: str) -> InvalidRequestError:
    return InvalidRequestError(Reason.INVALID_TENSOR, message, field=field)
