"""Rights that are taken away: how long a caller goes on who has lost them."""

from __future__ import annotations

import itertools
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc

from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.server.access.authority import Authority
from tools.bench import photos
from tools.load.attack.run import (
    IDENTITY,
    TOKEN,
    Effort,
    Finding,
    Trial,
    Workers,
    judge,
    write_tokens,
)
from tools.load.attack.scenario import Attack, Scenario
from tools.load.replica import Replica

RELOAD = 1.0  # seconds: the server's setting
BOUND = 2 * RELOAD + 2.0  # seconds in which a right has to end: a look at the files, and time to act on it
LEAVER, LEAVERS_TOKEN = "leaver", "token-that-is-taken-away"
_EVERY = 0.2  # seconds from a picture to the next

SCENARIO = Scenario(
    "taken-rights",
    "a right that is taken ends",
    [
        Attack("token removed, a stream that sends", "stream", {"taken": "removed", "every": _EVERY}),
        Attack("token removed, a silent stream", "stream", {"taken": "removed", "every": 0.0}),
        Attack("token expired, a stream that sends", "stream", {"taken": "expired", "every": _EVERY}),
        Attack("token removed, calls on an open connection", "calls", {"taken": "removed", "every": _EVERY}),
        Attack("authority rotated, calls on an open connection", "calls", {"taken": "authority", "every": _EVERY}),
        Attack("authority rotated, a stream that sends", "stream", {"taken": "authority", "every": _EVERY}),
    ],
    access="tokens",
)


