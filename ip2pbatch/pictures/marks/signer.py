"""Signs a finished file as Content Credentials (C2PA): the photo as its parent, what was done and by which model.

It is the last thing that is done to a file, for the signature is over all of its bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from ip2pbatch import __version__
from ip2pbatch.disk.opening import open_file
from ip2pbatch.errors import MissingError, PhotoError, UsageError
from ip2pbatch.pictures.marks.manifests import context, reason
from ip2pbatch.pictures.metadata import SOURCE_TYPE, Policy, Provenance
from ip2pbatch.plan.formats import FORMATS

if TYPE_CHECKING:
    from pathlib import Path

    from ip2pbatch.pictures.marks.certificates import Identity

_AGENT = {"name": "ip2pbatch", "version": __version__}
_MODEL, _UNSIGNED = "ip2pbatch.model", "ip2pbatch.unsigned"
# As EXIF, IPTC and schema.org call it where a photo was taken.
_WHERE = re.compile(
    r"gps(position|coordinates|dest)|latitude|longitude|location(created|shown)|contentlocation|c2pa\.location", re.I
)
_UNREADABLE = "Content Credentials (C2PA) of the photo left out of the new ones: they are damaged"
_TELL_WHERE = "Content Credentials (C2PA) of the photo left out of the new ones: they say where it was taken"


@dataclass(frozen=True, slots=True)
class Parent:
    """The photo that was edited. `kind` is its format in plan.formats; `signed`: it has Content Credentials."""

    path: Path
    kind: str
    signed: bool = False


@dataclass(frozen=True, slots=True)
class Signed:
    """A file's bytes with their signature, and what of the photo's own could not be kept, in words."""

    data: bytes
    notes: tuple[str, ...] = ()


class Signer:
    """Signs files for one person; safe to share between threads. `timestamp` is the address of an authority, or ""."""

    def __init__(self, identity: Identity, timestamp: str = "") -> None:
        self._identity, self._timestamp = identity, timestamp

    def sign(self, data: bytes, kind: str, parent: Parent, provenance: Provenance, policy: Policy) -> Signed:
        """A file of the format `kind`, signed. Raises PhotoError; UsageError where a command of the user's fails."""
        told = _edited(provenance, policy, hashlib.sha256(data).hexdigest())
        if policy.gps == "strip" and _tells_where(parent):
            return Signed(self._signed(_builder(_named(told, parent, provenance)), data, kind), (_TELL_WHERE,))
        builder = _builder_with(told, parent) or _builder(_named(told, parent, provenance))
        found = self._signed(builder, data, kind)
        lost = parent.signed and not _keeps_parent(found, kind)
        return Signed(found, (_UNREADABLE,) if lost else ())

    def rehearse(self) -> None:
        """Sign a small picture, so that what cannot be signed is known before anything else is done.

        Raises UsageError, or MissingError where the time-stamp authority does not answer.
        """
        from PIL import Image

        picture = io.BytesIO()
        Image.new("RGB", (8, 8)).save(picture, "JPEG")
        try:
            self._signed(_builder({"ingredients": [{"relationship": "parentOf"}]}), picture.getvalue(), "jpeg")
        except PhotoError as error:
            if self._timestamp and Signer(self._identity)._can_sign():
                raise MissingError(
                    f"the time-stamp authority {self._timestamp} gave no time-stamp: {error}",
                    hint="check the network and output.sign.timestamp, or leave it out",
                ) from None
            raise UsageError(f"output.sign: {error}", hint="check the certificate and its key") from None

    def _can_sign(self) -> bool:
        try:
            self.rehearse()
        except UsageError:
            return False
        return True

    def _signed(self, builder: Any, data: bytes, kind: str) -> bytes:
        import c2pa

        failed: list[UsageError] = []

        def sign(message: bytes) -> bytes:
            """The library only hears that it went wrong."""
            try:
                return self._identity.sign(message)
            except UsageError as error:
                failed.append(error)
                return b""

        signed, algorithm = io.BytesIO(), c2pa.C2paSigningAlg[self._identity.algorithm.upper()]
        try:
            signer = c2pa.Signer.from_callback(sign, algorithm, self._identity.chain, self._timestamp or None)
            builder.sign(signer, kind, io.BytesIO(data), signed)
        except c2pa.C2paError as error:
            if failed:
                raise failed[0] from None
            raise PhotoError(f"it could not be signed: {reason(error)}") from None
        return signed.getvalue()


