"""The limits of connections and messages, as the arguments in which gRPC takes them."""

from __future__ import annotations

import math

from glimpse.server.floods.traffic import AHEAD
from glimpse.server.settings import Settings

# Calls: four times what may be in flight by default, and more than one connection leaves behind with a thousand that it
# resets at once; refused within about a second.
_PENDING = 1024


def of_messages(most: int) -> list[tuple[str, int]]:
    """How many bytes one message may have, either way."""
    return [("grpc.max_receive_message_length", most), ("grpc.max_send_message_length", most)]


def of_connections(settings: Settings, *, shares_port: bool = False) -> list[tuple[str, int]]:
    """What gRPC itself holds connections to."""
    options = [
        # It would let a second server start silently on the same port.
        ("grpc.so_reuseport", int(shares_port)),
        # Else gRPC lets a sender who seems fast and far away send megabytes of every call at once, read or not: 7 GB of
        # 4000 calls. A message that is read is granted whole in any case, so nobody's uploads become slower.
        ("grpc.http2.bdp_probe", 0),
        # Instead, so much of what is not read yet. With HTTP/2's own 64 kB, a stream of photos waits for its grants.
        ("grpc.http2.lookahead_bytes", AHEAD),
        # A frame may be as long as that, so that a message comes in fewer of them: HTTP/2's own 16 kB cost both sides a
        # tenth more with images of 150 kB. gRPC keeps nothing of a frame that it would not keep of several.
        ("grpc.http2.max_frame_size", AHEAD),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.max_concurrent_streams", settings.max_calls_per_connection),
        # Else gRPC counts a call as open until it has been freed, a few turns of the event loop after its caller has
        # seen it end and sent the next, and resets that one: UNAVAILABLE without a word, to whoever sends fast. What
        # has come and not been taken is bounded by the next two.
        ("grpc.http.overload_protection", 0),
        # Calls that our event loop has not come round to, in each queue. In a flood beyond what it can even refuse by
        # name, gRPC ends the rest with a bare CANCELLED, at once: else all would wait, and among them those that could
        # be answered.
        ("grpc.server.max_pending_requests", _PENDING),
        ("grpc.server.max_pending_requests_hard_limit", 2 * _PENDING),
        # Between the two limits gRPC would refuse at random.
        ("grpc.max_metadata_size", settings.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_metadata_bytes),
        ("grpc.server_handshake_timeout_ms", _milliseconds(settings.handshake_seconds)),
        # The limit of headers binds a client only once it has acknowledged it.
        ("grpc.http2.settings_timeout", _milliseconds(settings.handshake_seconds)),
        ("grpc.keepalive_time_ms", _milliseconds(settings.keepalive_seconds)),
        ("grpc.keepalive_timeout_ms", _milliseconds(settings.keepalive_timeout_seconds)),
        # The former alone closes nothing: a ping has a time-out of its own, a minute unless told otherwise.
        ("grpc.http2.ping_timeout_ms", _milliseconds(settings.keepalive_timeout_seconds)),
        # For both sides: without it, a client without calls may ping every two hours, whatever the next line says.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _milliseconds(settings.min_ping_seconds)),
    ]
    if settings.max_connection_idle_seconds:
        options.append(("grpc.max_connection_idle_ms", _milliseconds(settings.max_connection_idle_seconds)))
    if settings.max_connection_age_seconds:
        options.append(("grpc.max_connection_age_ms", _milliseconds(settings.max_connection_age_seconds)))
        # What is in flight on an old connection has as long to end as in a drain.
        options.append(("grpc.max_connection_age_grace_ms", _milliseconds(settings.drain_seconds)))
    return options


def _milliseconds(seconds: float) -> int:
    """For gRPC: at least 1, and no more than it can hold, which is 24 days."""
    return min(max(1, math.ceil(seconds * 1000)), 2**31 - 1)