class _Credentials:
    """What a server knows its callers by, and how that is taken from one of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = {"GLIMPSE_RELOAD_SECONDS": str(RELOAD), "GLIMPSE_AUDIT_LOG": str(folder / "audit.log")}

    def neighbour(self) -> dict[str, Any]:
        """Arguments of the neighbour, who keeps everything."""
        raise NotImplementedError

    def channel(self, target: str) -> grpc.Channel:
        """A connection of the caller who will lose the right."""
        raise NotImplementedError

    def take(self) -> float:
        """Take the right away; how many seconds from now it ends."""
        raise NotImplementedError


class _Tokens(_Credentials):
    def __init__(self, folder: Path, *, expires: bool) -> None:
        super().__init__(folder)
        self._expires = expires
        self._both = {IDENTITY: TOKEN, LEAVER: LEAVERS_TOKEN}
        self._file = write_tokens(folder / "tokens.toml", self._both)
        self.settings["GLIMPSE_TOKENS"] = str(self._file)

    def neighbour(self) -> dict[str, Any]:
        return {"metadata": [["authorization", f"Bearer {TOKEN}"]]}

    def channel(self, target: str) -> grpc.Channel:
        return grpc.insecure_channel(target)

    def take(self) -> float:
        if self._expires:
            expires = datetime.now(UTC) + timedelta(seconds=RELOAD)
            write_tokens(self._file, self._both, {LEAVER: expires.strftime("%Y-%m-%dT%H:%M:%S.%fZ")})
            return RELOAD
        write_tokens(self._file, {IDENTITY: TOKEN})
        return 0.0


class _Certificates(_Credentials):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._new, old = Authority("new"), Authority("old")
        self._trusted, self._root = folder / "authorities.pem", folder / "new.pem"
        self._trusted.write_bytes(old.pem + self._new.pem)
        self._root.write_bytes(self._new.pem)
        self._pair = self._new.client(IDENTITY).write(folder / "neighbour")
        self._leavers = old.client(LEAVER)
        certificate, key = self._new.server().write(folder / "server")
        self.settings |= {
            "GLIMPSE_TLS_CERTIFICATE": str(certificate),
            "GLIMPSE_TLS_KEY": str(key),
            "GLIMPSE_TLS_CLIENT_CA": str(self._trusted),
        }

    def neighbour(self) -> dict[str, Any]:
        return {"metadata": [], "authority": str(self._root), "pair": [str(file) for file in self._pair]}

    def channel(self, target: str) -> grpc.Channel:
        own = grpc.ssl_channel_credentials(self._new.pem, self._leavers.key, self._leavers.certificate)
        return grpc.secure_channel(target, own)

    def take(self) -> float:
        rotated = self.folder / "rotated.pem"
        rotated.write_bytes(self._new.pem)
        rotated.replace(self._trusted)
        return 0.0


def play(number: int, workers: Workers, effort: Effort, environment: Mapping[str, str]) -> Finding:
    """Take a right away from one caller while a neighbour keeps theirs; a server of its own."""
    attack = SCENARIO.attacks[number]
    kind = attack.arguments["taken"]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        held = _Certificates(folder) if kind == "authority" else _Tokens(folder, expires=kind == "expired")
        replica = stack.enter_context(Replica(environment=held.settings | dict(environment)))
        trial = Trial(SCENARIO, number, replica, folder, workers, effort)
        channel = stack.enter_context(held.channel(replica.target))
        leaver = _Leaver(channel, attack.job, attack.arguments["every"])
        limit = BOUND + effort.patience

        def act() -> dict[str, Any]:
            leaver.begin()
            time.sleep(min(1.0, effort.seconds))
            began = time.monotonic()
            moment = began + held.take()
            seconds = leaver.wait(moment, limit)
            return {
                "began": began,
                "ended": time.monotonic(),
                "cpu": 0.0,
                "calls": leaver.sent,
                "connections": 1,
                "endings": {leaver.ending: 1},
                "seconds": seconds,
            }

        finding = trial.measured({"target": replica.target, **held.neighbour()}, "127.0.0.1", act)
    seconds = finding.attacker["seconds"]
    if seconds is None or seconds > BOUND:
        long = f"not within {limit:.0f} s" if seconds is None else f"after {seconds:.1f} s"
        finding.broken.append(f"it ended {long}; {BOUND:.0f} s are allowed")
    judge(finding, SCENARIO)
    return finding


class _Leaver:
    """A caller with a right that will be taken."""

    def __init__(self, channel: grpc.Channel, way: str, every: float) -> None:
        self._stub = ImageClassifierStub(channel)
        # Passed over where certificates are wanted.
        self._metadata: tuple[tuple[str, str | bytes], ...] = (("authorization", f"Bearer {LEAVERS_TOKEN}"),)
        self._request = pb.ClassifyRequest(images=[pb.Image(encoded=photos.jpegs(1)[0])])
        self._every, self._over = every, threading.Event()
        self._ended: float | None = None
        self._thread = threading.Thread(target=self._call if way == "calls" else self._stream, daemon=True)
        self.sent = 0
        self.ending = "went on"
        self._leave: Callable[[], object] = self._over.set

    def begin(self) -> None:
        self._thread.start()

    def wait(self, moment: float, seconds: float) -> float | None:
        """Seconds from `moment` until it was ended; None: it was not."""
        self._thread.join(max(0.0, moment + seconds - time.monotonic()))
        ended = self._ended
        self._over.set()
        self._leave()
        self._thread.join(5.0)
        return None if ended is None else max(0.0, ended - moment)

    def _call(self) -> None:
        while not self._over.wait(self._every):
            self.sent += 1
            try:
                self._stub.Classify(self._request, metadata=self._metadata, timeout=20)
            except grpc.RpcError as error:
                self._end(error)
                return

    def _stream(self) -> None:
        def pieces() -> Iterator[pb.ClassifyStreamRequest]:
            for number in itertools.count():
                self.sent += 1
                yield pb.ClassifyStreamRequest(id=str(number), request=self._request)
                if self._over.wait(self._every or 3600.0):
                    return

        call = self._stub.ClassifyStream(pieces(), metadata=self._metadata)
        self._leave = call.cancel
        try:
            deque(call, maxlen=0)  # all answers, of which none is looked at
        except grpc.RpcError as error:
            self._end(error)

    def _end(self, error: grpc.RpcError) -> None:
        if not self._over.is_set():
            self._ended = time.monotonic()
            self.ending = error.code().name if isinstance(error, grpc.Call) else "failed"
        self._over.set()
