"""run.json: which engine a run belongs to; where it is damaged or gone, what the sessions remember of it."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace

from ip2pbatch.disk.atomic import unreadable, write_whole
from ip2pbatch.disk.journal import seal, unseal
from ip2pbatch.errors import UsageError
from ip2pbatch.run.directory.layout import Layout
from ip2pbatch.run.directory.lines import HEADER, EngineSpec, Header
from ip2pbatch.run.directory.sessions import read_sessions

FORMAT = 1


class UnreadableHeaderError(UsageError):
    """A header that is damaged, gone or of another version."""


def write_header(layout: Layout, header: Header) -> None:
    """Write the identity of a run, and the defaults of its model, whole. Raises ResourceError."""
    row = {name: value for name, value in asdict(header).items() if value not in (None, False, "")}
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
            return Header(FORMAT, session.spec, session.defaults, session.registers, session.lift, session.files)
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


def checked_header(layout: Layout, new: Header, complaints: list[str]) -> Header:
    """What the run began with, which is written into a new one; another engine than the old one is refused.

    A model is known by its digest: a folder may be typed otherwise, moved or linked, and is still called as at first.
    An old run goes on to size photos as it began.
    """
    header = _own_header(layout, new, complaints)
    if new.files not in ("", header.files):
        where = f"in {header.files}" if header.files else "in that folder too"
        raise UsageError(
            f"the files of the run in {layout.folder.parent} are {where}, and not in {new.files}",
            hint="name that, another --state, or --fresh to start a run beside it",
        )
    made_by = header.engine
    spec = replace(new.engine, sizing=made_by.sizing)
    if spec.model_digest and spec.model_digest == made_by.model_digest:
        spec = replace(spec, model=made_by.model)
    for name in sorted((part.name for part in fields(EngineSpec)), key=lambda name: name != "backend"):
        old, new = getattr(made_by, name), getattr(spec, name)
        if old != new:
            raise UsageError(
                f"this run was made with {name.replace('_', ' ')} {_say(old)}, not {_say(new)}",
                hint="use the same settings, another --out, or --fresh to start a run beside it",
            )
    return header


def _own_header(layout: Layout, new: Header, complaints: list[str]) -> Header:
    """What the header says; a run without one gets it, from what its sessions remember where anything was made."""
    try:
        return read_header(layout)
    except UnreadableHeaderError as error:
        remembered = remembered_header(layout)
        if remembered is None and not layout.is_empty():
            raise error
        if layout.is_run():
            complaints.append(f"{layout.header.name} was damaged or gone, and was written again")
        write_header(layout, remembered or new)
        return remembered or new


def _say(value: object) -> str:
    return ", ".join(value) or "none" if isinstance(value, tuple) else str(value) or "none"
