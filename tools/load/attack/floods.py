"""Attacks by number: calls, resets and connections as fast as they can be made, and what they write into logs."""

from __future__ import annotations

from collections.abc import Sequence

from tools.load.attack.scenario import Scenario
from tools.load.attack.ways import BAD_TOKEN, CLASSIFY, DESCRIBE, REFLECTION, STREAM, calls, connect, flood, hoard

_REFUSALS = 4000
_NO_METHOD = "/glimpse.v1.ImageClassifier/X"
_LOGGED = 64 * _REFUSALS  # bytes: a fraction of a line for each

SCENARIOS: Sequence[Scenario] = (
    Scenario(
        "empty-call-flood",
        "a flood of calls without a message costs its sender",
        [
            flood("1 connection", "empty"),
            flood("3 connections", "empty", connections=3),
            flood("10 connections", "empty", connections=10),
            flood("10 connections of two addresses", "empty", connections=10, sources=2),
            flood("3 connections, headers of 8 kB", "empty", connections=3, headers=[["x-more", "x" * 8000]]),
            flood("10 connections, 200 a second each", "empty", connections=10, rate=200.0),
        ],
    ),
    Scenario(
        "reset-flood",
        "a flood of calls that are reset costs its sender",
        [
            flood("1 connection", "reset"),
            flood("3 connections", "reset", connections=3),
            flood("10 connections", "reset", connections=10),
            flood("whole calls, 3 connections", "left", connections=3),
            flood("streams, 3 connections", "reset", STREAM, connections=3),
            flood("10 connections, 200 a second each", "reset", connections=10, rate=200.0),
        ],
    ),
    Scenario(
        "unknown-methods",
        "calls of methods that there are not cost their sender",
        [
            flood("a service that there is not, 3 connections", "empty", "/a.b/C", connections=3),
            flood("a method that there is not, 10 connections", "empty", _NO_METHOD, connections=10),
            flood("a path of 8 kB, 3 connections", "empty", "/" + "x" * 8000, connections=3),
            flood("reset at once, 3 connections", "reset", "/a.b/C", connections=3),
        ],
    ),
    Scenario(
        "bad-token-flood",
        "refused strangers cost those with a token nothing",
        [
            flood("bad tokens, 3 connections", "empty", headers=BAD_TOKEN, connections=3),
            flood("no tokens, 3 connections, beside the neighbour", "empty", connections=3, beside=True),
            flood("tokens of 8 kB, 3 connections", "empty", headers=[["authorization", "Bearer " + "x" * 8000]],
                  connections=3),
            calls("photos with bad tokens, beside the neighbour", sent="photo", at_once=200, headers=BAD_TOKEN,
                  beside=True),
            flood("streams with bad tokens, 10 connections", "empty", STREAM, headers=BAD_TOKEN, connections=10),
        ],
        access="tokens",
    ),
    Scenario(
        "frame-flood",
        "frames that HTTP/2 allows at any time cost their sender",
        [
            flood(f"{frames}, 3 connections", frames, connections=3)
            for frames in ("pings", "settings", "priorities", "good-byes", "windows", "empty data", "padding")
        ],
    ),
    Scenario(
        "connection-storm",
        "connections that come and go cost their sender",
        [
            connect("silent ones", "silent", at_once=50),
            connect("greeted ones", "greeted", at_once=50),
            connect("reset within a call", "calling", at_once=50, reset=True),
            connect("half a greeting, reset", "half a greeting", at_once=50, reset=True),
        ],
        fresh=True,
    ),
    Scenario(
        "handshake-storm",
        "TLS that is never finished costs its sender",
        [
            connect("hellos, left after the answer", "hello", at_once=50, rounds=10),
            connect("hellos, reset", "hello", at_once=50, rounds=3, reset=True),
            connect("records of no meaning", "records", at_once=50),
            hoard("900 halves of a hello", "half a hello", connections=900),
        ],
        access="tls",
    ),
    Scenario(
        "connection-hoard",
        "nobody takes all connections",
        [
            hoard("1,100 silent ones", "silent", connections=1100),
            hoard("1,100 greeted ones", "greeted", connections=1100),
            hoard("1,100 with a silent call", "calling", connections=1100),
            hoard("1,100 of which a header comes byte by byte", "greeted", connections=1100, drip=True),
        ],
        fresh=True,
    ),
    Scenario(
        "describe-flood",
        "questions are as dear as other calls",
        [
            calls("1 connection", DESCRIBE, "nothing", at_once=100),
            calls("10 connections", DESCRIBE, "nothing", connections=10, at_once=50),
            calls("10 connections, reset after 5 ms", DESCRIBE, "nothing", connections=10, at_once=50, leave=0.005),
            calls("reflection, 10 connections", REFLECTION, "list of services", connections=10, at_once=20),
        ],
    ),
    Scenario(
        "refusal-log",
        "refused calls do not fill the log",
        [
            calls("bad tokens", at_once=100, headers=BAD_TOKEN, count=_REFUSALS, rate=1333.0),
            calls("bad tokens and long ids", at_once=100, headers=[*BAD_TOKEN, ["x-request-id", "x" * 128]],
                  count=_REFUSALS, rate=1333.0),
            calls("no token, streams", STREAM, at_once=100, count=_REFUSALS, rate=1333.0),
            calls("no token, of three addresses", CLASSIFY, connections=3, at_once=40, sources=3, count=_REFUSALS,
                  rate=1333.0),
        ],
        access="tokens",
        logged=_LOGGED,
    ),
    Scenario(
        "broken-call-log",
        "broken calls do not fill the log",
        [
            calls("no message", sent="no message", at_once=100, count=_REFUSALS, rate=1333.0),
            calls("no image", sent="nothing", at_once=100, count=_REFUSALS, rate=1333.0),
            calls("a method that there is not", "/a.b/C", at_once=100, count=_REFUSALS, rate=1333.0),
            calls("20,000 empty pieces of a stream, 5 bytes each", STREAM, "empty pieces", end=False),
            calls("a stream of no messages", STREAM, "no message", at_once=100, count=_REFUSALS, rate=1333.0),
        ],
        logged=_LOGGED,
    ),
)  # fmt: skip
