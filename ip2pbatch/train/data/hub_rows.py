"""Rows of a data set of the hub, at one commit: a file is fetched when a picture of it is asked for, and few are kept.

Of parquet files the footers and the columns of texts are read where they lie, a range of bytes at a time; a tar or a
JSONL file is fetched for its rows to be counted. How many rows each file has is remembered. Files lie in this user's
cache, HELD of them; who asks for rows in the order of `file_of` fetches each file once.
"""

from __future__ import annotations

import io
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np

from ip2pbatch.backends import hub
from ip2pbatch.backends.weights import first_line, unreachable
from ip2pbatch.disk.remembered import Remembered, cache_folder
from ip2pbatch.errors import ModelError, NothingMatchedError
from ip2pbatch.train.data.lines_and_tars import LineRows, TarRows
from ip2pbatch.train.data.parquet import ParquetRows
from ip2pbatch.train.model_names import HubSet

MIXED = 4  # files whose prompts an epoch shuffles together
HELD = MIXED + 2  # files that are kept at once
_TRIES = 3
_WAIT = 2.0  # seconds before a second try, then twice as many
_KINDS: dict[str, Callable[[Sequence[Path]], Any]] = {".parquet": ParquetRows, ".tar": TarRows, ".jsonl": LineRows}
T = TypeVar("T")


class HubRows:
    """The rows of some files of a data set by their number from 0; their numbers are those of the files together.

    ModelError where a file cannot be fetched: what reads goes on from its last checkpoint when it is started again.
    """

    ragged = True  # a file may be any of the kinds
    distant = True

    def __init__(self, data: HubSet, files: Sequence[hub.HubFile]) -> None:
        assert data.commit
        self.data, self.files = data, list(files)
        self.paths = [Path(f"{data}") / one.name for one in files]
        self.folder = cache_folder() / "hub" / f"{data.hub[0].replace('/', '--')}@{data.commit[:12]}"
        self._lock = threading.RLock()
        self._open: OrderedDict[int, Any] = OrderedDict()  # of files that are here, the last one used last
        self._text = lru_cache(maxsize=HELD)(self._distant)
        shapes = self._shapes()
        self._names = [names for _, names in shapes]
        self._begins = np.cumsum([0, *(count for count, _ in shapes)])
        self.ragged = any(not self._is_parquet(number) for number in range(len(self.files)))

    def __len__(self) -> int:
        return int(self._begins[-1])

    def names(self) -> Sequence[Sequence[str]]:
        """The columns of each file."""
        return self._names

    def file_of(self, row: int) -> int:
        """Which file a row is in."""
        return int(np.searchsorted(self._begins, row, side="right")) - 1

    def read(self, row: int, columns: Sequence[str], heavy: bool) -> Mapping[str, Any]:
        """Some columns of one row; the file is fetched where it is not here and there are pictures among them."""
        number = self.file_of(row)
        place = row - int(self._begins[number])

        def found(rows: Any) -> Mapping[str, Any]:
            read: Mapping[str, Any] = rows.read(place, columns, heavy)
            return read

        with self._lock:
            if not heavy and self._is_parquet(number) and number not in self._open:
                return found(self._text(number))
            return self._with(number, found)

    def place(self, row: int) -> str:
        """owner/name@commit/data/train-00000.parquet row 12 (from 0, in that file)."""
        number = self.file_of(row)
        return f"{self.paths[number]} row {row - int(self._begins[number])}"

    def digests(self) -> list[str]:
        """What the hub knows each file's contents by."""
        return [one.digest for one in self.files]

    def _is_parquet(self, number: int) -> bool:
        return self.files[number].name.endswith(".parquet")

    def _shapes(self) -> list[tuple[int, list[str]]]:
        """Rows and columns of each file, remembered by its digest."""
        kept = Remembered("rows of hub files")
        known = kept.recall([one.digest for one in self.files])
        found = []
        for number, one in enumerate(self.files):
            value = known.get(one.digest)
            if not isinstance(value, list):
                value = self._text(number) if self._is_parquet(number) else None
                value = _shape(value) if value else self._with(number, _shape)
                kept.keep({one.digest: value})
            found.append((int(value[0]), list(value[1])))
        self._text.cache_clear()
        return found

    def _distant(self, number: int) -> ParquetRows:
        """A parquet file's rows where it lies."""
        return ParquetRows([self.paths[number]], [_Distant(self.data, self.files[number])])

    def _with(self, number: int, use: Callable[[Any], T]) -> T:
        """`use` the rows of a file that is here; where another process has removed it, it is fetched again."""
        path = self.folder / self.files[number].name
        if number not in self._open:
            self._open[number] = self._fetched(number)
        self._open.move_to_end(number)
        while len(self._open) > HELD:
            self._open.popitem(last=False)
        try:
            return use(self._open[number])
        except FileNotFoundError:
            if path.exists():
                raise
            self._open[number] = self._fetched(number)
            return use(self._open[number])

    def _fetched(self, number: int) -> Any:
        """The rows of a file, fetched where it is not here."""
        from huggingface_hub import constants, hf_hub_download

        one, (repo, commit) = self.files[number], self.data.hub
        path = self.folder / one.name
        if not path.exists() or path.stat().st_size != one.bytes:
            _again(self.data, one, lambda: hf_hub_download(
                repo, one.name, repo_type="dataset", revision=commit, local_dir=self.folder,
                endpoint=constants.ENDPOINT, tqdm_class=_no_bar(),
            ))  # fmt: skip
        for held in (*self._open, number):
            (self.folder / self.files[held].name).touch()
        _sweep(self.folder)
        return _KINDS[path.suffix]([path])


