"""The report: one HTML page with every cell of a run, to look at, compare, filter, sort and pick from.

It opens from the disk with no network and runs nothing but its own script (a content security policy with hashes says
so); names and instructions are text in it, never markup. Without JavaScript it still shows each photo beside its edits.
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
import os
import re
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup
from PIL import Image

from ip2pbatch.disk.atomic import write_atomic, write_whole
from ip2pbatch.disk.buckets.locations import is_object
from ip2pbatch.errors import DamagedError
from ip2pbatch.plan.metrics import METRICS, captions
from ip2pbatch.run.directory.view import RunView
from ip2pbatch.run.events import Counting, uncounted
from ip2pbatch.show.blocks import Shown, photos_of, source_of
from ip2pbatch.show.cells import STATES, Cell, Gallery, State, cells_of_strip, gallery, grouped, number, outlines, today
from ip2pbatch.show.picks import Origin, origin_of, pick_of
from ip2pbatch.show.proof import Proof

# Up to so many pictures lie inside the page; more lie in a folder beside it.
INLINE = 200
# A page of more cells is slow to open: what failed or wants a look comes first, and the page says what it leaves out.
MOST_CELLS = 2000
# So many photos that could not be read are named; a folder may hold nothing else.
MOST_UNREADABLE = 200
_UNREAD = "its picture is damaged or gone: run the recipe again"
# Long side of a picture inside the page, and in the folder beside it.
INSIDE, BESIDE = 512, 768
# The slider mixes them, and each pixel keeps its own colour: WebP halves the colours, which alone is 2 levels of 255 of
# a picture of 256 pixels.
_FILE: Mapping[str, Any] = {"format": "JPEG", "quality": 94, "subsampling": "4:4:4"}
HERE = Path(__file__).parent
REPORT = "report.html"


def write_report(view: RunView, path: Path, counting: Counting = uncounted) -> Path:
    """Write the report of a run to `path`, with `<stem>_files/` beside it where there are more than INLINE pictures.

    Returns `path`. `counting` hears of each picture. Of a run whose files are in a bucket, the page as it is to lie
    there is written beside what waits to be put. Raises ResourceError where the disk is full or not writable.
    """
    origin = origin_of(view, path.parent)
    there = (view.layout.outgoing / REPORT, view.files) if view.address else None
    return draw_report(gallery(view), path, {"": origin}, counting, there)


def draw_report(
    gallery: Gallery, path: Path, origins: Mapping[str, Origin], counting: Counting = uncounted,
    there: tuple[Path, Path] | None = None,
) -> Path:  # fmt: skip
    """`write_report` for cells that are already at hand; `origins` head the recipes that picks are copied to, by the
    cells' models, "" where there is one. `there` is a file to write the page to as it is to lie at an address.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    seen = _Seen(gallery.cells)
    pictures = _pictures(seen.shown, path, counting)
    page = _render(gallery, seen, pictures, origins)
    write_atomic(path, page.encode("utf-8", "replace"))
    if there is not None:
        placed = {model: replace(origin, folder=there[1]) for model, origin in origins.items()}
        write_whole(there[0], _render(gallery, seen, pictures, placed).encode("utf-8", "replace"))
    return path


def chosen(cells: Sequence[Cell]) -> Sequence[Cell]:
    """All cells, or where they are too many, whole strips up to MOST_CELLS in the recipe's order."""
    return _Seen(cells).shown


class _Seen:
    """What is seen in one walk through all cells, which may be millions: their states and settings, and those that
    are `shown`.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.states, self.steps, self.samplers = Counter[State](), set[int](), set[str]()
        photos, calm, lengths = set[int](), bytearray(), array("Q")
        for strip in outlines(cells):
            for cell in strip:
                self.states[cell.state] += 1
                self.steps.add(cell.steps)
                self.samplers.add(cell.sampler)
            photos.add(hash(strip[0].photo))
            calm.append(all(cell.state == "done" and not cell.marked for cell in strip))
            lengths.append(len(strip))
        self.photos, self.left_out = len(photos), 0
        self.shown, total = cells, sum(lengths)
        if total > MOST_CELLS:
            kept, starts = _fitting(calm, lengths), array("Q", itertools.accumulate(lengths, initial=0))
            of_strips = (cells_of_strip(cells, strip, starts[strip], lengths[strip]) for strip in kept)
            self.shown = [*itertools.chain.from_iterable(of_strips)]
            self.left_out = total - len(self.shown)


def _fitting(calm: Sequence[int], lengths: Sequence[int]) -> list[int]:
    """The strips that a page has room for, those before others that are not all done and well."""
    room, kept = MOST_CELLS, list[int]()
    for wanted in (False, True):
        for at, length in enumerate(lengths):
            if bool(calm[at]) == wanted and length <= room:
                kept.append(at)
                room -= length
    return sorted(kept)


# --- pictures ----------------------------------------------------------------------------------------------------


def _pictures(cells: Sequence[Cell], path: Path, counting: Counting) -> dict[Proof, Shown]:
    """Every picture of the page at its size there. One that cannot be read is left out."""
    sources = (source_of(own) for own in grouped(cells, lambda cell: cell.photo).values())
    wanted = list(dict.fromkeys(p for p in (*sources, *map(_whole, cells)) if p is not None))
    folder = path.with_name(f"{path.stem}_files")
    inside = len(wanted) <= INLINE
    if not inside:
        folder.mkdir(exist_ok=True)

    def shown(one: Proof) -> Shown | None:
        try:
            data, width, height = _small(one, INSIDE if inside else BESIDE)
        except (OSError, ValueError, Image.DecompressionBombError, DamagedError):
            return None
        if inside:
            return Shown("data:image/jpeg;base64," + base64.b64encode(data).decode(), width, height)
        name = hashlib.sha256(data).hexdigest()[:32] + ".jpg"
        if not (folder / name).is_file():
            write_atomic(folder / name, data, root=path.parent)
        return Shown(f"{quote(folder.name)}/{name}", width, height)

    found = {}
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool, counting(len(wanted)) as advance:
        for one, picture in zip(wanted, pool.map(shown, wanted), strict=True):
            advance()
            if picture:
                found[one] = picture
    _sweep(folder, {Path(picture.src).name for picture in found.values()} if not inside else set())
    return found


def _whole(cell: Cell) -> Proof | None:
    """A cell's picture as its file shows it, but at full strength: the page has a slider for that."""
    return None if cell.proof is None else cell.proof.whole


