"""Certificates and keys that sign, and some that must not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from ip2pbatch.plan.written.outputs import Signing

KEYS = {
    "es256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "es384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "es512": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ps256": lambda: rsa.generate_private_key(65537, 2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "k256": lambda: ec.generate_private_key(ec.SECP256K1()),
}
EMAIL, SERVER, TIME_STAMPING = (f"1.3.6.1.5.5.7.3.{number}" for number in (4, 1, 8))


def made(
    folder: Path, kind: str = "es256", *, days: tuple[int, int] = (-1, 30), purpose: str = EMAIL, own: bool = False,
    authority: bool = False, signs: bool = True, passphrase: str = "", timestamp: str | None = None,
) -> Signing:  # fmt: skip
    """What a recipe's `output.sign` says of a new certificate and its key; `own`: it is signed by itself."""
    folder.mkdir(parents=True, exist_ok=True)
    root, key = ec.generate_private_key(ec.SECP256R1()), KEYS[kind]()
    named, by = _name("signer"), _name("signer" if own else "authority")
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(by, named, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now + timedelta(days[0])).not_valid_after(now + timedelta(days[1]))
    builder = builder.add_extension(x509.BasicConstraints(authority, None), True)
    builder = builder.add_extension(_use(signs), True)
    for_what = x509.ExtendedKeyUsage([x509.ObjectIdentifier(purpose)])
    builder = builder.add_extension(for_what, purpose == TIME_STAMPING)
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key()), False)
    certificate = builder.sign(key if own else root, None if own and kind == "ed25519" else hashes.SHA256())
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    shut: KeySerializationEncryption = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, shut))
    return Signing(certificate=folder / "certificate.pem", key=folder / "key.pem", timestamp=timestamp)


def _name(common: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Studio Jo"), x509.NameAttribute(NameOID.COMMON_NAME, common)]
    )


def _use(signs: bool) -> x509.KeyUsage:
    rest: dict[str, Any] = dict.fromkeys(
        ("content_commitment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign", "encipher_only",
         "decipher_only"), False,
    )  # fmt: skip
    return x509.KeyUsage(digital_signature=signs, key_encipherment=not signs, **rest)
