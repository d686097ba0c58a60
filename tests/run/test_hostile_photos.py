"""A folder full of damaged and hostile files, edited as a person would: the good photos come out, the others are rows.

80 mutants here, 5,000 under `make soak`; all through the real command in a process of its own, so that a crash of a
decoder, a hang or a memory bomb would be seen for what it is.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import struct
import subprocess
import sys
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import digests, many, strays

from ip2pbatch.pictures import colour
from ip2pbatch.run.directory.view import read_run

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc: Linux only")
MIB = 1 << 20
PATIENCE = 30.0  # seconds of work without a word are a hang
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "TIFF": ".tif", "WEBP": ".webp"}
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" dc:format="a"/></rdf:RDF></x:xmpmeta>'
)


def picture(seed: int, width: int = 96, height: int = 64) -> Image.Image:
    down, across = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = [np.sin(down / (5 + c) + seed) + np.cos(across / 9 + c * seed) for c in range(3)]
    return Image.fromarray((127 + 60 * np.stack(waves, axis=-1)).clip(0, 255).astype(np.uint8))


def encoded(kind: str, seed: int) -> bytes:
    """A whole photo with everything that a parser may trip over: EXIF, a profile, XMP."""
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112], exif[0x010F] = 1 + seed % 8, "Maker"
    exif.get_ifd(0x8825)[1] = "N"
    xmp = {} if kind == "TIFF" else {"xmp": XMP}
    picture(seed).save(buffer, kind, exif=exif, icc_profile=colour.adobe_rgb(), **xmp)
    return buffer.getvalue()


def mutant(chance: random.Random, whole: bytes) -> bytes:
    """`whole` with damage: flipped bits, other bytes, a cut, a hole, a doubled part, large numbers for sizes."""
    data = bytearray(whole)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data))
        way = chance.randrange(6)
        if way == 0:
            for _ in range(chance.randint(1, 16)):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        elif way == 1:
            data[at : at + chance.randint(1, 8)] = chance.randbytes(chance.randint(1, 8))
        elif way == 2:
            del data[max(at, 4) :]
        elif way == 3:
            del data[at : at + chance.randint(1, len(data) // 4)]
        elif way == 4:
            data[at:at] = data[at : at + chance.randint(1, 200)]
        else:
            at = chance.randrange(min(len(data), 400))
            data[at : at + 4] = chance.choice([b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0" * 4, struct.pack("<I", 60_000)])
        if not data:
            return b""
    return bytes(data)


def png_bomb(width: int, height: int, *, depth: int = 8, whole: bool = False) -> bytes:
    """A PNG that claims width × height pixels: with `whole` it holds them all, deflated to a thousandth."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    packer = zlib.compressobj(9)
    line = bytes(1 + (width * depth + 7) // 8)
    rows = height if whole else 5 * MIB // len(line)
    pixels = b"".join(packer.compress(line) for _ in range(rows)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def no_photos() -> dict[str, bytes]:
    """Files whose names promise what they are not, and two bombs."""
    other, drawn = io.BytesIO(), io.BytesIO()
    picture(1).save(other, "JPEG2000")
    picture(1).save(drawn, "TGA")
    return {
        "other.jpg": other.getvalue(),
        "drawn.png": drawn.getvalue(),
        "text.jpg": b"no photo at all\n" * 50,
        "page.webp": b"<html><script>alert(1)</script></html>",
        "drawing.tif": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "script.jpeg": b"%!PS-Adobe-3.0\n(secret) run\n",
        "program.png": b"\x7fELF" + bytes(200),
        "fits.jpg": gzip.compress(b"SIMPLE  =                    T" + bytes(10 * MIB)),
        "zeros.jpg": bytes(MIB),
        "empty.jpg": b"",
        "heif.jpg": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100),
        "bomb.png": png_bomb(20_000, 20_000),
        "wide.png": png_bomb(2_000_000_000, 1),
        "cut.jpg": encoded("JPEG", 5)[:700],
    }


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit code, its JSON lines, its largest memory in bytes, and the most seconds of
    processor time without a line of its ledger, which on a busy machine tells a hang better than a clock.
    """

    code: int
    lines: list[dict[str, object]]
    peak: int
    silence: float


def resident(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def worked(process: int) -> float:
    """Seconds of processor time that a process has used."""
    ticks = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def has_ended(out: Path) -> bool:
    """Whether the last picture is made and delivered."""
    sessions = out / ".ip2pbatch/sessions.jsonl"
    return sessions.exists() and b'"event":"end"' in sessions.read_bytes()


def edit(photos: Path, out: Path, cache: Path) -> Outcome:
    """`ip2pbatch edit --json` with the fake engine, watched; killed where it works or waits very long in silence."""
    code = "from ip2pbatch.cli.app import main; main()"
    flags = ["edit", photos, "-i", "make it winter", "-o", out, "--size", "64", "--backend", "fake", "--json"]
    log, errors = out.with_suffix(".jsonl"), out.with_suffix(".err")
    with log.open("wb") as said, errors.open("wb") as complaints:
        child = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, flags)], stdout=said, stderr=complaints,
            env=os.environ | {"XDG_CACHE_HOME": str(cache)},
        )  # fmt: skip
        peak, size, last, heard, silence = 0, 0, 0.0, time.monotonic(), 0.0
        while child.poll() is None:
            peak, busy = max(peak, resident(child.pid)), worked(child.pid)
            silence = silence if has_ended(out) else max(silence, busy - last)  # then sheets of thousands are drawn
            written = sum(path.stat().st_size for path in (out / ".ip2pbatch").glob("*.jsonl"))
            if written != size:
                size, last, heard = written, busy, time.monotonic()
            elif busy - last > 8 * PATIENCE or time.monotonic() - heard > many(8, 120) * PATIENCE:
                child.kill()
            time.sleep(0.01)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert "Traceback" not in errors.read_text(), errors.read_text()[-2000:]
    return Outcome(child.wait(PATIENCE), lines, peak, silence)


def test_good_photos_among_thousands_of_bad_files_are_all_edited(tmp_path: Path) -> None:
    """Full: 5,000 mutants. 0 crashes, 0 hangs over 30 s, memory bounded, good files all done and as ever, exit 3."""
    good, mixed, chance = tmp_path / "good", tmp_path / "mixed", random.Random(9)
    kinds = list(SUFFIXES)
    for folder in (good, mixed):
        folder.mkdir()
        for number in range(12):
            kind, name = kinds[number % 4], kinds[(number + (number > 7)) % 4]  # the last four have a wrong extension
            (folder / f"good{number:02d}{SUFFIXES[name]}").write_bytes(encoded(kind, number))
    for name, data in no_photos().items():
        (mixed / name).write_bytes(data)
    whole = {kind: [encoded(kind, seed) for seed in range(8)] for kind in kinds}
    for number in range(many(80, 5000)):
        kind = kinds[number % 4]
        (mixed / f"m{number:04d}{SUFFIXES[kind]}").write_bytes(mutant(chance, chance.choice(whole[kind])))
    before = digests(mixed)

    alone = edit(good, tmp_path / "alone", tmp_path / "cache")
    assert alone.code == 0
    among = edit(mixed, tmp_path / "among", tmp_path / "cache")

    assert among.code == 3
    assert among.silence < PATIENCE
    assert among.peak - alone.peak < 300 * MIB
    files = digests(tmp_path / "among")
    expected = {name: sha for name, sha in digests(tmp_path / "alone").items() if name.startswith("good")}
    assert len(expected) == 12
    assert {name: sha for name, sha in files.items() if name.startswith("good")} == expected
    fate = fates(tmp_path / "among", among)
    assert fate.keys() == before.keys(), "a file that became neither a picture nor a row with its reason"
    assert {fate[name] for name in fate if name.startswith("good")} == {"done"}
    assert "done" not in {fate[name] for name in no_photos()}
    assert "" not in fate.values()
    assert strays(tmp_path / "among") == []
    assert digests(mixed) == before


def fates(out: Path, outcome: Outcome) -> dict[str, str]:
    """What became of every file by its name: done and delivered, or the reason why not."""
    view, fate = read_run(out), {}
    assert view.complaints == ()
    refused: dict[str, str] = {row["file"]: row["reason"] for row in outcome.lines[-1]["undelivered"]}  # type: ignore
    for strip in view.strips:
        edit = strip.edits[-1]
        record = view.record(edit.key)
        assert record is not None
        if record.status != "done":
            fate[strip.photo.name] = record.detail
        elif view.delivered_path(strip, edit):
            fate[strip.photo.name] = "done"
        else:
            stem = Path(strip.photo.name).stem
            (fate[strip.photo.name],) = (why for file, why in refused.items() if file.startswith(f"{stem}_"))
    return fate | view.broken


def test_a_bomb_that_keeps_its_promise_takes_no_more_memory_than_its_pixels(tmp_path: Path) -> None:
    """190 megapixels of black in 24 KB are a photo within the limits: edited, and within memory for 4 of its kind.
    6 megapixels here, in as much more memory than without it.
    """
    side = many(2_400, 13_700)
    for name in ("without", "with"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "good.jpg").write_bytes(encoded("JPEG", 1))
    bomb = png_bomb(side, side, depth=1, whole=True)
    assert len(bomb) < side * side // 1000
    (tmp_path / "with" / "bomb.png").write_bytes(bomb)
    plain = edit(tmp_path / "without", tmp_path / "a", tmp_path / "cache")
    heavy = edit(tmp_path / "with", tmp_path / "b", tmp_path / "cache")
    assert plain.code == 0
    assert heavy.code in (0, 3)  # black stays black, which a model may not deliver
    assert heavy.peak - plain.peak < 120 * MIB + 32 * side * side
    assert heavy.silence < PATIENCE
