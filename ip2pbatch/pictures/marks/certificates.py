"""The certificate and the key that files are signed with, read and held to what C2PA asks of a signer's."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ip2pbatch.errors import UsageError

if TYPE_CHECKING:
    from cryptography import x509

    from ip2pbatch.plan.written.outputs import Signing

PASSPHRASE = "IP2PBATCH_KEY_PASSPHRASE"
"""The environment variable with the passphrase of a key that has one."""

# What a signer's certificate must be for, one of them: https://spec.c2pa.org, "Certificate Profile".
PURPOSES = {
    "1.3.6.1.4.1.62558.2.1": "C2PA claim signing", "1.3.6.1.5.5.7.3.36": "document signing",
    "1.3.6.1.5.5.7.3.4": "e-mail protection", "1.3.6.1.4.1.311.76.59.1.9": "Microsoft's C2PA signing",
}  # fmt: skip
_ANY_PURPOSE = "2.5.29.37.0"
_CURVES = {"secp256r1": ("es256", 32), "secp384r1": ("es384", 48), "secp521r1": ("es512", 66)}
_PATIENCE = 60.0  # seconds for a command that signs
_PROBE = b"ip2pbatch: does this key belong to this certificate?"
_TRY = "`ip2pbatch marks --test-certificate DIR` makes one to try with"

Sign = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who signs: certificates as PEM, the signer's first; COSE's name of the algorithm; what signs bytes."""

    chain: str
    algorithm: str
    sign: Sign


def fingerprint(written: Signing) -> str:
    """16 hex digits over the certificate and how it is used. Raises UsageError where it cannot be read."""
    told = _read(written.certificate, "certificate") + b"\0" + (written.timestamp or "").encode()
    return hashlib.sha256(told).hexdigest()[:16]


def identity(written: Signing, command: str | None, now: datetime) -> Identity:
    """The signer that a recipe names, whose key is in a file or behind `command`. Raises UsageError."""
    path = written.certificate
    chain = _chain(path)
    algorithm = _fit(chain[0], path, now)
    if written.key is not None:
        sign = _by_key(_key(written.key), chain[0], written.key, path)
    elif command:
        sign = _by_command(command, chain[0], path)
    else:
        raise UsageError(
            f"output.sign has no key for {path}, and no command signs",
            hint="key: key.pem in the recipe, or a command in the environment variable IP2PBATCH_SIGNER",
        )
    return Identity(_pem(chain), algorithm, sign)


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        why, hint = error.strerror or type(error).__name__, f"give the path of a PEM file; {_TRY}"
        raise UsageError(f"output.sign.{what}: {path}: {why}", hint=hint) from None


def _chain(path: Path) -> list[x509.Certificate]:
    from cryptography import x509

    data = _read(path, "certificate")
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError:
        raise UsageError(
            f"output.sign.certificate: {path} holds no certificate",
            hint="a PEM file begins with -----BEGIN CERTIFICATE-----; the key is another file, in output.sign.key",
        ) from None


def _pem(chain: list[x509.Certificate]) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    return "".join(one.public_bytes(Encoding.PEM).decode() for one in chain)


def _fit(leaf: x509.Certificate, path: Path, now: datetime) -> str:
    """The algorithm that it signs by. Raises UsageError where C2PA would not take its signature."""
    if now < leaf.not_valid_before_utc:
        raise _refused(path, f"is valid from {leaf.not_valid_before_utc:%Y-%m-%d} on", "wait, or name another one")
    if now > leaf.not_valid_after_utc:
        raise _refused(path, f"expired on {leaf.not_valid_after_utc:%Y-%m-%d}", "have it renewed")
    if why := _why_no_signer(leaf):
        raise _refused(path, f"is not allowed for C2PA: {why}", f"ask its authority for another one; {_TRY}")
    return _algorithm(leaf.public_key(), path)


def _refused(path: Path, why: str, hint: str) -> UsageError:
    return UsageError(f"output.sign.certificate: {path} {why}", hint=hint)


def _why_no_signer(leaf: x509.Certificate) -> str:
    """What C2PA's profile of certificates misses in this one, "" where nothing."""
    from cryptography import x509

    def extension(kind: type[Any]) -> Any:
        try:
            return leaf.extensions.get_extension_for_class(kind).value
        except x509.ExtensionNotFound:
            return None

    basic, use, purposes = extension(x509.BasicConstraints), extension(x509.KeyUsage), extension(x509.ExtendedKeyUsage)
    if basic is not None and basic.ca:
        return "it is an authority's own; the signer's comes first in the file"
    if leaf.issuer == leaf.subject:
        return "it is signed by itself and by no authority"
    if use is None or not use.digital_signature:
        return "its key usage is not digital signature"
    known = {purpose.dotted_string for purpose in purposes or ()}
    if _ANY_PURPOSE in known or not known & PURPOSES.keys():
        return f"its purpose (extended key usage) is none of {', '.join(PURPOSES.values())}"
    return ""


