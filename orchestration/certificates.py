"""A certificate authority of this machine's own: for our processes and servers, and until a hospital brings its own.

Here: the authority's key, certificates of identities (vocabulary.tls.Identity) and their renewal, what was revoked.
Not here: which identities a house has (orchestration.credentials), the command (orchestration.certificates_commands),
contexts made from the files (vocabulary.tls).
Source: RFC 5280; CA/Browser Forum Baseline Requirements 6.3.2 (398 days at most) and 7.1.2 (extensions).
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vocabulary.clock import Clock, SystemClock
from vocabulary.errors import ConfigurationError
from vocabulary.tls import Identity

AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 397
"""One less than browsers accept at most."""

RENEW_BEFORE_DAYS = 30
"""A certificate with less left is made anew."""

_BACKDATED = timedelta(minutes=5)
"""The clocks of those who check may be a little behind ours."""

_ORGANISATION = "Vigil"


class Issued(msgspec.Struct, frozen=True, kw_only=True):
    """One certificate that was issued, as the authority remembers it."""

    serial: str  # hexadecimal
    name: str
    hosts: tuple[str, ...]
    until: datetime
    revoked_at: datetime | None = None


class Authority:
    """An authority under a folder: `certificate.pem`, `key.pem` (0600), `issued.json`, `revoked.pem` (a CRL)."""

    def __init__(
        self, folder: Path, name: str = "Vigil", *, permitted: Sequence[str] = (), clock: Clock | None = None
    ) -> None:
        """Describe the authority; nothing is made or read.

        Args:
            folder: where it is kept.
            name: what its certificate is called when it is made.
            permitted: name constraints: the only hosts it may ever certify; () for any.
            clock: tells the time of day; None for the machine's.
        """
        self.folder = folder
        self._name = name
        self._permitted = permitted
        self._clock = clock or SystemClock()

    @property
    def certificate(self) -> Path:
        """Return the file of the authority's own certificate."""
        return self.folder / "certificate.pem"

    @property
    def key(self) -> Path:
        """Return the file of the authority's private key."""
        return self.folder / "key.pem"

    @property
    def revocations(self) -> Path:
        """Return the file of the certificate revocation list."""
        return self.folder / "revoked.pem"

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now_us() / 1_000_000, UTC).replace(microsecond=0)

    def prepare(self) -> None:
        """Make the authority where there is none.

        Raises:
            ConfigurationError: its files are damaged, belong to different keys, or have expired.
        """
        if not self.certificate.exists() and not self.key.exists():
            self._make()
        certificate, _ = self._load()
        if certificate.not_valid_after_utc <= self._now():
            raise ConfigurationError(
                f"The authority {self.folder} expired on {certificate.not_valid_after_utc:%Y-%m-%d}. Move the folder "
                "away; the next start makes another, and new certificates from it."
            )
        if not self.revocations.exists():
            self._write_revocations(self.issued())

    def _make(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder.chmod(0o700)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANISATION),
                x509.NameAttribute(NameOID.COMMON_NAME, self._name[:64]),
            ]
        )
        now = self._now()
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATED)
            .not_valid_after(now + timedelta(days=AUTHORITY_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(is_authority=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        if self._permitted:
            permitted = [_constraint(host) for host in self._permitted]
            builder = builder.add_extension(x509.NameConstraints(permitted, None), critical=True)
        _write(self.key, _pem_of_key(key), 0o600)
        _write(self.certificate, _pem(builder.sign(key, hashes.SHA256())), 0o644)

    def _load(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        try:
            certificate = x509.load_pem_x509_certificate(self.certificate.read_bytes())
            key = serialization.load_pem_private_key(self.key.read_bytes(), password=None)
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"The authority {self.folder} cannot be read ({type(error).__name__}): expected certificate.pem and "
                "key.pem. Put them back from a copy, or move the folder away: the next start makes another."
            ) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ConfigurationError(f"The authority {self.folder} holds a key that is not its certificate's.")
        return certificate, key

    def issue(
        self,
        folder: Path,
        name: str,
        hosts: Sequence[str] = (),
        days: int = CERTIFICATE_DAYS,
        *,
        is_client: bool | None = None,
    ) -> bool:
        """See to it that `folder` holds a valid identity, and return whether it had to be made.

        An identity that still holds for 30 days, for the same name and hosts, is left as it is.

        Args:
            folder: an identity folder (vocabulary.tls.Identity); made when missing.
            name: the subject's common name: a process, a device, a host.
            hosts: names and addresses of a server (subject alternative names); () for a client.
            days: how long a new certificate holds.
            is_client: whether it may be shown to servers; None: when it has no hosts.

        Raises:
            ConfigurationError: the folder holds somebody else's certificate, or the authority is unusable.
        """
        self.prepare()
        authority, key = self._load()
        identity = Identity(folder)
        shows_to_servers = not hosts if is_client is None else is_client
        if self._is_current(identity, authority, name, hosts):
            return False
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        own_key = ec.generate_private_key(ec.SECP256R1())
        usages = [ExtendedKeyUsageOID.SERVER_AUTH] if hosts else []
        usages += [ExtendedKeyUsageOID.CLIENT_AUTH] if shows_to_servers else []
        now = self._now()
        builder = (
            x509.CertificateBuilder()
            .subject_name(_subject(name))
            .issuer_name(authority.subject)
            .public_key(own_key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATED)
            .not_valid_after(min(now + timedelta(days=days), authority.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(is_authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(own_key.public_key()), critical=False)
            .add_extension(_authority_key(authority), critical=False)
        )
        if hosts:
            names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        made = builder.sign(key, hashes.SHA256())
        # Remembered before it exists: a certificate that nobody remembers could never be revoked.
        self._remember(made, name, hosts)
        _write(identity.key, _pem_of_key(own_key), 0o600)
        _write(identity.certificate, _pem(made), 0o644)
        _write(identity.authority, _pem(authority), 0o644)
        return True

    def _is_current(self, identity: Identity, authority: x509.Certificate, name: str, hosts: Sequence[str]) -> bool:
        if not identity.certificate.exists():
            return False
        try:
            found = x509.load_pem_x509_certificate(identity.certificate.read_bytes())
        except ValueError:
            found = None
        if found is not None and found.issuer == authority.subject and not _is_signed_by(found, authority):
            return False  # of an authority of ours that was moved away, because it had expired or its key was stolen
        if found is None or not _is_signed_by(found, authority):
            raise ConfigurationError(
                f"{identity.certificate} was not issued by the authority in {self.folder}, so it is not replaced. "
                "Point VIGIL_SERVER_IDENTITY at your own certificates, or move this folder away."
            )
        try:
            key = serialization.load_pem_private_key(identity.key.read_bytes(), password=None)
            believed = identity.authority.read_bytes()
        except (OSError, ValueError):
            return False
        return (
            found.not_valid_after_utc - self._now() >= timedelta(days=RENEW_BEFORE_DAYS)
            and key.public_key() == found.public_key()
            and found.subject == _subject(name)
            and set(_hosts_of(found)) == {_canonical(host) for host in hosts}
            and _pem(authority) in believed
            and f"{found.serial_number:x}" not in {issued.serial for issued in self.issued() if issued.revoked_at}
        )

    def issued(self) -> list[Issued]:
        """Return every certificate that was issued and has not expired, the oldest first.

        Raises:
            ConfigurationError: the list is damaged.
        """
        try:
            return msgspec.json.decode((self.folder / "issued.json").read_bytes(), type=list[Issued])
        except FileNotFoundError:
            return []
        except msgspec.DecodeError:
            raise ConfigurationError(
                f"{self.folder / 'issued.json'} is damaged: put it back from a copy, or move the authority away."
            ) from None

    def _remember(self, certificate: x509.Certificate, name: str, hosts: Sequence[str]) -> None:
        now = self._now()
        kept = [one for one in self.issued() if one.until > now]
        one = Issued(
            serial=f"{certificate.serial_number:x}",
            name=name,
            hosts=tuple(hosts),
            until=certificate.not_valid_after_utc,
        )
        _write(self.folder / "issued.json", msgspec.json.encode([*kept, one]), 0o600)

    def revoke(self, name_or_serial: str) -> list[Issued]:
        """Put certificates on the revocation list: one by its serial, or all of a name; return what was revoked now."""
        self.prepare()
        now = self._now()
        wanted = name_or_serial.strip()
        before = self.issued()
        after = [
            msgspec.structs.replace(one, revoked_at=now)
            if one.revoked_at is None and wanted in {one.name, one.serial}
            else one
            for one in before
        ]
        _write(self.folder / "issued.json", msgspec.json.encode(after), 0o600)
        self._write_revocations(after)
        return [new for old, new in zip(before, after, strict=True) if new is not old]

    def _write_revocations(self, issued: Sequence[Issued]) -> None:
        certificate, key = self._load()
        # Valid as long as the authority: the list lies beside those who read it, and one that had expired would make
        # every certificate unusable.
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(certificate.subject)
            .last_update(self._now())
            .next_update(certificate.not_valid_after_utc)
            .add_extension(_authority_key(certificate), critical=False)
        )
        for one in issued:
            if one.revoked_at is not None:
                entry = x509.RevokedCertificateBuilder().serial_number(int(one.serial, 16))
                builder = builder.add_revoked_certificate(entry.revocation_date(one.revoked_at).build())
        listed = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        _write(self.revocations, listed, 0o644)


def expires_at(certificate: Path) -> datetime:
    """Return until when a certificate holds.

    Raises:
        ConfigurationError: the file holds none.
    """
    try:
        return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{certificate} holds no certificate ({type(error).__name__}): expected PEM."
        ) from None


def _subject(name: str) -> x509.Name:
    # Only a common name: servers that map a certificate's whole name to a user (nats-server) then see "CN=<name>".
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _canonical(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.lower()


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host.lower())


def _constraint(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_network(host))
    except ValueError:
        return x509.DNSName(host.lower())


def _hosts_of(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in names]


def _authority_key(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    named = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(named)


def _key_usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _is_signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem_of_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes, mode: int) -> None:
    """Replace a file in one step; a private one is never readable by others, not even while it is written."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