def _builder(told: dict[str, Any]) -> Any:
    """What makes the claim; that the parent was opened is added by it."""
    import c2pa

    builder = c2pa.Builder(json.dumps({"claim_generator_info": [_AGENT], **told}), context())
    builder.set_intent(c2pa.C2paBuilderIntent.EDIT)
    return builder


def _builder_with(told: dict[str, Any], parent: Parent) -> Any | None:
    """The same with the photo's file as the parent, and its own chain; None where the library cannot read it."""
    import c2pa

    builder = _builder(told)
    try:
        with open_file(parent.path) as photo:
            builder.add_ingredient(json.dumps(_called(parent)), _media(parent), photo)
    except (c2pa.C2paError, OSError):
        builder.close()
        return None
    return builder


def _called(parent: Parent) -> dict[str, Any]:
    return {"title": parent.path.name, "relationship": "parentOf"}


def _named(told: dict[str, Any], parent: Parent, provenance: Provenance) -> dict[str, Any]:
    """With a parent that is named, and known by its digest, and not read."""
    known = {"format": _media(parent), "instance_id": f"sha256:{provenance.source}"}
    return told | {"ingredients": [_called(parent) | known]}


def _edited(provenance: Provenance, policy: Policy, unsigned: str) -> dict[str, Any]:
    """What was done: edited by a model, and by which words where they may be told; `unsigned` is of what is signed."""
    parameters: dict[str, Any] = {_MODEL: f"{provenance.family} ({provenance.model})", _UNSIGNED: unsigned}
    if provenance.model_digest:
        parameters["ip2pbatch.modelDigest"] = provenance.model_digest
    action = {"action": "c2pa.edited", "softwareAgent": _AGENT, "digitalSourceType": SOURCE_TYPE}
    if policy.prompt:
        parameters["ip2pbatch.instructions"] = list(provenance.instructions)
        action["description"] = "; then ".join(provenance.instructions)
    actions = [action | {"parameters": parameters}]
    return {"assertions": [{"label": "c2pa.actions.v2", "data": {"actions": actions}}]}


def _media(parent: Parent) -> str:
    """How the library calls the photo's format: a camera's by its suffix, for there are many."""
    return parent.path.suffix.lower().lstrip(".") if parent.kind == "raw" else FORMATS[parent.kind].name


def _stores(data: IO[bytes], kind: str) -> Iterator[dict[str, Any]]:
    """The manifests of a file, the newest first; none where they cannot be read."""
    import c2pa

    with suppress(c2pa.C2paError), c2pa.Reader(kind, data, context=context(verify=False)) as reader:
        told = json.loads(reader.json())
        newest = told["active_manifest"]
        yield told["manifests"].pop(newest)
        yield from told["manifests"].values()


def unsigned_of(path: Path, kind: str) -> str:
    """The sha256 of what was signed here in a file that nobody changed since; "" of other files."""
    import c2pa

    with suppress(c2pa.C2paError, OSError), open_file(path) as file, c2pa.Reader(kind, file, context=context()) as it:
        told = json.loads(it.json())
        if told["validation_state"] != "Invalid":
            return str(next(_parameters(told["manifests"][told["active_manifest"]]), {}).get(_UNSIGNED, ""))
    return ""


def _parameters(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Those of its edits."""
    for assertion in manifest.get("assertions", ()):
        if assertion["label"].startswith("c2pa.actions"):
            edits = (one for one in assertion["data"]["actions"] if one["action"] == "c2pa.edited")
            yield from (one.get("parameters", {}) for one in edits)


def _tells_where(parent: Parent) -> bool:
    with suppress(OSError), open_file(parent.path) as photo:
        return any(_WHERE.search(json.dumps(store)) for store in _stores(photo, _media(parent)))
    return False


def _keeps_parent(data: bytes, kind: str) -> bool:
    """Whether the photo's own credentials are part of the chain."""
    newest = next(_stores(io.BytesIO(data), kind), {})
    return any("active_manifest" in one for one in newest.get("ingredients", ()))
