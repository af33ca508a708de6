"""A client made only from reflection, with no .proto at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_reflection.v1alpha import reflection_pb2

from tests.conftest import RunningServer
from tests.server.conftest import TIMEOUT

SERVICE = "glimpse.v1.ImageClassifier"


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_a_client_made_from_reflection_classifies_a_photo(server: RunningServer, cat_photo: Path, version: str) -> None:
    with grpc.insecure_channel(server.target) as channel:
        reflect = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )
        listing, files = reflect(
            iter(
                [
                    reflection_pb2.ServerReflectionRequest(list_services=""),
                    reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
                ]
            ),
            timeout=TIMEOUT,
        )
        names = {service.name for service in listing.list_services_response.service}
        assert {SERVICE, "grpc.health.v1.Health"} <= names

        # A pool of its own, so that nothing of the generated code can help.
        pool = descriptor_pool.DescriptorPool()
        for data in files.file_descriptor_response.file_descriptor_proto:
            pool.Add(descriptor_pb2.FileDescriptorProto.FromString(data))
        method = pool.FindServiceByName(SERVICE).FindMethodByName("Classify")
        request = message_factory.GetMessageClass(method.input_type)
        response = message_factory.GetMessageClass(method.output_type)
        classify = channel.unary_unary(f"/{SERVICE}/Classify", request.SerializeToString, response.FromString)
        answer: Any = classify(request(images=[{"encoded": cat_photo.read_bytes()}]), timeout=TIMEOUT)
        assert answer.results[0].predictions[0].label == "cat"
