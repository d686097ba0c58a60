"""A cell at its photo's size: as its file would be, with its metadata and its marks, before any file is delivered."""

from __future__ import annotations

from dataclasses import replace

from ip2pbatch.errors import DamagedError, PhotoError
from ip2pbatch.jobs.exploring.board import Board, Seen
from ip2pbatch.pictures.deliver import DeliverySettings, Rendered, render
from ip2pbatch.pictures.metadata import Provenance
from ip2pbatch.pictures.originals import Original
from ip2pbatch.plan.formats import FORMATS
from ip2pbatch.run.directory.header import known_header
from ip2pbatch.run.directory.kept import Kept
from ip2pbatch.run.sources import refuse_other


def rendered(board: Board, seen: Seen, *, format: str = "same") -> Rendered:
    """The bytes of a cell's file, as a run with a recipe that says nothing of files would deliver it.

    Raises PhotoError where the photo is gone or another one now, DamagedError for the picture.
    """
    layout, strip = board.layout, seen.strip
    if layout is None or seen.record is None or seen.record.status != "done":
        raise PhotoError("it is not made yet", hint="wait until it is")
    header = known_header(layout)
    spec, strength = header.engine, 1.0 if strip.strength is None else strip.strength
    settings = DeliverySettings(format=format, strength=strength, register=header.registers, lift=header.lift)
    edited = Kept(layout.picture(seen.edit.key), seen.record.digest).pixels()
    source = Original(strip.photo.path, spec.sizing)
    refuse_other(strip.photo, source.look)
    provenance = Provenance.of(
        strip.edits[: seen.link], spec.model, spec.model_digest, spec.approximations, strength
    )  # fmt: skip
    return render(source, edited, settings, provenance, board.area(seen))


def file_name(seen: Seen, kind: str) -> str:
    """What a download is called."""
    stem = seen.strip.photo.name.rpartition("/")[2].rpartition(".")[0] or "picture"
    link = f"_{seen.link}" if seen.link < len(seen.strip.edits) else ""  # of a chain that goes on after it
    return f"{stem}_{seen.strip.id}{link}_{seen.id[:6]}{FORMATS[kind].suffixes[0]}"


def shown(board: Board, seen: Seen) -> bytes:
    """The cell at the model's size, all of the edit within its region, as a PNG. Raises DamagedError."""
    import io

    proof = board.proof(seen)
    if proof is None:
        raise DamagedError("there is no picture", path=seen.strip.photo.path)
    proof = replace(proof, strength=1.0)
    if proof.area is None:
        return proof.kept.read()
    held = io.BytesIO()
    proof.open().save(held, "PNG", compress_level=1)
    return held.getvalue()