def _algorithm(key: object, path: Path) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return _CURVES[key.curve.name][0]
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= 2048:
        return "ps256"
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "ed25519"
    kinds = "P-256, P-384, P-521, Ed25519, or RSA of 2,048 bits and more"
    raise _refused(path, "is not allowed for C2PA: its key is of another kind or too short", f"use a key of {kinds}")


def _key(path: Path) -> Any:
    """The private key in a file. What goes wrong is said without what was read."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data, passphrase = _read(path, "key"), os.environ.get(PASSPHRASE, "")
    locked = b"ENCRYPTED" in data
    if locked and not passphrase:
        raise UsageError(
            f"output.sign.key: {path} is locked with a passphrase",
            hint=f"put it into the environment variable {PASSPHRASE}, never into a recipe",
        )
    try:
        return load_pem_private_key(data, passphrase.encode() if locked else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        why = f"cannot be opened with the passphrase in {PASSPHRASE}" if locked else "holds no private key"
        hint = "check the passphrase" if locked else "a PEM file begins with -----BEGIN PRIVATE KEY-----"
        raise UsageError(f"output.sign.key: {path} {why}", hint=hint) from None


def _by_key(key: Any, leaf: x509.Certificate, path: Path, certificate: Path) -> Sign:
    """What signs with a private key, which must be the certificate's. Raises UsageError."""
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    def public(one: Any) -> bytes:
        return bytes(one.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))

    if public(key.public_key()) != public(leaf.public_key()):
        raise UsageError(
            f"output.sign.key: {path} does not belong to the certificate in {certificate}",
            hint="the signer's own certificate comes first in its file; name the key that it was made for",
        )
    if isinstance(key, ec.EllipticCurvePrivateKey):
        way = ec.ECDSA(_hash(key))
        return lambda data: key.sign(data, way)
    if isinstance(key, rsa.RSAPrivateKey):
        return lambda data: key.sign(data, *_pss())
    return lambda data: bytes(key.sign(data))


def _hash(key: Any) -> Any:
    from cryptography.hazmat.primitives import hashes

    ways: dict[str, hashes.HashAlgorithm] = {
        "secp256r1": hashes.SHA256(), "secp384r1": hashes.SHA384(), "secp521r1": hashes.SHA512(),
    }  # fmt: skip
    return ways[key.curve.name]


def _pss() -> tuple[Any, Any]:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    way = hashes.SHA256()
    return padding.PSS(padding.MGF1(way), way.digest_size), way


def _by_command(command: str, leaf: x509.Certificate, certificate: Path) -> Sign:
    """What signs through a program: bytes on stdin, their signature on stdout. Raises UsageError.

    Neither its arguments nor what it says are repeated anywhere: both may hold what is secret.
    """
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    if not words:
        raise UsageError("IP2PBATCH_SIGNER is no command", hint="a program and its arguments, quoted as in a shell")
    name = Path(words[0]).name

    def sign(data: bytes) -> bytes:
        hint = "it gets bytes on stdin and writes their signature to stdout; try it by hand"
        try:
            done = subprocess.run(words, input=data, capture_output=True, timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            raise UsageError(f"{name} in IP2PBATCH_SIGNER did not sign in {_PATIENCE:.0f} s", hint=hint) from None
        except OSError as error:
            raise UsageError(f"{name} in IP2PBATCH_SIGNER cannot be run: {error.strerror}", hint=hint) from None
        if done.returncode or not done.stdout:
            raise UsageError(f"{name} in IP2PBATCH_SIGNER did not sign: it ended with {done.returncode}", hint=hint)
        return done.stdout

    if not _holds(leaf.public_key(), sign(_PROBE), _PROBE):
        raise UsageError(
            f"what {name} in IP2PBATCH_SIGNER signs does not belong to the certificate in {certificate}",
            hint="the bare signature is wanted (not as text), by the key that the certificate was made for",
        )
    return sign


def _holds(key: Any, signature: bytes, data: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(_as_der(signature, _CURVES[key.curve.name][1]), data, ec.ECDSA(_hash(key)))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, data, *_pss())
        else:
            key.verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def _as_der(signature: bytes, size: int) -> bytes:
    """An ECDSA signature as ASN.1, which may be two bare numbers, as COSE has them."""
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    if len(signature) != 2 * size:
        return signature
    return encode_dss_signature(int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big"))
