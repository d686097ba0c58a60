"""The one place that speaks to a store, through obstore: S3, Google Cloud Storage and Azure by the same functions.

Credentials are the provider's own business: the environment, a profile, the machine's role. None is read, kept or said
here. Every wait has an end: a request is tried three times within seconds.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache, cached_property
from importlib.util import find_spec
from mimetypes import guess_type
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from ip2pbatch.disk.buckets.locations import Location
from ip2pbatch.errors import Ip2pError, MissingError, PlanError, UnreachableError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

INSTALL = "pip install 'ip2pbatch[s3]'"

Trouble = Literal["gone", "changed", "no bucket", "refused", "no credentials", "clock", "unreachable", "no key"]

_CLASSES = {"s3": "S3Store", "gs": "GCSStore", "az": "AzureStore"}
_ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")
_CLIENT = {
    "connect_timeout": "3s",
    "read_timeout": "15s",
    "timeout": "1h",
}  # a large photo on a slow line takes its time
_RETRIES: Any = {
    "max_retries": 2,
    "retry_timeout": timedelta(seconds=20),
    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=2), "base": 2},
}
_SMALL, _SENDING = 1 << 18, "10m"  # bytes that a slow line sends within a read's time, and the time for more
_PAGE = 1000  # objects of a listing that are handed over together, as the stores do
_BLOCK = 1 << 20
_PROFILES = {"AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials", "AWS_CONFIG_FILE": "~/.aws/config"}
_NO_ETAG = "written at "

# Where machines in a cloud ask for their role, which fails where there is none.
_ROLES = ("169.254.169.254", "169.254.170.2", "metadata.google.internal", "fd00:ec2::254", "/latest/api/token")
_CREDENTIALS = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "TokenRefreshRequired")
_HINTS: dict[Trouble, str] = {
    "no bucket": "check its name, and its region and the store's address in the environment (docs/buckets.md)",
    "refused": "check who may list and read it, or write there, and that the credentials are of the right account",
    "no credentials": "give them as the provider has it: its environment variables, a profile, or the machine's role",
    "clock": "set this machine's clock: a store takes requests of the last minutes only",
    "unreachable": "check the network, and the store's address in the environment (docs/buckets.md); then run again",
    "no key": "give the objects keys whose parts are not empty, `.` or `..`",
}


class StoreError(OSError):
    """What became of a request, in words that hold no secret; an OSError, as of a file that cannot be read."""

    def __init__(self, trouble: Trouble, why: str) -> None:
        super().__init__(errno.ENOENT if trouble == "gone" else errno.EIO, why)
        self.trouble, self.why = trouble, why

    def __reduce__(self) -> tuple[type[StoreError], tuple[Trouble, str]]:
        return StoreError, (self.trouble, self.why)

    @property
    def ends(self) -> bool:
        """Whether it is of the whole store, and not of one object."""
        return self.trouble in ("no bucket", "no credentials", "clock", "unreachable")

    def as_error(self) -> Ip2pError:
        """The same as what ends a command."""
        kind = PlanError if self.trouble in ("gone", "no key") else UnreachableError
        return kind(self.why, hint=_HINTS.get(self.trouble))


@dataclass(frozen=True, slots=True)
class Version:
    """What tells an object from what its key had before: its ETag and its size in bytes. `modified` is in seconds;
    `generation` is what Google's store wants to hear besides of an object that is to be replaced.
    """

    etag: str
    size: int
    modified: float
    generation: str = field(default="", compare=False)

    @property
    def has_etag(self) -> bool:
        """Whether the store gave one; else it is when the object was written."""
        return not self.etag.startswith(_NO_ETAG)


class Store:
    """One bucket. Safe to use from several threads.

    Everything here raises StoreError where one object cannot be had, and UnreachableError where none can.
    """

    def __init__(self, scheme: str, bucket: str) -> None:
        self.place = Location(scheme, bucket, "")
        self._store = _opened(scheme, bucket)

    @cached_property
    def _patient(self) -> ObjectStore:
        """The same for what takes long to send: the wait for an answer begins with the first byte that is sent."""
        return _opened(self.place.scheme, self.place.bucket, read_timeout=_SENDING)

    def listing(self, prefix: str) -> Iterator[tuple[str, Version]]:
        """The key and the version of every object below `prefix/`, "" for all, in the order of their keys."""
        try:
            for page in self._store.list(prefix or None, chunk_size=_PAGE):
                yield from ((meta["path"], _version(meta)) for meta in page)
        except Exception as error:
            raise self._trouble(error, prefix) from None

    def version(self, key: str) -> Version:
        """What an object is now, by its head."""
        try:
            return _version(self._store.head(key))
        except Exception as error:
            raise self._trouble(error, key) from None

    def fetch(self, key: str, version: Version) -> Fetched:
        """Begin to read an object, of this version alone."""
        options: Any = {"if_match": version.etag} if version.has_etag else {}
        try:
            return Fetched(self, key, version, self._store.get(key, options=options))
        except Exception as error:
            raise self._trouble(error, key) from None

    def put(self, key: str, file: bytes | Path, replaces: Version | None) -> Version:
        """Write an object whole, in the place of this version of it and of no other one, None where there must be none;
        what it is now. Raises StoreError, "changed" where that is not so.
        """
        mode: Any = "create"
        if replaces is not None:
            told = {"e_tag": replaces.etag} | ({"version": replaces.generation} if replaces.generation else {})
            mode = told if replaces.has_etag else "overwrite"
        size = len(file) if isinstance(file, bytes) else file.stat().st_size
        store = self._store if size < _SMALL else self._patient
        try:
            kind: Any = {"Content-Type": guess_type(key)[0] or "application/octet-stream"}  # for whoever opens a page
            etag = store.put(key, file, attributes=kind, mode=mode, use_multipart=False)["e_tag"]
        except Exception as error:
            raise self._trouble(error, key, writing=True) from None
        return Version(etag, size, 0.0) if etag else self.version(key)

    def remove(self, key: str) -> None:
        """Remove an object; one that is gone already is nobody's trouble."""
        try:
            self._store.delete(key)
        except FileNotFoundError:
            return
        except Exception as error:
            raise self._trouble(error, key, writing=True) from None

    def _trouble(self, error: Exception, key: str, *, writing: bool = False) -> Exception:
        if isinstance(error, (StoreError, Ip2pError)):
            return error
        said = _said(error, Location(self.place.scheme, self.place.bucket, key))
        return said.as_error() if said.ends or (writing and said.trouble == "refused") else said