def _small(one: Proof, long_side: int) -> tuple[bytes, int, int]:
    image = one.open()
    image.thumbnail((long_side, long_side), Image.Resampling.LANCZOS)
    return encoded(image), *image.size


def encoded(image: Image.Image) -> bytes:
    """A picture's file, as the page shows it."""
    data = io.BytesIO()
    image.save(data, **_FILE)
    return data.getvalue()


def _sweep(folder: Path, keep: set[str]) -> None:
    """Remove pictures of an earlier report, which may be WebP; their names are digests, other files are left alone."""
    if folder.is_dir():
        for path in folder.iterdir():
            if re.fullmatch(r"[0-9a-f]{32}\.(jpg|webp)", path.name) and path.name not in keep:
                path.unlink()


# --- the page ----------------------------------------------------------------------------------------------------


def _render(gallery: Gallery, seen: _Seen, pictures: Mapping[Proof, Shown], origins: Mapping[str, Origin]) -> str:
    cells = seen.shown
    style, script = (_joined("look.css", "report.css"), _joined("slider.js", "mixing.js", "report.js"))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    captioned = captions()
    metrics = [m for m in captioned if any(m in cell.metrics for cell in cells)]
    cards = _cards(cells, pictures, metrics)
    photos = photos_of(cells, cards, pictures, gallery.absent)
    return environment.get_template(
        "report.html"
    ).render(
        gallery=gallery,
        policy=policy(style, script),
        style=Markup(style),  # our own files, and nothing else, enter the page unescaped
        script=Markup(script),
        data=Markup(_json({"runs": [*map(_picking, origins.values())], "cells": _data(cells, cards, photos, origins)})),
        facts=_facts(gallery, seen),
        totals=[(state, seen.states[state]) for state in STATES if seen.states[state]],
        marked=sum(bool(cell.mark) for cell in cells),
        instructions=list(dict.fromkeys(cell.instruction for cell in cells)),
        photos=photos,
        cells=cards,
        models=gallery.models,
        columns=[*COLUMNS[not gallery.models :], *((m, captioned[m]) for m in metrics), ("seconds", "Seconds")],
        note=_meanings(metrics) if metrics else "",
        left_out=seen.left_out,
        unreadable=sorted(gallery.unreadable.items())[:MOST_UNREADABLE],
        date=today(),
    )


def _joined(*names: str) -> str:
    """Files of the page as one text, what the studio shares before what is the report's own."""
    return "\n".join((HERE / name).read_text(encoding="utf-8") for name in names)


COLUMNS = (
    ("model", "Model"), ("photo", "Photo"), ("instruction", "Instruction"), ("text", "Text guidance"),
    ("image", "Image guidance"), ("seed", "Seed"), ("state", "State"),
)  # fmt: skip


def _meanings(metrics: Sequence[str]) -> str:
    """What the numbers mean: those that cells commonly have, and what was asked for."""
    shown = [one for one in METRICS.values() if one.meaning and (one.key in metrics or one.always or not one.measure)]
    return ", ".join(f"{one.caption} {'' if place else 'is '}{one.meaning}" for place, one in enumerate(shown))


def policy(style: str, script: str) -> str:
    """The content security policy of a page with this style and this script: no network, nothing else runs."""
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    return (
        "default-src 'none'; img-src data: 'self'; base-uri 'none'; form-action 'none'; "
        f"style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'"
    )


