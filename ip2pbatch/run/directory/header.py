"""run.json: which engine a run belongs to; where it is damaged or gone, what the sessions remember of it."""

from __future__ import annotations

import json
from dataclasses import asdict

from ip2pbatch.disk.atomic import unreadable, write_whole
from ip2pbatch.disk.journal import seal, unseal
from ip2pbatch.errors import UsageError
from ip2pbatch.run.directory.layout import Layout
from ip2pbatch.run.directory.lines import HEADER, Header
from ip2pbatch.run.directory.sessions import read_sessions

FORMAT = 1


class UnreadableHeaderError(UsageError):
    """A header that is damaged, gone or of another version."""


def write_header(layout: Layout, header: Header) -> None:
    """Write the identity of a run, and the defaults of its model, whole. Raises ResourceError."""
    row = {name: value for name, value in asdict(header).items() if value not in (None, False)}
    text = json.dumps(row, ensure_ascii=False, separators=(",", ":"))
    write_whole(layout.header, seal(text.encode("utf-8", "surrogatepass")) + b"\n")


def known_header(layout: Layout) -> Header:
    """What a run began with, by its header or else by its sessions. Raises UsageError, ResourceError."""
    try:
        return read_header(layout)
    except UnreadableHeaderError as error:
        header = remembered_header(layout)
        if header is None:
            raise error
        return header


def remembered_header(layout: Layout) -> Header | None:
    """What the sessions say that the run began with; None where none does, as in older runs."""
    for session in reversed(read_sessions(layout)):
        if session.spec:
            return Header(FORMAT, session.spec, session.defaults, session.registers, session.lift)
    return None


def read_header(layout: Layout) -> Header:
    """What run.json says. Raises UnreadableHeaderError, and UsageError where a later version wrote it."""
    try:
        data = layout.header.read_bytes()
    except FileNotFoundError:
        raise _unreadable(layout, "is gone") from None
    except OSError as error:
        raise unreadable(error, layout.header) from error
    header = next(filter(None, map(HEADER, (data, *data.splitlines()))), None)  # a good line counts, as in a journal
    if header is None:
        raise _unreadable(layout, "is damaged")
    if header.format != FORMAT:
        opened = unseal(data)
        raise (UsageError if opened and opened[1] else UnreadableHeaderError)(
            f"{layout.header} was not written by this version (format {header.format})",
            hint="use another --out, or --fresh",
        )
    return header


def _unreadable(layout: Layout, what: str) -> UnreadableHeaderError:
    return UnreadableHeaderError(
        f"{layout.header} {what}, and no session of the run says which engine made it",
        hint="put it back from a copy, use another --out, or start a run beside it with --fresh",
    )
