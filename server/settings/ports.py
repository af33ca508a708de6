"""Settings of where a server listens, and of what it answers there."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings

from glimpse.server.settings.kinds import Port


class PortSettings(BaseSettings):
    """Part of `server.settings.Settings`."""

    host: str = Field(
        "0.0.0.0",  # noqa: S104 - a server in a container is reached from outside
        description="Address to listen on for gRPC, HTTP, health checks and metrics. 0.0.0.0 means all IPv4 addresses.",
    )
    port: Port = Field(50051, description="Port of the gRPC service. 0 takes any free port; the log says which.")
    unix_socket: Path | None = Field(
        None,
        description="Path of a Unix domain socket on which the gRPC service listens in addition to host and port. "
        "Clients call it as unix:PATH; all of them count as one caller unless they have tokens or certificates.",
    )
    http_port: Port | None = Field(
        None,
        description="Port of HTTP/JSON: the Open Inference Protocol (/v2), /v1/models/NAME:predict, /classify, and a "
        "page in the browser. It has the same access control and limits as the gRPC port. 0 takes any free port; the "
        "log says which. Without it, there is none.",
    )
    metrics_port: Port = Field(
        9464, description="Port of the Prometheus endpoint /metrics. 0 takes any free port; the log says which."
    )
    health_port: Port | None = Field(
        None,
        description="Port of a second gRPC server, without TLS, that answers health checks alone, for probes "
        "that do not speak TLS. Without it, there is none.",
    )
    open_inference: bool = Field(
        default=True,
        description="Answer the Open Inference Protocol (inference.GRPCInferenceService) on the gRPC port, for clients "
        "of Triton and KServe, and under /v2 on the HTTP port. The same access control and limits hold for it. "
        "ServerLive and ServerReady belong to it over gRPC; /v2/health over HTTP follows GLIMPSE_SERVE_HEALTH.",
    )
    serve_health: bool = Field(
        default=True,
        description="Answer health checks: grpc.health.v1 on the gRPC port, /v2/health on the HTTP port.",
    )
    serve_page: bool = Field(
        default=True, description="Answer / and /docs on the HTTP port: a page to try a photo, and one about the API."
    )
    serve_reflection: bool = Field(
        default=True, description="Answer gRPC server reflection, which tools such as grpcurl use."
    )
    serve_metrics: bool = Field(default=True, description="Answer /metrics on the metrics port.")

    @property
    def ports(self) -> dict[str, int]:
        """The TCP ports to listen on, by the variable that sets each; 0 stands for any that is free."""
        found = {
            "GLIMPSE_PORT": self.port,
            "GLIMPSE_HTTP_PORT": self.http_port,
            "GLIMPSE_METRICS_PORT": self.metrics_port if self.serve_metrics else None,
            "GLIMPSE_HEALTH_PORT": self.health_port,
        }
        return {name: port for name, port in found.items() if port is not None}

    @model_validator(mode="after")
    def _differ(self) -> Self:
        named: dict[int, str] = {}
        for name, port in self.ports.items():
            setting = name.removeprefix("GLIMPSE_").lower()
            if port and (other := named.setdefault(port, setting)) != setting:
                raise ValueError(f"{other} and {setting} must be different ports. Received: {port} for both")
        return self
