"""The few fields that are read of a certificate, against a library that reads all of them."""

from __future__ import annotations

import contextlib
import math
from datetime import timedelta

import pytest
from cryptography import x509 as reference
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from glimpse.server.access import x509
from glimpse.server.access.certificates import expires
from tests.server.access.authority import Authority

_AUTHORITY = Authority("of these tests")
_LEAF = _AUTHORITY.client("alice", hosts=("a.example.org",), uri="spiffe://example.org/alice")
_DER = reference.load_pem_x509_certificate(_LEAF.certificate).public_bytes(Encoding.DER)


@pytest.mark.parametrize("days", [1, 365 * 20, 365 * 40])  # after 2049 a time is written in another form
def test_the_fields_are_those_that_a_library_reads(days: int) -> None:
    pem = _AUTHORITY.client("alice", lasts=timedelta(days=days)).certificate + _AUTHORITY.renewed()
    expected = reference.load_pem_x509_certificates(pem)
    found = x509.certificates("# words between\n" + pem.decode())
    assert [each.not_after for each in found] == [each.not_valid_after_utc.timestamp() for each in expected]
    assert [each.subject for each in found] == [each.subject.public_bytes() for each in expected]
    assert [each.key for each in found] == [
        each.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for each in expected
    ]
    assert [bool(each.extensions) for each in found] == [bool(list(each.extensions)) for each in expected]


@given(st.binary(max_size=200))
def test_bytes_of_chance_are_no_certificate(data: bytes) -> None:
    with pytest.raises(ValueError):
        x509.read(data)


@given(st.integers(0, len(_DER) - 1), st.integers(0, 255), st.integers(0, len(_DER)))
def test_a_damaged_certificate_is_read_or_refused(at: int, byte: int, end: int) -> None:
    damaged = bytearray(_DER)
    damaged[at] = byte
    with contextlib.suppress(ValueError):
        x509.read(bytes(damaged[:end]))


def test_what_cannot_be_read_never_expires() -> None:
    assert expires(b"") == expires(b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----") == math.inf
    assert expires(_LEAF.certificate) < math.inf
