"""The library that signs and reads Content Credentials (c2pa-python): whether it is there, and how it is set up."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Any

from ip2pbatch.errors import MissingError
from ip2pbatch.pictures.marks.certificates import PURPOSES

INSTALL = "pip install 'ip2pbatch[c2pa]'"
_PLACE = re.compile(r"\(?self#jumbf=\S*")


def is_installed() -> bool:
    """Whether files can be signed, and signatures be checked."""
    return find_spec("c2pa") is not None and find_spec("cryptography") is not None


def refuse_without() -> None:
    """Raises MissingError where it is not installed."""
    if not is_installed():
        raise MissingError("signing needs c2pa-python, which is not installed", hint=INSTALL)


def context(trusted: str = "", *, verify: bool = True) -> Any:
    """The library's settings: nothing is fetched, no thumbnail is made, every purpose of C2PA's counts.

    `trusted` are authorities' certificates, as PEM; `verify` compares hashes while a file is read.
    """
    import c2pa

    trust = {"trust_config": "\n".join(PURPOSES)} | ({"trust_anchors": trusted} if trusted else {})
    told = {
        "builder": {"thumbnail": {"enabled": False}},
        "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_after_reading": verify},
        "trust": trust,
    }
    return c2pa.Context(c2pa.Settings.from_dict(told))


def reason(error: Exception | str) -> str:
    """What the library says, in a line, without the places in its store."""
    said = " ".join(_PLACE.sub("", str(error)).split())
    return said.strip(" ,;") or "it says not why"
