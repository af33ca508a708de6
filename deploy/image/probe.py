"""Ask the server in this container how it is. Exit code 0: it is SERVING; 1: it is not; the reason is on stderr.

For the HEALTHCHECK of the image, and for people. Kubernetes asks by itself, in the same protocol.
"""  # noqa: INP001 - a script, not a package

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVICE = "glimpse.v1.ImageClassifier"
_ANYWHERE = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - the server's own settings


def default_target(environment: Mapping[str, str]) -> str:
    """Where the server answers health checks, by its variables: on the port for them, where there is one."""
    host = environment.get("GLIMPSE_HOST", "")
    if host in _ANYWHERE:
        host = "127.0.0.1"
    port = environment.get("GLIMPSE_HEALTH_PORT") or environment.get("GLIMPSE_PORT") or "50051"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def hint(environment: Mapping[str, str]) -> str:
    """What to do where nobody answers."""
    if environment.get("GLIMPSE_TLS_CERTIFICATE") and not environment.get("GLIMPSE_HEALTH_PORT"):
        return " The port speaks TLS: set GLIMPSE_HEALTH_PORT, on which health checks are answered without."
    return ""


def main() -> int:
    """Ask once."""
    parser = argparse.ArgumentParser(description="Ask a Glimpse server over gRPC whether it is SERVING.")
    parser.add_argument(
        "--target",
        default=default_target(os.environ),
        help="where it listens; default: here, on GLIMPSE_HEALTH_PORT, else on GLIMPSE_PORT",
    )
    parser.add_argument("--service", default=SERVICE, help="full name; empty: the process as a whole")
    parser.add_argument("--timeout", type=float, default=3.0, help="seconds")
    options = parser.parse_args()
    # A proxy of the environment is for the world outside.
    with grpc.insecure_channel(options.target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=options.service), timeout=options.timeout
            )
        except grpc.RpcError as error:
            why = f"{error.code().name}: {error.details()}"
            sys.stderr.write(f"{options.target} does not answer: {why}.{hint(os.environ)}\n")
            return 1
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    sys.stderr.write(f"{options.target} is {status}\n")
    return 0 if status == "SERVING" else 1


if __name__ == "__main__":
    sys.exit(main())