def _json(value: object) -> str:
    """JSON that is safe inside a script element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def _facts(gallery: Gallery, seen: _Seen) -> list[tuple[str, str]]:
    return [
        ("model", gallery.model), ("backend", gallery.backend), ("steps", ", ".join(map(str, sorted(seen.steps)))),
        ("sampler", ", ".join(sorted(seen.samplers))), ("photos", str(seen.photos)),
        ("made", today()),
    ]  # fmt: skip


def _cards(cells: Sequence[Cell], pictures: Mapping[Proof, Shown], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """What the template shows of each cell, all of it text."""
    cards = []
    for index, cell in enumerate(cells):
        shown = pictures.get(whole) if (whole := _whole(cell)) and cell.state == "done" else None
        state = "damaged" if cell.state == "done" and shown is None else cell.state
        numbers = [f"{cell.metrics[m]:.2f}" if shown and m in cell.metrics else "" for m in metrics]
        cards.append({
            "index": index, "model": cell.model, "photo": cell.photo, "instruction": cell.instruction,
            "link": cell.link, "links": cell.links,
            **{name: number(scale) if name in cell.scales else "" for name, scale in _scales(cell)},
            "scales": cell.told, "seed": str(cell.seed),
            "state": state, "detail": cell.detail or (_UNREAD if state != cell.state else ""),
            "said": cell.choice.said,
            "mark": cell.mark, "metrics": numbers, "seconds": f"{cell.seconds:.1f}" if cell.seconds else "",
            "numbers": [(METRICS[m].caption, value) for m, value in zip(metrics, numbers, strict=True) if value],
            "alt": _alt(cell), "src": shown.src if shown else "",
            "width": shown.width if shown else 0, "height": shown.height if shown else 0,
        })  # fmt: skip
    return cards


def _scales(cell: Cell) -> tuple[tuple[str, float], tuple[str, float]]:
    return ("text", cell.guidance.text), ("image", cell.guidance.image)


def _alt(cell: Cell) -> str:
    link = f"link {cell.link} of {cell.links}, " if cell.links > 1 else ""
    scales = cell.told.replace("text", "text guidance").replace("image", "image guidance")
    said = (cell.photo, cell.model, f"{link}{cell.instruction}", scales, f"seed {cell.seed}")
    return ", ".join(filter(None, said))


def _picking(origin: Origin) -> dict[str, Any]:
    """What the script needs of all cells of a run, to write picked ones down."""
    return {"head": origin.head(), "strength": origin.strength, "apply": origin.apply}


def _data(
    cells: Sequence[Cell],
    cards: Sequence[Mapping[str, Any]],
    photos: Sequence[Mapping[str, Any]],
    origins: Mapping[str, Origin],
) -> list[dict[str, Any]]:
    """What the script needs of each cell."""
    place = {photo["name"]: at for at, photo in enumerate(photos)}
    runs = {model: at for at, model in enumerate(origins)}
    chain: list[Cell] = []
    data = []
    for cell, card in zip(cells, cards, strict=True):
        chain = [*chain, cell] if cell.link > 1 else [cell]
        origin = origins[cell.model]
        scales = cell.told
        took = f"{cell.seconds:.1f} s" if cell.seconds else ""
        told = [f"cell {cell.number}"] * bool(cell.number)
        told += [f"negative “{cell.negative}”"] * bool(cell.negative)
        told += [f"strength {number(cell.strength)}"] * (cell.strength < 1)
        numbers = [f"{name} {value}" for name, value in card["numbers"]]
        data.append({
            "photo": cell.photo, "edit": cell.edit, "instruction": cell.instruction, "state": card["state"],
            "run": runs[cell.model], "model": cell.model,
            "picked": cell.choice.picked, "said": cell.choice.said,
            "mark": cell.mark, "alt": card["alt"], "source": place[cell.photo],
            "words": f"{cell.photo} {cell.instruction} {cell.edit} {cell.model}".lower(),
            "strength": cell.strength, "number": cell.number if card["state"] == "done" else 0,
            "short": ", ".join(filter(None, [cell.model, f"link {cell.link}" * (cell.links > 1), scales])),
            "facts": " · ".join(filter(None, [scales, f"seed {cell.seed}", *told, *numbers, took, cell.device])),
            "file": _link(cell.delivered, origin.folder), "original": _link(cell.original, origin.folder),
            "sort": _sort(cell, card), **pick_of(chain, origin),
        })  # fmt: skip
    return data


def _sort(cell: Cell, card: Mapping[str, Any]) -> dict[str, Any]:
    """What each column of the table is sorted by; None comes last."""
    return {
        "model": cell.model, "photo": cell.photo, "instruction": f"{cell.instruction} {cell.link:02d}",
        "text": cell.guidance.text, "image": cell.guidance.image, "seed": float(cell.seed), "state": card["state"],
        **{m: round(cell.metrics[m], 4) if m in cell.metrics else None for m in captions()},
        "seconds": cell.seconds or None,
    }  # fmt: skip


def _link(path: Path | None, folder: Path) -> str:
    """A delivered file as an address relative to the page, or "". It starts with "./", so it can name no scheme."""
    if path is None or is_object(path) != is_object(folder) or (is_object(path) and path.parts[:2] != folder.parts[:2]):
        return ""  # what lies in a bucket has no address that a browser may open, but from a page that lies there too
    try:
        return "./" + quote(Path(os.path.relpath(path, folder)).as_posix(), errors="surrogateescape")
    except ValueError:  # another drive
        return ""
