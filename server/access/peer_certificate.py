"""What the TLS certificate of a caller says, as plain facts: whoever speaks TLS has verified it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """The certificate that a caller has shown; where all is empty, the caller has shown none."""

    uris: Sequence[str] = ()  # subject alternative names, such as spiffe://example.org/workload
    host_names: Sequence[str] = ()  # subject alternative names
    common_name: str = ""
    subject: str = ""
    pem: bytes = b""

    @property
    def identity(self) -> str:
        """Whom it names, by the most specific name: its first URI, else its first host name, else its common name."""
        for name in (*self.uris, *self.host_names, self.common_name, self.subject):
            if name:
                return name
        return ""
