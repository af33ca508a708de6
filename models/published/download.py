"""Bringing one large file over HTTP, on networks that stall, truncate and break off.

The standard library's client is enough: it streams, times out, follows the environment's proxies and trusts the
system's authorities; which redirects are followed is ours to say in any case.
"""

from __future__ import annotations

import errno
import http.client
import ipaddress
import logging
import os
import random
import re
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import closing
from io import FileIO
from pathlib import Path
from typing import IO

from glimpse.models import bounded_files
from glimpse.models.published.pace import FetchError, Pace, Policy, TryAgainError, opener
from glimpse.models.published.writing import to_add, write_whole

_log = logging.getLogger(__name__)

_CHUNK = 1 << 20
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})  # statuses that another attempt may not meet again
_LONGEST_ETAG = 1_000  # characters
_PATIENCE = 60.0  # seconds; a server that asks for more is asked again sooner

Report = Callable[[int, int | None], None]  # is told (bytes that are there, bytes of the whole or None)


def download(url: str, part: Path, report: Report, policy: Policy) -> None:
    """Bring the file at `url` into `part`; what an earlier call has left there is gone on with.

    It is gone on with only where the server says by its ETag that it still has the same file; the ETag lies beside it.

    Raises:
        FetchError: the file cannot be had, is too large or takes too long, or cannot be written. What has come is kept
            for another call.
    """
    _refuse_insecure(url)
    failures, pace = 0, Pace(url, policy, _size(part))
    while True:
        try:
            pace.attempt()
            return _attempt(url, part, report, policy, pace)
        except TryAgainError as error:
            # A byte now and then is no progress: what counts is the least rate, with the pauses.
            failures = 0 if pace.grew(_size(part)) else failures + 1
            if failures >= policy.attempts:
                raise FetchError(f"{url} cannot be fetched: {error}.") from error
            _log.warning("%s: %s; trying again", url, error)
            # Spread, so that many who lost the same server do not come back at the same moment.
            pause = policy.backoff * 2 ** max(failures - 1, 0) * random.uniform(0.5, 1.5)
            time.sleep(max(pause, min(error.wait, _PATIENCE)))


def forget(part: Path) -> None:
    """Delete what a download has left, so that the next begins anew."""
    part.unlink(missing_ok=True)
    _etag_file(part).unlink(missing_ok=True)


def forget_useless(part: Path) -> None:
    """Delete what a download has left, unless another can go on with it."""
    if not (_read_etag(part) and _size(part)):
        forget(part)


def _attempt(url: str, part: Path, report: Report, policy: Policy, pace: Pace) -> None:
    etag = _read_etag(part)
    offset = _size(part) if etag else 0
    headers = {"User-Agent": "glimpse", "Accept-Encoding": "identity"}
    if offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": etag}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - its scheme has been looked at
    try:
        response = opener(pace, _Redirects).open(request, timeout=policy.timeout)
    except urllib.error.HTTPError as error:
        with closing(error):
            raise _refused(url, error, part) from error
    except (http.client.HTTPException, OSError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise FetchError(f"{url} cannot be trusted: {reason.verify_message}.") from error
        raise TryAgainError(reason) from error
    with response:
        _receive(response, part, offset, report, policy)


def _refused(url: str, error: urllib.error.HTTPError, part: Path) -> Exception:
    """What to raise for an answer that is no file."""
    said = f"the server answers {error.code} {error.reason}".strip()
    if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
        forget(part)  # longer than the file is: not a beginning of it
        return TryAgainError(said)
    if error.code in _RETRIED:
        wait = error.headers.get("Retry-After", "")
        return TryAgainError(said, float(wait) if re.fullmatch(r"\d{1,9}", wait) else 0.0)
    return FetchError(f"{url} cannot be fetched: {said}.")


def _receive(response: http.client.HTTPResponse, part: Path, offset: int, report: Report, policy: Policy) -> None:
    """Write the body behind the first `offset` bytes of `part`, or in their place if it is the whole file."""
    total = _total(response, part, offset)
    from_the_start = response.status != http.client.PARTIAL_CONTENT
    if from_the_start:
        offset = 0
    _refuse_misfits(response, part, offset, total, policy)
    if from_the_start:  # and only now: a sign-in page does not cost what has come before it
        forget(part)
        _write_etag(part, response.headers.get("ETag", ""))
    report(offset, total)
    try:
        # Unbuffered: what has been received is what lies there, whenever the process dies.
        with to_add(part) as file:
            while chunk := _read(response):
                offset += len(chunk)
                if offset > policy.limit:
                    forget(part)
                    raise FetchError(_too_large(response.url, offset, policy))
                _write(file, chunk)
                report(offset, total)
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise FetchError(_full(part, os.strerror(error.errno))) from error
        raise
    if total is not None and offset < total:
        raise TryAgainError(f"the connection ended after {offset} of {total} bytes")


def _read(response: http.client.HTTPResponse) -> bytes:
    """What the network has next; empty at the end."""
    try:
        return response.read1(_CHUNK)
    except (http.client.HTTPException, OSError) as error:
        raise TryAgainError(error) from error


def _write(file: FileIO, chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) :]


