"""A certificate authority and a signer's certificate of it, for trying: nobody else knows them."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ip2pbatch.disk.atomic import disk_error, write_whole
from ip2pbatch.errors import UsageError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

AUTHORITY, CERTIFICATE, KEY = "authority.pem", "certificate.pem", "key.pem"
_PURPOSE = "1.3.6.1.5.5.7.3.4"  # e-mail protection: the one that every validator takes without being told
_DAYS = 365


def make(folder: Path, now: datetime | None = None) -> tuple[Path, Path, Path]:
    """Write authority, certificate and key as PEM; their paths. Raises UsageError where one is there already."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    authority, certificate, key = (folder / name for name in (AUTHORITY, CERTIFICATE, KEY))
    if there := [path for path in (authority, certificate, key) if path.exists() or path.is_symlink()]:
        raise UsageError(f"{there[0]} is there already", hint="name another folder: no key is ever written over")
    root, signer = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    now = now or datetime.now(UTC)
    of_root, of_signer = (one.public_bytes(Encoding.PEM) for one in _certificates(root, signer, now))
    write_whole(authority, of_root)
    write_whole(certificate, of_signer + of_root)
    _write_secret(key, signer.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return authority, certificate, key


def _certificates(
    root: EllipticCurvePrivateKey, signer: EllipticCurvePrivateKey, now: datetime
) -> tuple[x509.Certificate, x509.Certificate]:
    """The authority's, signed by itself, and the signer's, signed by it."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256

    theirs, ours = _name("ip2pbatch trial authority"), _name("ip2pbatch trial signer")
    days, allowed = timedelta(days=_DAYS), x509.ExtendedKeyUsage([x509.ObjectIdentifier(_PURPOSE)])
    made = []
    for name, own, is_root in ((theirs, root.public_key(), True), (ours, signer.public_key(), False)):
        builder = x509.CertificateBuilder(theirs, name, own, x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(minutes=5)).not_valid_after(now + days)
        builder = builder.add_extension(x509.BasicConstraints(is_root, 0 if is_root else None), critical=True)
        builder = builder.add_extension(_use(signs_certificates=is_root), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(own), critical=False)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key())
        builder = builder.add_extension(identifier, critical=False)
        builder = builder if is_root else builder.add_extension(allowed, critical=False)
        made.append(builder.sign(root, SHA256()))
    return made[0], made[1]


def _name(common: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    parts = {NameOID.ORGANIZATION_NAME: "for trying only", NameOID.COMMON_NAME: common}
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in parts.items()])


def _use(*, signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_certificates, key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _write_secret(path: Path, data: bytes) -> None:
    """A new file that only its owner may read."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
    except OSError as error:
        raise disk_error(error, path) from error
