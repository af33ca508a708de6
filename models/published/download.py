"""Downloading one large file over HTTP, with retries and resumption.

The standard library's client is enough: it streams, times out, and uses the environment's proxies and the system's
certificate authorities; which redirects are followed has to be decided here in any case.
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
from pathlib import Path
from typing import IO

from glimpse.models.files import bounded_files
from glimpse.models.published.safe_writing import open_for_append, write_atomically, write_whole
from glimpse.models.published.transfer_limits import (
    DownloadPolicy,
    FetchError,
    RetryableError,
    TransferLimits,
    build_opener,
)

_log = logging.getLogger(__name__)

_CHUNK = 1 << 20
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})  # statuses that another attempt may not meet again
_LONGEST_ETAG = 1_000  # characters
_PATIENCE = 60.0  # seconds; a server that asks for more is asked again sooner

Report = Callable[
    [int, int | None], None
]  # called with the bytes that are present and the total, or None where it is not known


def download(url: str, part: Path, report: Report, policy: DownloadPolicy) -> None:
    """Download the file at `url` into `part`, resuming an earlier download that ended early.

    It is resumed only if the server has an ETag for the file and it is unchanged; the ETag is kept beside `part`.

    Raises:
        FetchError: the file cannot be downloaded, is too large or takes too long, or cannot be written. The part that
            was received is kept for another call.
    """
    _refuse_insecure(url)
    failures, limits = 0, TransferLimits(url, policy, _size(part))
    while True:
        try:
            limits.attempt()
            return _attempt(url, part, report, policy, limits)
        except RetryableError as error:
            # A byte now and then is no progress: what counts is the least rate, with the pauses.
            failures = 0 if limits.grew(_size(part)) else failures + 1
            if failures >= policy.attempts:
                raise FetchError(f"{url} cannot be downloaded: {error}.") from error
            _log.warning(
                "%s: %s; trying again",
                url,
                error,
                extra={"event": "download interrupted, trying again", "url": url, "detail": str(error)},
            )
            # Spread, so that many who lost the same server do not come back at the same moment.
            pause = policy.backoff * 2 ** max(failures - 1, 0) * random.uniform(0.5, 1.5)
            time.sleep(max(pause, min(error.wait, _PATIENCE)))


def discard(part: Path) -> None:
    """Delete a partial download, so that the next one starts from the beginning."""
    part.unlink(missing_ok=True)
    _etag_file(part).unlink(missing_ok=True)


def discard_unless_resumable(part: Path) -> None:
    """Delete a partial download, unless it can be resumed."""
    if not (_read_etag(part) and _size(part)):
        discard(part)


def _attempt(url: str, part: Path, report: Report, policy: DownloadPolicy, limits: TransferLimits) -> None:
    etag = _read_etag(part)
    offset = _size(part) if etag else 0
    headers = {"User-Agent": "glimpse", "Accept-Encoding": "identity"}
    if offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": etag}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - its scheme has been looked at
    try:
        response = build_opener(limits, _Redirects).open(request, timeout=policy.timeout)
    except urllib.error.HTTPError as error:
        with closing(error):
            raise _refused(url, error, part) from error
    except (http.client.HTTPException, OSError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise FetchError(f"{url} cannot be trusted: {reason.verify_message}.") from error
        raise RetryableError(reason) from error
    with response:
        _receive(response, part, offset, report, policy)


def _refused(url: str, error: urllib.error.HTTPError, part: Path) -> Exception:
    """What to raise for an answer that is no file."""
    said = f"the server answers {error.code} {error.reason}".strip()
    if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
        discard(part)  # longer than the file is: not a beginning of it
        return RetryableError(said)
    if error.code in _RETRIED:
        wait = error.headers.get("Retry-After", "")
        return RetryableError(said, float(wait) if re.fullmatch(r"\d{1,9}", wait) else 0.0)
    return FetchError(f"{url} cannot be downloaded: {said}.")


def _receive(
    response: http.client.HTTPResponse, part: Path, offset: int, report: Report, policy: DownloadPolicy
) -> None:
    """Write the body behind the first `offset` bytes of `part`, or in their place if it is the whole file."""
    total = _total(response, part, offset)
    from_the_start = response.status != http.client.PARTIAL_CONTENT
    if from_the_start:
        offset = 0
    _refuse_misfits(response, part, offset, total, policy)
    if from_the_start:  # and only now: a sign-in page does not cost what has come before it
        discard(part)
        _write_etag(part, response.headers.get("ETag", ""))
    report(offset, total)
    try:
        # Unbuffered: what has been received is what lies there, whenever the process dies.
        with open_for_append(part) as file:
            while chunk := _read(response):
                offset += len(chunk)
                if offset > policy.limit:
                    discard(part)
                    raise FetchError(_too_large(response.url, offset, policy))
                write_whole(file, chunk)
                report(offset, total)
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise FetchError(_full(part, os.strerror(error.errno))) from error
        raise
    if total is not None and offset < total:
        raise RetryableError(f"the connection ended after {offset} of {total} bytes")


def _read(response: http.client.HTTPResponse) -> bytes:
    """What the network has next; empty at the end."""
    try:
        return response.read1(_CHUNK)
    except (http.client.HTTPException, OSError) as error:
        raise RetryableError(error) from error


def _total(response: http.client.HTTPResponse, part: Path, offset: int) -> int | None:
    """How many bytes the whole file has; None where the server does not know beforehand."""
    if response.status == http.client.PARTIAL_CONTENT:
        span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", ""))
        if not (offset and span and int(span[1]) == offset and int(span[2]) + 1 == int(span[3])):
            discard(part)
            raise RetryableError("the server sent another part of the file than was requested")
        return int(span[3])
    return response.length


def _refuse_misfits(
    response: http.client.HTTPResponse, part: Path, offset: int, total: int | None, policy: DownloadPolicy
) -> None:
    kind, encoding = response.headers.get_content_type(), response.headers.get("Content-Encoding", "identity")
    expected = response.status in {http.client.OK, http.client.PARTIAL_CONTENT} and total != 0
    if not expected or kind == "text/html" or encoding != "identity":
        raise FetchError(
            f"{response.url} answers {response.status} with {total or 'no'} bytes of {kind}, encoded as {encoding}, "
            "not with the file itself. It may be the sign-in page of a network, or a proxy's."
        )
    if total is None and not response.chunked:
        raise FetchError(
            f"{response.url} does not state the size of the file, so that a truncated download would not be noticed."
        )
    if (total or 0) > policy.limit:
        raise FetchError(_too_large(response.url, total or 0, policy))
    free = shutil.disk_usage(part.parent).free
    if (total or 0) - offset > free:
        raise FetchError(
            _full(part, f"{((total or 0) - offset) / 1e6:.0f} MB more are needed, {free / 1e6:.0f} are free")
        )


def _too_large(url: str, size: int, policy: DownloadPolicy) -> str:
    return f"{url} has at least {size} bytes; the limit for a checkpoint is {policy.limit}."


def _full(part: Path, reason: str) -> str:
    return (
        f"There is not enough disk space for {part}: {reason}. Free some, or set GLIMPSE_CACHE to a folder on another "
        "disk."
    )


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
        raise FetchError(f"{after} redirects to {url}, which is not HTTPS." if after else f"{url} is not HTTPS.")


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
        write_atomically(_etag_file(part), etag.encode("latin-1"))