def _total(response: http.client.HTTPResponse, part: Path, offset: int) -> int | None:
    """How many bytes the whole file has; None where the server does not know beforehand."""
    if response.status == http.client.PARTIAL_CONTENT:
        span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", ""))
        if not (offset and span and int(span[1]) == offset and int(span[2]) + 1 == int(span[3])):
            forget(part)
            raise TryAgainError("the server sends another part of the file than it was asked for")
        return int(span[3])
    return response.length


def _refuse_misfits(
    response: http.client.HTTPResponse, part: Path, offset: int, total: int | None, policy: Policy
) -> None:
    kind, encoding = response.headers.get_content_type(), response.headers.get("Content-Encoding", "identity")
    expected = response.status in {http.client.OK, http.client.PARTIAL_CONTENT} and total != 0
    if not expected or kind == "text/html" or encoding != "identity":
        raise FetchError(
            f"{response.url} answers {response.status} with {total or 'no'} bytes of {kind}, encoded as {encoding}, "
            "not with the file itself. It may be the sign-in page of a network, or a proxy's."
        )
    if total is None and not response.chunked:
        raise FetchError(f"{response.url} does not say how long the file is, so that it could end anywhere.")
    if (total or 0) > policy.limit:
        raise FetchError(_too_large(response.url, total or 0, policy))
    free = shutil.disk_usage(part.parent).free
    if (total or 0) - offset > free:
        raise FetchError(
            _full(part, f"{((total or 0) - offset) / 1e6:.0f} MB more are needed, {free / 1e6:.0f} are free")
        )


def _too_large(url: str, size: int, policy: Policy) -> str:
    return f"{url} has {size} bytes or more, a checkpoint at most {policy.limit}."


def _full(part: Path, reason: str) -> str:
    return f"There is no room for {part}: {reason}. Make room, or set GLIMPSE_CACHE to a folder on another disk."


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects, none of them to where a stranger could read or change the file."""

    max_redirections = 5

    def redirect_request(  # noqa: PLR0917 - the standard library's
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        fp.close()  # or its body would be read, to whatever end
        _refuse_insecure(newurl, after=req.full_url)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _refuse_insecure(url: str, after: str = "") -> None:
    """Only HTTPS; HTTP only within this machine, where nobody listens."""
    parts = urllib.parse.urlsplit(url)
    local = parts.scheme == "http" and _is_loopback(parts.hostname or "")
    if after and local:
        local = urllib.parse.urlsplit(after).scheme == "http"
    if parts.scheme != "https" and not local:
        raise FetchError(f"{after} leads to {url}, which is not HTTPS." if after else f"{url} is not HTTPS.")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _size(part: Path) -> int:
    try:
        return part.stat().st_size
    except OSError:
        return 0


def _etag_file(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _read_etag(part: Path) -> str:
    try:
        return bounded_files.read(_etag_file(part), _LONGEST_ETAG).decode("latin-1")
    except (OSError, ValueError):
        return ""


def _write_etag(part: Path, etag: str) -> None:
    # A weak one (W/"...") does not promise the same bytes.
    if len(etag) <= _LONGEST_ETAG and re.fullmatch(r'"[\x21\x23-\x7e\x80-\xff]*"', etag):
        write_whole(_etag_file(part), etag.encode("latin-1"))
