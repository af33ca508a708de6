"""`grpc.reflection`: the contract for tools that have no .proto at hand, as v1alpha and as v1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2_grpc import add_ServerReflectionServicer_to_server

_V1 = "grpc.reflection.v1"
_V1ALPHA = "grpc.reflection.v1alpha"
_SERVICE = f"{_V1}.ServerReflection"

T = TypeVar("T")


class _Pools:
    """Several pools as one, as far as reflection asks: what a pool does not know, the next one is asked for."""

    def __init__(self, *pools: DescriptorPool) -> None:
        self._pools = pools

    def __getattr__(self, name: str) -> Callable[..., Any]:
        methods = [getattr(pool, name) for pool in self._pools]

        def find(*arguments: Any) -> Any:
            for method in methods[:-1]:
                try:
                    return method(*arguments)
                except KeyError:
                    continue
            return methods[-1](*arguments)

        return find


def add_to(server: grpc.aio.Server, services: Sequence[str], *pools: DescriptorPool) -> None:
    """Let `server` describe `services` and reflection itself; `pools` are those that know them besides the default.

    The library brings v1alpha. The messages of v1 are the same on the wire, only under another package's name.
    """
    _describe_v1()
    servicer = reflection.aio.ReflectionServicer(
        service_names=(*services, reflection.SERVICE_NAME, _SERVICE), pool=_Pools(descriptor_pool.Default(), *pools)
    )
    add_ServerReflectionServicer_to_server(servicer, server)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    generic = grpc.method_handlers_generic_handler(_SERVICE, {"ServerReflectionInfo": handler})
    server.add_generic_rpc_handlers((generic,))


@cache  # once in a process: a pool takes no file twice
def _describe_v1() -> None:
    """Put the descriptor of v1 into the pool: a tool that lists the methods of all services asks for it, too."""
    file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    file.name, file.package = "grpc/reflection/v1/reflection.proto", _V1
    for message in file.message_type:
        for field in message.field:
            if field.type_name:  # an empty one that is set would make a message of a plain field
                field.type_name = _renamed(field.type_name)
    for service in file.service:
        for method in service.method:
            method.input_type, method.output_type = _renamed(method.input_type), _renamed(method.output_type)
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())


def _renamed(name: str) -> str:
    return name.replace(f".{_V1ALPHA}.", f".{_V1}.")
