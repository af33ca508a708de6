"""TLS as gRPC wants it: a port's credentials from the certificate files, and a caller's certificate as plain facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import grpc

from glimpse.server.access.certificates import Certificates, KeyFiles
from glimpse.server.access.peer_certificate import PeerCertificate


def server_credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """What a port needs to speak TLS. Each server needs its own: it is told once of each change of the files."""
    given = certificates.latest

    def newer() -> grpc.ServerCertificateConfiguration | None:
        """What gRPC asks before each handshake; None where nothing has changed: it starts anew with the rest."""
        nonlocal given
        latest = certificates.latest
        if latest is given:
            return None
        given = latest
        return _configuration(latest)

    changed: Any = newer  # it may return None, which the types of gRPC leave out
    return grpc.dynamic_ssl_server_credentials(_configuration(given), changed, certificates.mutual)


def peer_certificate(auth_context: Mapping[str, Sequence[bytes]]) -> PeerCertificate:
    """What the certificate of a call's connection says, from `context.auth_context()`."""

    def texts(key: str) -> list[str]:
        return [value.decode(errors="replace") for value in auth_context.get(key, ())]

    def first(key: str) -> str:
        return next(filter(None, texts(key)), "")

    return PeerCertificate(
        texts("peer_uri"),
        texts("peer_dns"),
        first("x509_common_name"),
        first("x509_subject"),
        next(iter(auth_context.get("x509_pem_cert", ())), b""),
    )


def _configuration(files: KeyFiles) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(files.key, files.certificate)], files.authorities)
