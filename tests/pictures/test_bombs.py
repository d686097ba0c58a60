"""Small files that would take all memory or hours: a reason, or a note, within seconds."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from test_metadata import PROVENANCE

from ip2pbatch.errors import PhotoError
from ip2pbatch.pictures import images, metadata
from ip2pbatch.pictures.containers import read_blocks
from ip2pbatch.pictures.metadata import Policy
from ip2pbatch.plan.photo_digests import look

_SECONDS = 5  # of processor time for all that is done with a photo's file
_FULL = bytes(4)  # version and flags of a box


def box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), name) + content


def item(number: int, kind: bytes = b"hvc1") -> bytes:
    return box(b"infe", b"\2\0\0\0" + struct.pack(">HH4s", number, 0, kind) + b"\0")


def heic(infos: Iterable[bytes], iloc: bytes, associations: bytes, properties: bytes = b"", tail: int = 100) -> bytes:
    infos = [*infos]
    parts = (
        (b"pitm", _FULL + b"\0\1"),
        (b"iinf", _FULL + struct.pack(">H", len(infos)) + b"".join(infos)),
        (b"iloc", _FULL + iloc),
        (b"iprp", box(b"ipco", box(b"ispe", _FULL + struct.pack(">II", 96, 64)) + properties)
         + box(b"ipma", _FULL + associations)),
    )  # fmt: skip
    meta = _FULL + b"".join(box(name, content) for name, content in parts)
    return box(b"ftyp", b"heic\0\0\0\0mif1heic") + box(b"meta", meta) + bytes(tail)


def places(count: int, length: int) -> bytes:
    """Where so many items lie: all at the file's start."""
    return b"\x44\0" + struct.pack(">H", count) + b"".join(
        struct.pack(">HHHII", number + 1, 0, 1, 0, length) for number in range(count)
    )  # fmt: skip


SIZE_ONLY = struct.pack(">IHBB", 1, 1, 1, 1)
WHO = 30_000


def four_milliards_of_empty_extents() -> bytes:
    rows = b"".join(struct.pack(">HHH", number, 0, 65_535) for number in range(65_535))
    return heic([item(1)], b"\0\0\xff\xff" + rows, SIZE_ONLY)


def items_that_are_all_of_the_file() -> bytes:
    return heic((item(one + 1) for one in range(WHO)), places(WHO, 3_000_000), SIZE_ONLY, tail=3_000_000)


def exif_items_that_are_all_of_the_file() -> bytes:
    infos = (item(one + 1, b"Exif" if one else b"hvc1") for one in range(WHO))
    return heic(infos, places(WHO, 3_000_000), SIZE_ONLY, tail=3_000_000)


def a_large_profile_a_million_times() -> bytes:
    one = struct.pack(">HB", 1, 255) + b"\2" * 255
    large = box(b"colr", b"prof" + bytes(1_000_000))
    return heic([item(1)], places(1, 10), struct.pack(">I", 4_000) + one * 4_000, large)


def tiff(entries: Iterable[tuple[int, int, int, int]], pages: int = 1, tail: int = 0) -> bytes:
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    count, length = len(directory) // 12, len(directory) + 6
    following = [*(8 + length * page for page in range(1, pages)), 0]
    rows = (struct.pack("<H", count) + directory + struct.pack("<I", after) for after in following)
    return b"II*\0\x08\0\0\0" + b"".join(rows) + bytes(tail)


GREY = [(256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8), (277, 3, 1, 1),
        (278, 3, 1, 8), (279, 4, 1, 64)]  # fmt: skip


def large_values(length: int) -> list[tuple[int, int, int, int]]:
    """Five thousand tags, each of all the bytes there are."""
    return [(30_000 + number, 1, length, 8) for number in range(5_000)]


def values_upon_each_other() -> bytes:
    return tiff(GREY + large_values(3_000_000), tail=3_000_000)


def values_upon_each_other_in_a_bigtiff() -> bytes:
    rows = [struct.pack("<HHQQ", *entry) for entry in GREY + large_values(3_000_000)[:4000]]
    head = struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, len(rows))
    return head + b"".join(rows) + bytes(8) + bytes(3_000_000)


