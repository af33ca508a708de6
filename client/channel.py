"""How the channel to a server behaves, as one set of options for every kind of client."""

from __future__ import annotations

import json
from typing import Any

from glimpse.client.addresses import DEFAULT_PORT

SERVICE = "glimpse.v1.ImageClassifier"
DEFAULT_TARGET = f"localhost:{DEFAULT_PORT}"
DEFAULT_TIMEOUT = 60.0  # seconds
LONGEST_TIMEOUT = 365 * 86_400.0  # seconds: what is meant where somebody wants none, and few clocks can add up infinity
# gRPC's default of 4 MiB refuses many a phone's photo. The server's default limit is the same.
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
LEAST_MESSAGE_BYTES = 1024 * 1024
MOST_MESSAGE_BYTES = 2**31 - 1  # gRPC has no larger number for it

_RETRIES: dict[str, Any] = {
    "maxAttempts": 5,  # gRPC allows no more
    # Calls that a dying server takes with it are repeated after 0.1 seconds on another one; where nobody
    # answers at all, it takes 1.5 seconds to say so. One that has answered before is given longer, by `client.calls`.
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    # A full queue is RESOURCE_EXHAUSTED. The server says with `grpc-retry-pushback-ms` when to come back,
    # and gRPC waits for as long as that instead of the backoff above. Lone calls have a policy without
    # it: `client.calls` repeats those, for the hint of one call has to hold back the others.
    # A server that shuts down ends calls that it has not come round to with CANCELLED. Of a call that the
    # caller cancelled nothing is left to be repeated.
    "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"],
}
_SERVICE_CONFIG: dict[str, Any] = {
    "loadBalancingConfig": [{"round_robin": {}}],
    # gRPC watches the health of each address and takes one out of the turns while it says NOT_SERVING: as it loads,
    # and as it announces that it will go. A server without that service counts as healthy.
    "healthCheckConfig": {"serviceName": SERVICE},
    "methodConfig": [
        # A method of its own, to have no policy: a retry would keep all that was sent, and `client.bulk` knows better
        # what is unanswered.
        {"name": [{"service": SERVICE, "method": "ClassifyStream"}]},
        {
            "name": [{"service": SERVICE}],
            "retryPolicy": _RETRIES,
        },
    ],
    # No `retryThrottling`: it stops retries after many failures in a row, which is what the end of a busy replica looks
    # like. Servers that are full hold us back by the hint above.
}


_CALLS: dict[str, Any] = {
    "name": [{"service": SERVICE, "method": "Classify"}, {"service": SERVICE, "method": "DescribeModel"}],
    "retryPolicy": {**_RETRIES, "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"]},
}


def options(
    *,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    server_name: str = "",
    all_servers: bool = False,
    repeat_all: bool = False,
    through_proxy: bool = True,
) -> list[tuple[str, int | str]]:
    """Channel arguments for `grpc.insecure_channel` and its kin.

    Args:
        max_message_bytes: of a request or a response.
        repeat_all: whether gRPC repeats lone calls that the server has no room for, too.
        server_name: that the certificate must have; the target's own when empty.
        all_servers: whether to call servers that are not serving, too.
        through_proxy: whether to go through the proxy that the environment names, where it names one.
    """
    methods = [*_SERVICE_CONFIG["methodConfig"], *([] if repeat_all else [_CALLS])]
    chosen: list[tuple[str, int | str]] = [
        ("grpc.service_config", json.dumps({**_SERVICE_CONFIG, "methodConfig": methods})),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        # Retries need the request kept: the default of 256 KiB would silently rule them out for photos.
        ("grpc.per_rpc_retry_buffer_size", max_message_bytes),
        # A machine that vanished without a word is noticed after 55 seconds, so that a call can go to another one
        # within the default timeout of 60. The server sends away who pings more often than every 30 seconds. The watch
        # of its health is a call without end, so this also keeps an idle connection open through gateways.
        ("grpc.keepalive_time_ms", 45_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # gRPC would wait for up to 2 minutes before it looks again for a server that was away, and 30 seconds before it
        # asks for addresses again: in a rolling restart the next replica goes long before.
        ("grpc.max_reconnect_backoff_ms", 3_000),
        ("grpc.dns_min_time_between_resolutions_ms", 5_000),
    ]
    if server_name:
        chosen.append(("grpc.ssl_target_name_override", server_name))
    if not through_proxy:
        chosen.append(("grpc.enable_http_proxy", 0))
    if all_servers:
        chosen.append(("grpc.inhibit_health_checking", 1))
    return chosen
