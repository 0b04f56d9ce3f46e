"""TLS as every process speaks it: who we are on the wire, and whom we believe.

Here: a process's identity folder, and the contexts of servers and clients made from it.
Not here: making certificates (orchestration.certificates), which listener needs which (vocabulary.settings).
Source: RFC 8446; IHE ATNA (mutual TLS between nodes); BSI TR-02102-2 and NIST SP 800-52r2 (versions).
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NamedTuple

from vocabulary.errors import ConfigurationError


class Identity(NamedTuple):
    """A folder that says who a process, device or server is: `certificate.pem`, `key.pem`, `authority.pem`.

    A process of ours also has `ledger.key`, which signs its rows of the ledger (vocabulary.signing).
    """

    folder: Path

    @property
    def certificate(self) -> Path:
        """Return the certificate, with its chain."""
        return self.folder / "certificate.pem"

    @property
    def key(self) -> Path:
        """Return the private key of the certificate."""
        return self.folder / "key.pem"

    @property
    def authority(self) -> Path:
        """Return the certificates of the authorities we believe."""
        return self.folder / "authority.pem"

    @property
    def revocations(self) -> Path:
        """Return the list of certificates that are believed no more (a CRL of every authority); it may be absent."""
        return self.folder / "revoked.pem"

    @property
    def ledger_key(self) -> Path:
        """Return the key that signs our rows of the ledger."""
        return self.folder / "ledger.key"


def server_context(identity: Identity, *, requires_client: bool) -> ssl.SSLContext:
    """Return a server's context: TLS 1.2 or newer, our certificate, and the client's where it is required.

    Raises:
        ConfigurationError: a file is missing or unusable; names it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(context, identity)
    if requires_client:
        _trust(context, identity)
        _heed_revocations(context, identity)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(identity: Identity) -> ssl.SSLContext:
    """Return a client's context: it shows our certificate, and checks the server's and its name.

    Raises:
        ConfigurationError: a file is missing or unusable; names it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _trust(context, identity)
    if identity.certificate.exists():
        _load(context, identity)
    return context


def common_name(certificate: dict[str, object] | None) -> str:
    """Return the common name of a checked peer's certificate (`SSLObject.getpeercert()`), "" where there is none."""
    subject = (certificate or {}).get("subject", ())
    assert isinstance(subject, tuple)
    for names in subject:
        for kind, value in names:
            if kind == "commonName":
                return str(value)
    return ""


def _load(context: ssl.SSLContext, identity: Identity) -> None:
    try:
        context.load_cert_chain(identity.certificate, identity.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"The certificate {identity.certificate} with its key {identity.key.name} cannot be used: "
            f"{error.strerror or type(error).__name__}. `vigil up` makes both for its own processes."
        ) from None


def _heed_revocations(context: ssl.SSLContext, identity: Identity) -> None:
    if not identity.revocations.exists():
        return
    try:
        context.load_verify_locations(identity.revocations)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"The list of revoked certificates {identity.revocations} cannot be read: "
            f"{error.strerror or type(error).__name__}. Put it back, or remove it to believe all that are not expired."
        ) from None
    context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF


def _trust(context: ssl.SSLContext, identity: Identity) -> None:
    try:
        context.load_verify_locations(identity.authority)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"The authorities {identity.authority} cannot be read: {error.strerror or type(error).__name__}."
        ) from None
