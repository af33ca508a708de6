"""How the channel to a server behaves, as one set of options for every kind of client."""

from __future__ import annotations

import json

SERVICE = "glimpse.v1.ImageClassifier"
DEFAULT_TARGET = "localhost:50051"
# gRPC's default of 4 MiB refuses many a phone's photo. The server's default limit is the same.
MAX_MESSAGE_BYTES = 16 * 1024 * 1024

_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": SERVICE}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                # A full queue is RESOURCE_EXHAUSTED. The server says with `grpc-retry-pushback-ms` when to come back,
                # and gRPC waits for as long as that instead of the backoff above.
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
            },
        }
    ],
}


def options() -> list[tuple[str, int | str]]:
    """Channel arguments for `grpc.insecure_channel` and its kin."""
    return [
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        # Retries need the request kept: the default of 256 KiB would silently rule them out for photos.
        ("grpc.per_rpc_retry_buffer_size", MAX_MESSAGE_BYTES),
        # Servers close a connection that is pinged more than once in 5 minutes, so stay clear of it.
        ("grpc.keepalive_time_ms", 330_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]
