"""CSV as spreadsheets and programs write it, row by row: three separators, any line ends, BOM, quotes, empty cells."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path

from ip2pbatch.disk.opening import open_file
from ip2pbatch.errors import MAY_READ, RecipeError
from ip2pbatch.plan.written.yaml_source import suggest

MAX_LINE = 1 << 18  # characters; a cell has half as many at most, which is the csv module's own limit
_SEPARATORS = ",;\t"
_SHOWN = 60  # characters of a cell that a message repeats


def shown(cell: str) -> str:
    """A cell in quotes, as messages repeat it."""
    return repr(cell if len(cell) <= _SHOWN else cell[:_SHOWN] + "…")


class Table:
    """A CSV file whose first line names some of `columns`, all of `needed` among them, in any order.

    Comma, semicolon or tab separate them, whichever the first line has most of: `separator`, once it was read. Rows
    and cells at the end that hold nothing are passed over. `other_names` are for the hint at a column that is called
    otherwise here.
    """

    separator = ","

    def __init__(
        self, path: Path, columns: Sequence[str], needed: Sequence[str], other_names: Mapping[str, str] | None = None
    ) -> None:
        self.path, self.columns, self.needed = path, columns, needed
        self._other_names = other_names or {}

    def rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        """The line where a row begins, and those of its cells that hold something, by column; one row is in memory.

        Raises RecipeError with the line, also where the file cannot be read.
        """
        rows = self._cells()
        header = [cell.strip().lower() for cell in next(rows, (1, []))[1]]
        self._check(header)
        for line, cells in rows:
            row = {name: text for name, cell in zip_longest(header, cells, fillvalue="") if (text := cell.strip())}
            if "" in row:
                raise RecipeError(
                    f"{len(cells)} cells, the header has {len(header)}", file=self.path, line=line,
                    hint=f"put text with {_NAMES[self.separator]} in it in quotes",
                )  # fmt: skip
            yield line, row

    def _check(self, header: list[str]) -> None:
        known = f"known are: {', '.join(self.columns)}"
        for place, name in enumerate(header):
            if name and (name not in self.columns or name in header[:place]):
                what = f"unknown column {shown(name)}" if name not in self.columns else f"the column {name!r} twice"
                other = self._other_names.get(name)
                hint = f"it is called {other} here" if other else suggest(name, self.columns) or known
                column = 1 + sum(len(before) + 1 for before in header[:place])
                raise RecipeError(what, file=self.path, line=1, column=column, hint=hint)
        for name in self.needed:
            if name not in header:
                first = self.separator.join(self.needed)
                raise RecipeError(f"no column {name!r}", file=self.path, line=1, hint=f"the first line is: {first}")

    def _cells(self) -> Iterator[tuple[int, list[str]]]:
        """(number of its first line, cells) of every row that is not empty."""
        try:
            with io.TextIOWrapper(open_file(self.path), "utf-8-sig", "surrogateescape", newline="") as text:
                lines, before = self._lines(text), list[str]()
                for line in lines:
                    before.append(line)
                    if line.strip():
                        break
                self.separator = max(_SEPARATORS, key=before[-1].count) if before else ","
                yield from self._parsed(chain(before, lines))
        except OSError as error:
            raise RecipeError(f"cannot be read: {error.strerror or error}", file=self.path, hint=MAY_READ) from None

    def _parsed(self, lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
        reader, line = csv.reader(lines, delimiter=self.separator, strict=True, skipinitialspace=True), 1
        try:
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield line, cells
                line = reader.line_num + 1
        except csv.Error as error:
            hint = 'close every quote; a quote inside a quoted text is written twice: ""'
            why = f"a cell of more than {csv.field_size_limit():,} characters" if "limit" in str(error) else str(error)
            raise RecipeError(why, file=self.path, line=line, column=1, hint=hint) from None

    def _lines(self, text: io.TextIOWrapper) -> Iterator[str]:
        """Its lines with their ends, whichever these are. Raises RecipeError for one without end, and for no UTF-8."""
        number = 0
        while line := text.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                raise RecipeError(
                    f"a line of more than {MAX_LINE:,} characters", file=self.path, line=number, column=1,
                    hint="a row takes a line, and a quote that is opened is closed",
                )  # fmt: skip
            if not line.isascii() and not _is_text(line):
                hint = "save it as CSV UTF-8"
                raise RecipeError("not UTF-8 text", file=self.path, line=number, column=1, hint=hint)
            yield line


_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs"}


def _is_text(line: str) -> bool:
    try:
        line.encode()
    except UnicodeEncodeError:
        return False
    return True
