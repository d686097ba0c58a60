"""`marks`: does each file say to people and machines that AI edited it, and does what it says hold?"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ip2pbatch import jobs
from ip2pbatch.cli import console
from ip2pbatch.cli.console import count, plain
from ip2pbatch.cli.looking import Json
from ip2pbatch.cli.terminal import Terminal
from ip2pbatch.errors import UsageError

if TYPE_CHECKING:
    from ip2pbatch.pictures.marks.credentials import Credentials
    from ip2pbatch.pictures.marks.marked import Iptc, Marked, Marks

_WATERMARK = "watermarks in the pixels are not checked, and none is made"
_COLOURS = {"valid": "green", "present": "green", "unknown signer": "yellow", "not checked": "yellow"}


def marks(
    what: Annotated[
        Path | None,
        typer.Argument(metavar="FILE|FOLDER", help="A picture, or a folder of them.", show_default=False),
    ] = None,
    as_json: Json = False,
    trust: Annotated[
        Path | None, typer.Option(help="A PEM file with certificates of authorities: their signers are known.")
    ] = None,
    test_certificate: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Make an authority and a signer's certificate in DIR, to try signing with."),
    ] = None,
) -> None:
    """Show which AI marks files carry (IPTC, C2PA) and whether they hold. Exit 4 where one is missing."""
    if (what is None) == (test_certificate is None):
        raise UsageError(
            "marks takes either a picture or folder, or --test-certificate", hint="ip2pbatch marks FILE|FOLDER"
        )
    if test_certificate is not None:
        _show_certificate(*jobs.trial_certificate(test_certificate))
        return
    assert what is not None
    found = jobs.marks(what, trust=trust, voice=Terminal())
    if as_json:
        print(json.dumps(found.as_json(), indent=2))
    else:
        _show(found, in_folder=what.is_dir())
    raise typer.Exit(found.exit_code)


def _show_certificate(authority: Path, certificate: Path, key: Path) -> None:
    out = console.out()
    for name, path in (("authority", authority), ("certificate", certificate), ("key", key)):
        out.print(f"{name + ':':<13}{path}", markup=False, soft_wrap=True)
    out.print(f"output: {{sign: {{certificate: {certificate}, key: {key}}}}}", markup=False, soft_wrap=True)
    console.note(f"for trying only: nobody else knows this authority; `ip2pbatch marks FILE --trust {authority}` does")


def _show(found: Marked, *, in_folder: bool) -> None:
    """The same for a person: a file in full, a folder as a table."""
    if in_folder:
        _table(found)
    else:
        _block(found.files[0])
    for one in found.files:
        if in_folder and one.c2pa.why and one.c2pa.state != "not checked":
            console.warn(f"{one.file}: {one.c2pa.state}: {one.c2pa.why}")
    _notes(found)
    console.out().print(_last_line(found), markup=False)


def _table(found: Marked) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("IPTC", "C2PA", "file"):
        table.add_column(name, overflow="fold", no_wrap=name != "file")
    for one in found.files:
        iptc, c2pa = _say_iptc(one.iptc), _say_c2pa(one.c2pa)
        cells = ("cannot be read", "") if one.error else (iptc, c2pa)
        styles = _COLOURS.get(one.iptc.state, "red"), _COLOURS.get(one.c2pa.state, "red")
        table.add_row(*(Text(text, style) for text, style in zip(cells, styles, strict=True)), Text(plain(one.file)))
    console.out().print(table)


def _block(one: Marks) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    console.out().print(plain(one.file), markup=False, soft_wrap=True)
    for name, lines in _said(one):
        table.add_row(Text(f"  {name}"), Text(plain("\n".join(line for line in lines if line)), overflow="fold"))
    console.out().print(table)


def _said(one: Marks) -> list[tuple[str, tuple[str, ...]]]:
    """What each mark says, in lines."""
    if one.error:
        return [("error", (one.error,))]
    iptc, c2pa = one.iptc, one.c2pa
    asked = f"“{iptc.prompt}”" if iptc.prompt else ""
    system = ", ".join(part for part in (iptc.system, iptc.version) if part)
    when = f"signed {c2pa.signed}" if c2pa.signed else ""
    return [
        ("IPTC", (_say_iptc(iptc), iptc.source_type, system, asked, iptc.writer and f"asked by {iptc.writer}")),
        ("C2PA", (_say_c2pa(c2pa), c2pa.why, c2pa.signer and f"by {c2pa.signer}", when, *c2pa.source_types)),
        ("watermark", (one.watermark,)),
    ]


def _say_iptc(iptc: Iptc) -> str:
    return {"present": "AI", "other": "not as AI", "missing": "missing"}[iptc.state]


def _say_c2pa(c2pa: Credentials) -> str:
    return f"{c2pa.state}, not as AI" if c2pa.holds and not c2pa.says_ai else c2pa.state


def _notes(found: Marked) -> None:
    states = Counter(one.c2pa.state for one in found.files)
    if states["not checked"]:
        why = next(one.c2pa.why for one in found.files if one.c2pa.state == "not checked")
        console.note(f"C2PA is not checked: {why}")
    if states["unknown signer"]:
        console.note("signatures hold, and no authority is known that stands for the signer: --trust FILE names some")
    console.note(_WATERMARK)


def _last_line(found: Marked) -> str:
    said = {"iptc": "IPTC mark missing", "c2pa": "C2PA mark missing or broken"}
    lacking = [f"{said[name]}: {count(number, 'file')}" for name, number in found.lacking.items() if number]
    if lacking:
        return f"{'; '.join(lacking)} of {len(found.files):,}"
    return f"{count(len(found.files), 'file')}: every mark that was looked for is there and holds"