def a_hundred_thousand_pages() -> bytes:
    return tiff(GREY, pages=100_000)


def drawn(kind: str) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (96, 64), "teal").save(buffer, kind)
    return buffer.getvalue()


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def jpeg(segments: bytes) -> bytes:
    whole = drawn("JPEG")
    return whole[:2] + segments + whole[2:]


def exif_in_100_000_segments() -> bytes:
    return jpeg(segment(0xE1, b"Exif\0\0" + tiff([])) + segment(0xE1, b"Exif\0\0..") * 100_000)


def photoshop_s_block_in_100_000_segments() -> bytes:
    return jpeg(segment(0xED, b"Photoshop 3.0\0") * 100_000)


def exif_whose_values_lie_upon_each_other() -> bytes:
    block = tiff(large_values(800_000), tail=800_000)
    return jpeg(b"".join(segment(0xE1, b"Exif\0\0" + block[at : at + 60_000]) for at in range(0, len(block), 60_000)))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(chunks: bytes) -> bytes:
    whole = drawn("PNG")
    return whole[:33] + chunks + whole[33:]


def xmp_of_two_million_elements() -> bytes:
    packet = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b"<rdf:Description>" + b"<a/>" * 2_000_000 + b"</rdf:Description></rdf:RDF></x:xmpmeta>"
    )
    return png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet))


def raw_profiles_of_zeros() -> bytes:
    packed = zlib.compress(b"\nexif\n 99999999\n" + b"0" * 20_000_000, 9)
    return png(chunk(b"zTXt", b"Raw profile type app1\0\0" + packed) * 200)


REFUSED = {
    four_milliards_of_empty_extents: ("heic", "table of places is not to be believed"),
    items_that_are_all_of_the_file: ("heic", "table of places is not to be believed"),
    exif_items_that_are_all_of_the_file: ("heic", "damaged or cut off"),
    a_large_profile_a_million_times: ("heic", "table of properties is not to be believed"),
    exif_in_100_000_segments: ("jpg", "more segments than any photo"),
    photoshop_s_block_in_100_000_segments: ("jpg", "more segments than any photo"),
    raw_profiles_of_zeros: ("png", "more than 64 MB of texts and profiles"),
}
READ = {
    values_upon_each_other: "tif",
    values_upon_each_other_in_a_bigtiff: "btf",
    exif_whose_values_lie_upon_each_other: "jpg",
    xmp_of_two_million_elements: "png",
    a_hundred_thousand_pages: "tif",
}


def notes(path: Path) -> tuple[str, ...]:
    """What a run and its delivery say of a photo: everything that is done with its file."""
    start = time.process_time()
    blocks = read_blocks(path)
    _, said = metadata.merge(blocks, PROVENANCE, Policy(), "jpeg", (96, 64), (96, 64), srgb=False)
    try:
        look(path)
        return (*images.load(path).notes, *said)
    finally:
        assert time.process_time() - start < _SECONDS


@pytest.mark.parametrize("bomb", REFUSED, ids=lambda bomb: bomb.__name__)
def test_a_bomb_is_refused(tmp_path: Path, bomb) -> None:
    suffix, reason = REFUSED[bomb]
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(bomb())
    with pytest.raises(PhotoError, match=reason):
        notes(path)


@pytest.mark.parametrize("bomb", READ, ids=lambda bomb: bomb.__name__)
@pytest.mark.filterwarnings("ignore:Tag data larger than file", "ignore:Possibly corrupt EXIF")
def test_a_picture_with_a_bomb_beside_it_is_read(tmp_path: Path, bomb) -> None:
    path = tmp_path / f"a.{READ[bomb]}"
    path.write_bytes(bomb())
    said = " ".join(notes(path))
    assert {
        exif_whose_values_lie_upon_each_other: "its values lie upon each other",
        xmp_of_two_million_elements: "more elements than any photo's",
        a_hundred_thousand_pages: "only the first of several pictures",
    }.get(bomb, "") in said
