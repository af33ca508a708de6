"""Bearer tokens: which are good, whose they are, and what those may send.

`python -m glimpse.server.access.tokens new NAME` makes one and prints it, once, with the entry for the file of tokens:

    [[token]]
    identity = "holiday-app"                # who shows it; several entries may share an identity, for rotation
    sha256 = "..."                          # hex, of the token
    expires = 2027-01-01T00:00:00Z          # optional
    images_per_second = 100.0               # optional: instead of rate_limit
    burst = 200                             # optional: instead of rate_burst

The file holds hashes, so whoever reads it has no token. A plain SHA-256 is right here, and a slow, salted hash as for
passwords would be wrong: those make guessing dear, where what is guessed was chosen by a person. A token is 256 random
bits, of which no two are alike and none can be guessed at any price; and it is checked at every call.
"""

from __future__ import annotations

import argparse
import hashlib
import secrets
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from glimpse.models import standard
from glimpse.models.files import texts
from glimpse.models.suggestions import did_you_mean
from glimpse.server.access.call_context import CallContext
from glimpse.server.access.rates import Allowance
from glimpse.server.access.watched_file import WatchedFile
from glimpse.server.errors import Reason, UnauthenticatedError
from glimpse.server.processes.startup import CredentialsError

KEY = "authorization"
_SCHEME = "bearer "


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose a token is."""

    identity: str
    allowance: Allowance | None  # None: the usual


class _Entry(BaseModel):
    """One token in the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    identity: Annotated[str, Field(pattern=r"^[!-~]{1,128}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")]
    expires: AwareDatetime | None = None
    images_per_second: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    burst: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    token: Annotated[list[_Entry], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class _Known:
    expires: datetime | None
    holder: Holder


class Tokens:
    """The tokens that are good, as they stand in their file now."""

    def __init__(
        self, file: Path, usual: Allowance, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """Read them; an entry that says half an allowance has the other half of what is `usual`.

        Raises:
            CredentialsError: expected; the file cannot be read or used.
        """
        self._file = file
        self._usual = usual
        self._clock = clock
        self._source = WatchedFile("tokens", [file], self._parse)

    @property
    def stale(self) -> bool:
        """Whether the files have changed into something that cannot be used."""
        return self._source.stale

    def look(self) -> None:
        """Take what has changed in the file, if it can be used."""
        self._source.look()

    def holder(self, headers: Sequence[str]) -> Holder:
        """Whose token a call shows; see `authenticate`."""
        return self._holder_of(_digest(headers), "The token is not valid. Ask the operator of this server for a token.")

    def authenticate(self, headers: Sequence[str]) -> tuple[Holder, TokenCredential]:
        """Whose token a call shows, and what says later whether it is still good.

        Args:
            headers: the values of `authorization` in the call's metadata.

        Raises:
            UnauthenticatedError: expected; there is none, or none that is good. Nothing of it is in the message.
        """
        digest = _digest(headers)
        holder = self._holder_of(digest, "The token is not valid. Ask the operator of this server for a token.")
        return holder, TokenCredential(self, digest)

    def recheck(self, digest: bytes) -> Holder:
        """Whose token it is that was good before.

        Raises:
            UnauthenticatedError: expected; it has been removed or has expired meanwhile.
        """
        return self._holder_of(digest, "The token is no longer valid. Ask the operator of this server for a new one.")

    def _holder_of(self, digest: bytes, unknown: str) -> Holder:
        # A look-up, and not a comparison with each: a refused call costs the same however many tokens there are. How
        # long it takes tells nothing of a token, for what is looked up is a hash that no caller can choose, by a hash
        # of it that each process salts anew.
        found = self._source.value.get(digest)
        if found is None:
            raise UnauthenticatedError(Reason.TOKEN_REFUSED, unknown)
        if found.expires is not None and found.expires <= self._clock():
            raise UnauthenticatedError(
                Reason.TOKEN_REFUSED,
                f"The token expired at {found.expires.isoformat()}. Ask the operator of this server for a new one.",
            )
        return found.holder

    def _parse(self, contents: Sequence[bytes]) -> dict[bytes, _Known]:
        try:
            entries = _File.model_validate(tomllib.loads(texts.decode(contents[0]))).token
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise CredentialsError(f"{self._file} is not valid TOML: {_place(error)}.") from None
        except ValidationError as error:
            raise CredentialsError(f"{self._file} cannot be used: {_explain(error)}.") from None
        known = {bytes.fromhex(each.sha256): _Known(each.expires, self._holder(each)) for each in entries}
        if len(known) < len(entries):
            raise CredentialsError(f"{self._file} has the same sha256 twice. Remove one of the entries.")
        holders: dict[str, Holder] = {}
        for each in known.values():
            if holders.setdefault(each.holder.identity, each.holder) != each.holder:
                raise CredentialsError(
                    f"{self._file} gives the identity {each.holder.identity} different images_per_second or burst. "
                    "Entries of one identity share one limit; make them agree."
                )
        return known

    def _holder(self, entry: _Entry) -> Holder:
        if entry.images_per_second is None and entry.burst is None:
            return Holder(entry.identity, None)
        rate = self._usual.rate if entry.images_per_second is None else entry.images_per_second
        return Holder(entry.identity, Allowance(rate, entry.burst or self._usual.burst))


class TokenCredential:
    """The token that a caller has shown: valid for as long as its file has it and it has not expired."""

    __slots__ = ("_digest", "_tokens")

    def __init__(self, tokens: Tokens, digest: bytes) -> None:
        self._tokens = tokens
        self._digest = digest

    def revoked(self, call: CallContext) -> UnauthenticatedError | None:
        """Why the token is no longer valid for the caller; None: it is, and the call has what it allows by now."""
        try:
            holder = self._tokens.recheck(self._digest)
        except UnauthenticatedError as error:
            return error
        if holder.identity != call.identity:
            return UnauthenticatedError(
                Reason.TOKEN_REFUSED, "The token now belongs to another identity. Repeat the call to use it."
            )
        call.allowance = holder.allowance
        return None


def _digest(headers: Sequence[str]) -> bytes:
    """Of the only token in the values of `authorization`.

    Raises:
        UnauthenticatedError: expected; there is none.
    """
    if len(headers) != 1 or headers[0][: len(_SCHEME)].lower() != _SCHEME:
        raise UnauthenticatedError(
            Reason.TOKEN_MISSING,
            "This server requires a token. Send it in exactly one header `authorization: Bearer <token>`.",
        )
    return hashlib.sha256(headers[0][len(_SCHEME) :].strip().encode(errors="replace")).digest()


def _explain(error: ValidationError) -> str:
    """What is wrong and where, without what was received: it may be a token, by mistake in the wrong place."""
    lines = []
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        *outer, name = problem["loc"]
        place = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            known = (_Entry if outer else _File).model_fields
            lines.append(f"{place} is not a key of this file.{did_you_mean(str(name), known).rstrip('.')}")
        else:
            lines.append(f"{place}: {problem['msg']}")
    return "; ".join(lines)


def _place(error: Exception) -> str:
    """Where it stops being TOML; a decoder's own words could quote the file."""
    _, found, place = str(error).rpartition("(")
    return place.rstrip(")") if found and place.startswith("at ") else "the text is incomplete or not UTF-8"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}. Usage: python -m glimpse.server.access.tokens new NAME\n")


def main(arguments: Sequence[str]) -> int:
    """Make a token: 0, or 2 where the arguments make no sense."""
    parser = _Parser(
        prog="python -m glimpse.server.access.tokens", description="Make tokens for callers of the server."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    about = (
        "Make a new token. The token itself is printed once, to standard error; its entry for the token file goes to "
        "standard output. Example: python -m glimpse.server.access.tokens new alice >> tokens.toml"
    )
    new = commands.add_parser("new", help="make one", description=about)
    new.add_argument("name", metavar="NAME", help="name of the caller: ASCII characters without spaces")
    try:
        name: str = parser.parse_args(arguments).name
    except SystemExit as end:  # --help, or what is no such command; argparse has said it
        return int(end.code or 0)
    token = secrets.token_urlsafe(32)
    entry: dict[str, Any] = {"identity": name, "sha256": hashlib.sha256(token.encode()).hexdigest()}
    try:
        _Entry.model_validate(entry)
    except ValidationError as error:
        print(f"The name cannot be used: {_explain(error)}.", file=sys.stderr)  # noqa: T201 - the same
        return 2
    print(f"# The token for {name}, which cannot be shown again: {token}", file=sys.stderr)  # noqa: T201 - the same
    # Every character that an identity may have stands for itself between single quotes, but the quote.
    quoted = f"'{name}'" if "'" not in name else '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    print(f"[[token]]\nidentity = {quoted}\nsha256 = '{entry['sha256']}'")  # noqa: T201 - the same
    return 0


if __name__ == "__main__":
    standard.run("glimpse.server.access.tokens", lambda: main(sys.argv[1:]))
