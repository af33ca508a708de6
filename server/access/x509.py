"""What a certificate says of itself, as far as a server has to know it after the handshake.

TLS has verified the certificate by then, and gRPC shows it as PEM alone. So this reads the few fields by their places
in the certificate (RFC 5280, section 4.1), which is DER (X.690): each value is a tag, a length, and so many bytes.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from typing import NamedTuple

_SEQUENCE, _VERSION, _EXTENSIONS = 0x30, 0xA0, 0xA3
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


class Certificate(NamedTuple):
    """One certificate."""

    not_after: float  # seconds since 1970; it is good until then, that second included
    subject: bytes  # DER
    key: bytes  # DER of the public key with its kind
    extensions: bytes  # DER; empty: none


def certificates(pem: str) -> list[Certificate]:
    """All certificates in a PEM text; what stands between them is passed over.

    Raises:
        ValueError: expected; one of them is no certificate.
    """
    found, at = list[Certificate](), 0
    while (begin := pem.find(_BEGIN, at)) >= 0:
        at = pem.find(_END, begin) + len(_END)
        if at < len(_END):
            raise ValueError("A certificate is incomplete.")
        found.append(read(ssl.PEM_cert_to_DER_cert(pem[begin:at])))
    return found


def read(der: bytes) -> Certificate:
    """Read a certificate.

    Raises:
        ValueError: expected; it is none.
    """
    fields = _values(_inside(_inside(der)))
    if fields[0][0] == _VERSION:
        del fields[0]
    # Then: serial number, signature, issuer, validity, subject, public key, and what is optional.
    if len(fields) < 6:
        raise ValueError("A certificate lacks fields.")
    validity = _values(_body(fields[3][1]))
    if len(validity) != 2:
        raise ValueError("A certificate has no validity period.")
    tag, not_after = validity[1]
    return Certificate(
        _time(tag, _body(not_after)),
        fields[4][1],
        fields[5][1],
        b"".join(whole for kind, whole in fields[6:] if kind == _EXTENSIONS),
    )


def _inside(whole: bytes) -> bytes:
    """What is in the sequence at the beginning."""
    tag, first = _values(whole, most=1)[0]
    if tag != _SEQUENCE:
        raise ValueError("A sequence is missing.")
    return _body(first)


def _values(data: bytes, most: int = 16) -> list[tuple[int, bytes]]:
    """The values that follow one another, each with its tag and as it is, head and all."""
    found, at = list[tuple[int, bytes]](), 0
    while at < len(data) and len(found) < most:
        end = _extent(data, at)[1]
        if end > len(data):
            raise ValueError("A value extends beyond the end of the data.")
        found.append((data[at], data[at:end]))
        at = end
    if not found:
        raise ValueError("A value is missing.")
    return found


def _body(whole: bytes) -> bytes:
    """A value without its head."""
    return whole[_extent(whole, 0)[0] :]


def _extent(data: bytes, at: int) -> tuple[int, int]:
    """Where the bytes of the value at `at` begin and end."""
    if at + 2 > len(data):
        raise ValueError("A value has no length.")
    length, begin = data[at + 1], at + 2
    if length >= 0x80:
        size = length & 0x7F
        if not 1 <= size <= 4 or begin + size > len(data):
            raise ValueError("A value has an invalid length.")
        length, begin = int.from_bytes(data[begin : begin + size]), begin + size
    return begin, begin + length


def _time(tag: int, text: bytes) -> float:
    """Seconds since 1970 (RFC 5280, section 4.1.2.5: always UTC and with seconds)."""
    written = text.decode("ascii", "replace")
    if tag == _UTC_TIME:  # two digits of the year: 1950 to 2049
        written = ("19" if written[:2] >= "50" else "20") + written
    elif tag != _GENERALIZED_TIME:
        raise ValueError("A time has an unknown type.")
    return datetime.strptime(written, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
