"""Certificates for tests of listeners: an authority, what it issues, and all that a listener must refuse.

Here: small certificates by the `cryptography` package, none of our own code.
Not here: the authority that `vigil up` makes (orchestration.certificates, tested in tests/orchestration).
"""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vocabulary.tls import Identity

DAY = datetime.timedelta(days=1)


class Issuer(NamedTuple):
    """An authority of a test."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def made(cls, name: str = "test authority") -> Issuer:
        """A new one."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name)
        built = _builder(subject, subject, key, -1, 30).add_extension(x509.BasicConstraints(True, 0), critical=True)
        built = built.add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        ).add_extension(_usage(is_authority=True), critical=True)
        return cls(built.sign(key, hashes.SHA256()), key)

    def issue(
        self, folder: Path, name: str, *, first_day: float = -1, last_day: float = 10, is_self_signed: bool = False
    ) -> Identity:
        """Write an identity folder for `name`, valid from and until some days from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name)
        issuer, signer = (subject, key) if is_self_signed else (self.certificate.subject, self.key)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        built = (
            _builder(subject, issuer, key, first_day, last_day)
            .add_extension(x509.BasicConstraints(False, None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(_usage(is_authority=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        )
        identity = Identity(folder)
        folder.mkdir(parents=True)
        identity.certificate.write_bytes(built.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        identity.authority.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        identity.key.touch(mode=0o600)
        identity.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return identity

    def revoke(self, *identities: Identity) -> bytes:
        """A revocation list with the certificates of some identities."""
        now = datetime.datetime.now(datetime.UTC)
        named = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        built = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now - DAY)
            .next_update(now + DAY)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(named), critical=False)
        )
        for identity in identities:
            serial = x509.load_pem_x509_certificate(identity.certificate.read_bytes()).serial_number
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - DAY)
            built = built.add_revoked_certificate(entry.build())
        return built.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def wrong_identities(issuer: Issuer, folder: Path, name: str) -> dict[str, Identity]:
    """Certificates that no listener may take for `name`'s, each trusting `issuer` so that only the listener refuses."""
    other = Issuer.made("test authority")  # the same name, another key
    made = {
        "expired": issuer.issue(folder / "expired", name, first_day=-10, last_day=-1),
        "not yet valid": issuer.issue(folder / "early", name, first_day=1, last_day=2),
        "another authority": other.issue(folder / "other", name),
        "self-signed": issuer.issue(folder / "self", name, is_self_signed=True),
        "none": issuer.issue(folder / "none", name),
    }
    made["another authority"].authority.write_bytes(issuer.certificate.public_bytes(serialization.Encoding.PEM))
    made["none"].certificate.unlink()
    return made


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, first_day: float, last_day: float
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return x509.CertificateBuilder(
        issuer, subject, key.public_key(), x509.random_serial_number(), now + first_day * DAY, now + last_day * DAY
    )


def _usage(*, is_authority: bool) -> x509.KeyUsage:
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
