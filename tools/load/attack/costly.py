"""Attacks by what is expensive to work on, or to keep: pictures, messages, calls that stay open."""

from __future__ import annotations

from collections.abc import Sequence

from glimpse.server.settings import Settings
from tools.load.attack.scenario import MB, Scenario
from tools.load.attack.ways import BAD_TOKEN, CHECK, DESCRIBE, REFLECTION, STREAM, WATCH, calls, silent

_ALMOST = "16 MiB but for a byte"
_DEADLINE = [["grpc-timeout", "20m"]]


def _receiving() -> float:
    """MB that messages may take while they are being received."""
    return float(Settings.model_fields["max_receiving_bytes"].default) / MB


SCENARIOS: Sequence[Scenario] = (
    Scenario(
        "progressive-scans-hidden",
        "what is read of a JPEG and what its decoder reads agree",
        [
            calls("packed, left after 2 s", sent="hidden scans", packed=True, at_once=2, leave=2.0, pause=0.1),
            calls("hidden by many markers", sent="scans hidden by many markers", at_once=4, pause=0.1),
            calls("behind false ends", sent="scans behind the end", at_once=4, pause=0.1),
            calls("between tables and restarts", sent="scans between tables", at_once=4, pause=0.1),
            calls("11 MB in 35 kB", sent="hidden scans of 11 MB", packed=True, at_once=1, pause=0.5),
        ],
        grown=500,
    ),
    Scenario(
        "heavy-images",
        "cost is what is admitted: no caller within the limits starves another",
        [
            calls("25 megapixels in 34 bytes, 8 at once", sent="25 megapixels", at_once=8, pause=0.01),
            calls("64 of them in a request", sent="64 large images", at_once=2, pause=0.05),
            calls("JPEG of 12 megapixels, 24 at once", sent="12 megapixels", at_once=24, pause=0.01),
            calls("progressive JPEG of 32 scans", sent="32 scans of 25 megapixels", at_once=8, pause=0.01),
            calls("64 small images in a request", sent="64 images", at_once=8, pause=0.01),
            calls("64 files that are no images", sent="64 no images", at_once=8, pause=0.01),
            calls("63 broken images and a good one", sent="63 duds", at_once=8, pause=0.01),
            calls("a stream with a full window of 25 megapixels", STREAM, "pieces of 25 megapixels", end=False),
            calls("16 streams with a full window of photos", STREAM, "pieces of photos", at_once=16, pause=0.01),
            calls("raw pixels, 16 MB each", sent="raw pixels", at_once=8, pause=0.01),
        ],
        grown=600,
    ),
    Scenario(
        "lanes-by-name",
        "nobody gets more by calling themselves by many names, or by another's",
        [
            silent("256 silent calls, 256 names", at_once=256, names=256),
            silent("64 silent streams, 64 names", STREAM, at_once=64, names=64, streamed=True),
            calls("25 megapixels in 60 names", sent="25 megapixels", at_once=60, names=60, pause=0.05),
            silent("256 silent calls in the neighbour's name", at_once=256, name="alice"),
        ],
        name_of_neighbour="alice",
        grown=600,
    ),
    Scenario(
        "silent-health",
        "who has no token cannot stand in the way of who has one",
        [
            silent("silent checks", CHECK, at_once=100, connections=2, sources=2),
            silent("silent reflection", REFLECTION, at_once=200, beside=True),
            silent("silent descriptions", DESCRIBE, at_once=200),
            silent("silent calls with a bad token", at_once=200, headers=BAD_TOKEN, beside=True),
            silent("silent watches", WATCH, at_once=100, connections=4, sources=2),
        ],
        access="tokens",
    ),
    Scenario(
        "unfinished-uploads",
        "bytes count from the first one",
        [
            calls("64 on connections of their own", sent=_ALMOST, connections=64, end=False, pause=0.5),
            calls("64 streams on connections of their own", STREAM, _ALMOST, connections=64, end=False, pause=0.5),
            calls("128 on one connection", sent=_ALMOST, at_once=128, end=False, pause=0.5),
            calls(
                "64 halves, then byte by byte", sent="8 of 16 MiB", connections=8, at_once=8, end=False, trickle=True
            ),
            calls("64 packed ones of 16 MiB", STREAM, "16 MiB of zeros", connections=16, at_once=4, packed=True),
        ],
        grown=_receiving() + 150,
    ),
    Scenario(
        "health-watches",
        "watches are bounded",
        [
            calls("3,000 on 3 connections", WATCH, "nothing", connections=3, at_once=1000, pause=0.05),
            calls("3,000 on 100 connections", WATCH, "nothing", connections=100, at_once=30, pause=0.05),
            calls("3,000 of two addresses", WATCH, "nothing", connections=4, at_once=750, pause=0.05, sources=2),
            calls("3,000 whose answers are not read", WATCH, "nothing", connections=3, at_once=1000, window=0),
        ],
        grown=40,
        kept=40,
    ),
    Scenario(
        "dear-messages",
        "a message costs what it weighs, whatever is in it",
        [
            calls("half a million empty images, packed", sent="half a million empty images", packed=True, pause=0.05),
            calls("two million empty images", sent="two million empty images", pause=0.05),
            calls("unknown fields, nested", sent="unknown fields", at_once=4, pause=0.01),
            calls("empty pieces of a stream", STREAM, "empty pieces", at_once=4, pause=0.01),
        ],
        grown=500,
    ),
    Scenario(
        "hasty-callers",
        "work for callers who have gone is not done, and costs nobody their turn",
        [
            calls("12 megapixels, deadlines of 20 ms", sent="12 megapixels", at_once=8, headers=_DEADLINE, pause=0.01),
            calls("25 megapixels, left after 20 ms", sent="25 megapixels", at_once=8, leave=0.02, pause=0.01),
            calls("photos, left after 3 ms", sent="photo", at_once=16, leave=0.003),
            calls("streams left amid their pieces", STREAM, "pieces of photos", at_once=8, leave=0.1),
        ],
        grown=600,
    ),
    Scenario(
        "unread-answers",
        "who reads no answers holds no more than their own calls",
        [
            calls("calls without a window", sent="photo", at_once=200, window=0, leave=3.0),
            calls(
                "a stream of photos without a window", STREAM, "pieces of photos", at_once=16, window=0, streamed=True
            ),
            calls("a connection that is never read", sent="photo", connections=8, at_once=100, reads=False),
            calls(
                "descriptions without a window", DESCRIBE, "nothing", connections=10, at_once=500, window=0, rate=600.0
            ),
            calls("refusals without a window", sent="64 no images", connections=10, at_once=500, window=0, rate=600.0),
        ],
    ),
)
