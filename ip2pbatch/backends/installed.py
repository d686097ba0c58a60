"""What may be missing of an installation, and the pip line that brings it.

ip2pbatch-light is this package without the libraries that make pictures: it plans, compares and shows.
"""

from __future__ import annotations

from importlib.util import find_spec

from ip2pbatch.errors import MissingError

_COMPLETE = "pip install ip2pbatch"
_TRAIN = "pip install 'ip2pbatch[train]'"
BROUGHT_BY: dict[str, str] = {
    **dict.fromkeys(("torch", "diffusers", "transformers", "accelerate"), _COMPLETE),
    **dict.fromkeys(("scipy", "skimage", "webdataset", "tensorboard", "matplotlib", "peft", "pyarrow"), _TRAIN),
}
"""By the name of the module."""


def is_installed(library: str) -> bool:
    """Whether it could be imported; it is not, which may take seconds."""
    return find_spec(library) is not None


def refuse_without(*libraries: str) -> None:
    """Raises MissingError for the first that is not installed, before any work that would be in vain."""
    for library in libraries:
        if not is_installed(library):
            raise _missing(library)


def lacking(error: ModuleNotFoundError) -> MissingError | None:
    """The same of an import that failed; None where it is not for a library of ours that is missing."""
    return _missing(error.name) if error.name in BROUGHT_BY else None


def _missing(library: str) -> MissingError:
    return MissingError(f"this needs {library}, which is not installed", hint=BROUGHT_BY[library])