class _Distant(io.RawIOBase):
    """A file of a data set read where it lies."""

    def __init__(self, data: HubSet, one: hub.HubFile) -> None:
        from huggingface_hub import constants, hf_hub_url

        repo, commit = data.hub
        self.data, self.one, self._at = data, one, 0
        self.url = hf_hub_url(repo, one.name, repo_type="dataset", revision=commit, endpoint=constants.ENDPOINT)

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Where the next byte is."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go there."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.one.bytes}[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """The bytes from here on, by one request."""
        end = self.one.bytes if size is None or size < 0 else min(self._at + size, self.one.bytes)
        if end <= self._at:
            return b""
        found = _again(self.data, self.one, lambda: self._range(self._at, end))
        self._at = end
        return found

    def _range(self, begin: int, end: int) -> bytes:
        from huggingface_hub import get_session
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, and not in __all__

        headers = build_hf_headers() | {"Range": f"bytes={begin}-{end - 1}"}
        answer = get_session().get(self.url, headers=headers, follow_redirects=True)
        answer.raise_for_status()
        data: bytes = answer.content if answer.status_code == 206 else answer.content[begin:end]
        if len(data) != end - begin:
            raise OSError(f"{len(data)} bytes came of {end - begin}")
        return data


def _again(data: HubSet, one: hub.HubFile, fetch: Callable[[], T]) -> T:
    """What `fetch` gives, tried a few times. ModelError where it is nothing."""
    from huggingface_hub import constants

    if constants.is_offline_mode():
        hint = "unset HF_HUB_OFFLINE, or give a folder: ./data/name"
        raise ModelError(f"{data}/{one.name} is to be fetched, and HF_HUB_OFFLINE forbids it", hint=hint)
    for left in reversed(range(_TRIES)):
        try:
            return fetch()
        except (unreachable(), OSError) as error:
            if not left:
                said = f"{data}/{one.name} cannot be fetched ({first_line(error)})"
                hint = "run again where there is a network: what was made is kept, and a training has its checkpoints"
                raise ModelError(said, hint=hint) from error
            time.sleep(_WAIT * 2 ** (_TRIES - 1 - left))
    raise AssertionError


def _shape(rows: Any) -> list[Any]:
    return [len(rows), list(rows.names()[0])]


def _no_bar() -> Any:
    from tqdm import tqdm

    class NoBar(tqdm):  # type: ignore[type-arg]
        """A file of many: its bytes are not news."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **(kwargs | {"disable": True}))

    return NoBar


def _sweep(folder: Path) -> None:
    """Remove all but the HELD files that were used last, whoever fetched them."""
    found: list[tuple[float, Path]] = []
    for path in (path for kind in _KINDS for path in folder.rglob(f"*{kind}")):
        with suppress(FileNotFoundError):  # another process sweeps too
            found.append((path.stat().st_mtime, path))
    for _, path in sorted(found)[:-HELD]:
        path.unlink(missing_ok=True)


def open_hub_rows(data: HubSet, pattern: str | None = None) -> HubRows:
    """The tars, JSONL or parquet files of a data set, as they would be chosen in a folder. ModelError where the hub has
    no such set or cannot be asked, NothingMatchedError where it has no such file."""
    listing = hub.look_up_data(*data.hub)
    if listing is None:
        raise ModelError(
            f"{data} cannot be listed: the hub is not reachable", hint="run again where there is a network"
        )
    by_name = {one.name: one for one in listing.files}
    names = chosen(sorted(by_name), pattern)
    if not names:
        what = f"{pattern}" if pattern else "tar, parquet or JSONL file"
        raise NothingMatchedError(f"{data} has no {what}", hint="`files` of `columns` names them: data/train-*.parquet")
    return HubRows(data.at(listing.commit), [by_name[name] for name in names])


def chosen(names: Sequence[str], pattern: str | None) -> list[str]:
    """Those that pairs are read from: what the pattern says (`*` within a folder, `**` below all), or the tars of the
    set's own folder, or its JSONL files, or its parquet files, there, in `data` or anywhere; of those the training
    split where some are named after it."""
    if pattern:
        return [name for name in names if _matches(name, pattern) and PurePosixPath(name).suffix in _KINDS]
    for below in ("*.tar", "*.jsonl", "*.parquet", "data/*.parquet", "**/*.parquet"):
        if found := [name for name in names if _matches(name, below)]:
            train = [name for name in found if PurePosixPath(name).name.startswith("train")]
            return train if train and below.endswith(".parquet") else found
    return []


def _matches(name: str, pattern: str) -> bool:
    parts = {"**/": "(.*/)?", "*": "[^/]*", "?": "[^/]"}
    said = re.sub(r"\*\*/|\*|\?|[^*?]+", lambda found: parts.get(found[0], re.escape(found[0])), pattern)
    return re.fullmatch(said, name) is not None
