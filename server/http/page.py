"""The page in a browser, and the page of the API: files that lie in `server/page`, read once."""

from __future__ import annotations

import hashlib
from pathlib import Path

from starlette.responses import Response

from glimpse.server.http.endpoint import Asked, Work

_FOLDER = Path(__file__).parent.parent / "page"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Everything comes from this server; the photos that are shown are the browser's own.
SECURITY = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


def files() -> dict[str, Work]:
    """What answers each path of the page."""
    paths = {
        "/": "index.html",
        "/docs": "docs.html",
        **{f"/page/{each.name}": each.name for each in sorted(_FOLDER.iterdir()) if each.suffix in _TYPES},
    }
    return {path: _answer(name) for path, name in paths.items()}


def _answer(name: str) -> Work:
    content = (_FOLDER / name).read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    kind = _TYPES[Path(name).suffix]
    headers = {**SECURITY, "etag": tag, "cache-control": "no-cache"}  # asked again each time, and mostly not sent again

    async def answer(asked: Asked) -> Response:
        if tag in asked.request.headers.get("if-none-match", ""):
            return Response(b"", 304, headers)
        return Response(content, 200, headers, kind)

    return answer
