"""The Content Credentials (C2PA) of a file: who signed it, what was said, and whether it still holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ip2pbatch.disk.opening import open_file
from ip2pbatch.pictures.marks.manifests import INSTALL, context, is_installed, reason

State = Literal["valid", "unknown signer", "altered", "invalid", "missing", "not checked"]

# What a source type of IPTC's says where a model made a picture, or a part of it.
MADE_BY_AI = ("trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia", "compositeSynthetic")
_ABSENT = ("ManifestNotFound", "NotSupported")
# Failures that leave every byte as it was signed: of the certificate, or of its time.
_OF_THE_SIGNER = ("signingCredential.", "timeStamp.", "claimSignature.outsideValidity")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What became of looking. `source_types` are those that the file's whole chain tells of, by their last part.

    "valid": signed by somebody whom a trusted authority knows; "unknown signer": by somebody else; "altered": the file
    is not what was signed; "invalid": it is, and the certificate does not hold, as one that has expired.
    """

    state: State = "missing"
    why: str = ""
    signer: str = ""
    signed: str = ""
    source_types: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether it is there and as it was signed."""
        return self.state in ("valid", "unknown signer")

    @property
    def says_ai(self) -> bool:
        """Whether it tells of a model."""
        return not set(MADE_BY_AI).isdisjoint(self.source_types)


def read(path: Path, kind: str, trusted: str = "") -> Credentials:
    """Those of a file whose format the library calls `kind`; `trusted` are authorities' certificates as PEM."""
    if not is_installed():
        return Credentials("not checked", INSTALL)
    import c2pa

    try:
        with open_file(path) as file, c2pa.Reader(kind, file, context=context(trusted)) as reader:
            return _found(json.loads(reader.json()))
    except OSError as error:
        return Credentials("missing", error.strerror or str(error))
    except c2pa.C2paError as error:
        if str(error).startswith(_ABSENT):
            return Credentials()
        return Credentials("altered", reason(error))


def _found(told: dict[str, Any]) -> Credentials:
    newest = told["manifests"][told["active_manifest"]]
    by = newest.get("signature_info") or {}
    named, issuer = by.get("common_name") or "", by.get("issuer") or ""
    signer = f"{named} ({issuer})" if named and issuer not in ("", named) else named or issuer
    types = tuple(dict.fromkeys(kind for one in told["manifests"].values() for kind in _source_types(one)))
    state, why = _state(told)
    return Credentials(state, why, signer, by.get("time") or "", types)


def _state(told: dict[str, Any]) -> tuple[State, str]:
    """What the library found, in our words, and why where it does not hold."""
    if told.get("validation_state") == "Trusted":
        return "valid", ""
    if told.get("validation_state") == "Valid":
        return "unknown signer", ""
    failures = told.get("validation_results", {}).get("activeManifest", {}).get("failure", [])
    of_file = [one for one in failures if not one["code"].startswith(_OF_THE_SIGNER)]
    of_signer = [one for one in failures if one["code"] != "signingCredential.untrusted"]
    worst = next(iter((*of_file, *of_signer)), {"code": "what was signed does not hold"})
    code, said = worst["code"], worst.get("explanation") or worst["code"]
    why = "its bytes are not those that were signed" if code.endswith("Hash.mismatch") else reason(said)
    return "altered" if of_file or not of_signer else "invalid", why


def _source_types(manifest: dict[str, Any]) -> Iterator[str]:
    """Those of a manifest's actions."""
    for assertion in manifest.get("assertions") or ():
        data = assertion.get("data")
        for action in data.get("actions") or () if isinstance(data, dict) else ():
            if isinstance(kind := action.get("digitalSourceType"), str):
                yield kind.rpartition("/")[2]