@dataclass(frozen=True, slots=True)
class Fetched:
    """An object of which the first bytes are here."""

    store: Store
    key: str
    version: Version
    got: Any

    def write(self, file: IO[bytes]) -> None:
        """Its bytes, all of them. Raises StoreError, and OSError of the file."""
        blocks, count = iter(self.got.stream(min_chunk_size=_BLOCK)), 0
        while True:
            try:
                block = next(blocks, None)
            except Exception as error:
                raise self.store._trouble(error, self.key) from None
            if block is None:
                break
            count += file.write(block)
        if count != self.version.size:
            raise StoreError("changed", f"{self.key}: {count:,} of {self.version.size:,} bytes came")


_OPENING = threading.Lock()


def store_of(place: Location) -> Store:
    """The store of a bucket, opened once a process. Raises UnreachableError, MissingError without obstore."""
    with _OPENING:
        return opened_store(place.scheme, place.bucket)


@cache
def opened_store(scheme: str, bucket: str) -> Store:
    """Those that this process opened."""
    return Store(scheme, bucket)


def refuse_without_library() -> None:
    """Raises MissingError where the library for stores is not installed; it is not imported."""
    if find_spec("obstore") is None:
        raise MissingError("what lies in a bucket needs obstore, which is not installed", hint=INSTALL)


def _opened(scheme: str, bucket: str, **others: str) -> ObjectStore:
    refuse_without_library()
    from obstore import store as stores

    plain = any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS)
    options: Any = _CLIENT | others | ({"allow_http": True} if plain else {})
    provider = _profile() if scheme == "s3" else None
    more = {} if provider is None else {"credential_provider": provider}
    try:
        opened: ObjectStore = getattr(stores, _CLASSES[scheme])(
            bucket, client_options=options, retry_config=_RETRIES, **more
        )
    except Exception as error:
        raise _said(error, Location(scheme, bucket, "")).as_error() from None
    return opened


def _profile() -> Any:
    """What reads a profile of ~/.aws, where one is meant: boto3 does, and knows of SSO and roles to take on. None where
    the environment or the machine's role is to say.
    """
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return None
    named = os.environ.get("AWS_PROFILE", "")
    written = (os.environ.get(name) or place for name, place in _PROFILES.items())
    if not named and not any(Path(place).expanduser().is_file() for place in written):
        return None
    if find_spec("boto3") is None:
        if named:
            raise MissingError(
                f"the profile {named} of AWS_PROFILE needs boto3, which is not installed", hint="pip install boto3"
            )
        return None
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        return Boto3CredentialProvider()
    except Exception as error:  # botocore's, for each of the ways in which a profile can be wrong
        why = f"the profile {named} could not be used" if named else "no credentials were found in ~/.aws"
        raise StoreError("no credentials", f"{why} ({type(error).__name__})").as_error() from None


def _version(meta: Any) -> Version:
    modified = meta["last_modified"].timestamp()
    return Version(meta["e_tag"] or f"{_NO_ETAG}{modified!r}", meta["size"], modified, meta["version"] or "")


def _said(error: Exception, place: Location) -> StoreError:
    """A library's error, by what a person can do about it. Its own text quotes the store's answer: that ends here."""
    from obstore import exceptions as of

    text, bucket = str(error), f"{place.scheme}://{place.bucket}"

    def tells(*words: str) -> bool:
        return any(word in text for word in words)

    if tells("NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist"):
        return StoreError("no bucket", f"there is no bucket {bucket}")
    if tells("301 Moved", "PermanentRedirect", "AuthorizationHeaderMalformed"):
        return StoreError("no bucket", f"{bucket} is in another region")
    if tells("RequestTimeTooSkewed", "RequestExpired"):
        return StoreError("clock", f"{bucket}: this machine's clock differs from the store's")
    if isinstance(error, of.UnauthenticatedError) or tells(*_ROLES, *_CREDENTIALS):
        return StoreError("no credentials", f"{bucket}: no credentials were found, or they are not taken")
    if isinstance(error, FileNotFoundError):
        return StoreError("gone", f"{place} is not there")
    if isinstance(error, (of.PreconditionError, of.AlreadyExistsError)):
        return StoreError("changed", f"{place} was changed meanwhile")
    if isinstance(error, of.PermissionDeniedError) or tells("403 Forbidden", "AccessDenied"):
        return StoreError("refused", f"{place}: the store refuses it")
    if isinstance(error, (of.InvalidPathError, ValueError)):
        return StoreError("no key", f"{bucket} has an object whose key cannot be asked for")
    answered = next((code for code in ("500", "501", "502", "503", "504", "429") if f" {code} " in text), "")
    return StoreError("unreachable", f"{bucket} {f'answers {answered}' if answered else 'does not answer'}")
