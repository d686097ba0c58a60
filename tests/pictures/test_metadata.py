"""What a delivered file says, read back with exiftool where it is installed and with Pillow everywhere."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import zlib
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image, PngImagePlugin

from ip2pbatch.pictures import containers, exif, images, metadata, xmp
from ip2pbatch.pictures.deliver import DeliverySettings, render
from ip2pbatch.pictures.metadata import Provenance
from ip2pbatch.pictures.originals import Original
from ip2pbatch.plan.edits import Guidance, make_edit

KINDS = ["jpeg", "png", "tiff", "webp"]
SUFFIX = {"jpeg": ".jpg", "png": ".png", "tiff": ".tif", "webp": ".webp"}
PHOTO = skimage.data.coffee()[:160, :240]
INSTRUCTIONS = ('make it <winter> & "snow"', "färb den Himmel rot ☾")
PROVENANCE = Provenance(
    "0123456789abcdef" * 2, "feedc0de" * 8, INSTRUCTIONS, 7.5, 1.25, 1371, 20, "euler_a", (80, 120),
    "timbrooks/instruct-pix2pix", "ffeeddccbbaa99887766", ("tome 0.5",),
)  # fmt: skip
needs_exiftool = pytest.mark.skipif(
    shutil.which("exiftool") is None, reason="exiftool is not installed (apt-get install libimage-exiftool-perl)"
)


def exiftool(*arguments: object) -> str:
    done = subprocess.run(["exiftool", *map(str, arguments)], capture_output=True, text=True, check=True)
    return done.stdout


def tags(path: Path) -> dict[str, object]:
    """{"Group:Tag": value}, numbers as numbers."""
    rows: dict[str, object] = json.loads(exiftool("-json", "-a", "-G1", "-n", "-struct", path))[0]
    return rows


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JPEG as a careful photographer leaves it: turned, placed, titled, with a thumbnail and unknown XMP."""
    folder = tmp_path_factory.mktemp("source")
    path = folder / "photo.jpg"
    Image.fromarray(PHOTO).save(path, quality=95, dpi=(240, 240), comment=b"a comment")
    Image.fromarray(PHOTO[:60, :80]).save(folder / "thumbnail.jpg")
    if shutil.which("exiftool"):
        exiftool(
            "-q", "-overwrite_original", "-Orientation#=6", "-Make=Canon", "-Model=EOS R5", "-LensModel=RF 50",
            "-DateTimeOriginal=2024:07:15 18:03:11", "-OffsetTimeOriginal=+02:00", "-ISO=400", "-FNumber=2.8",
            "-GPSLatitude=48.2", "-GPSLatitudeRef=N", "-GPSLongitude=16.37", "-GPSLongitudeRef=E",
            "-XMP-exif:GPSAltitude=171", "-Artist=Jo Ö", "-Copyright=(c) Jo", "-IPTC:Keywords=coffee",
            "-IPTC:By-line=Jo", "-XMP-dc:Title=Cup", "-XMP-dc:Subject=coffee", "-XMP-xmp:Rating=4",
            "-XMP-xmpMM:DocumentID=xmp.did:parent", "-XMP-lr:HierarchicalSubject=drinks|coffee",
            "-XMP-tiff:Orientation#=6", "-UserComment=my own note",
            f"-ThumbnailImage<={folder / 'thumbnail.jpg'}", path,
        )  # fmt: skip
    return path


def edited_like(path: Path) -> np.ndarray:
    full = images.load(path, colours="own").pixels
    return (images.resize(full, (full.shape[1] // 16 * 8, full.shape[0] // 16 * 8)) * 0.7).astype(np.uint8)


def delivered(path: Path, target: Path, provenance: Provenance = PROVENANCE, **settings: str | bool) -> Path:
    rendered = render(Original(path), edited_like(path), DeliverySettings(**settings), provenance)
    target = target.with_suffix(SUFFIX[rendered.format])
    target.write_bytes(rendered.data)
    return target


KEPT = [
    "IFD0:Make", "IFD0:Model", "IFD0:Artist", "IFD0:Copyright", "ExifIFD:DateTimeOriginal", "ExifIFD:ISO",
    "ExifIFD:OffsetTimeOriginal", "ExifIFD:FNumber", "ExifIFD:LensModel", "GPS:GPSLatitude", "GPS:GPSLongitude",
    "XMP-dc:Title", "XMP-dc:Subject", "XMP-xmp:Rating", "XMP-lr:HierarchicalSubject", "XMP-exif:GPSAltitude",
]  # fmt: skip


@needs_exiftool
@pytest.mark.parametrize("kind", KINDS)
def test_everything_the_photographer_wrote_is_kept(tmp_path: Path, source: Path, kind: str) -> None:
    before, after = tags(source), tags(delivered(source, tmp_path / "a", format=kind))
    assert {tag: after.get(tag) for tag in KEPT} == {tag: before[tag] for tag in KEPT}
    if kind in ("jpeg", "tiff"):
        assert after["IPTC:Keywords"] == "coffee"
        assert after["IPTC:By-line"] == "Jo"
    assert str(after["ExifIFD:UserComment"]).startswith("my own note\n")


@needs_exiftool
@pytest.mark.parametrize("kind", KINDS)
def test_the_picture_is_upright_and_shows_no_old_thumbnail(tmp_path: Path, source: Path, kind: str) -> None:
    path = delivered(source, tmp_path / "a", format=kind)
    after = tags(path)
    assert after["Composite:ImageSize"] == "160 240"
    assert after["IFD0:Orientation"] == 1
    assert (after["ExifIFD:ExifImageWidth"], after["ExifIFD:ExifImageHeight"]) == (160, 240)
    assert not [tag for tag in after if "Thumbnail" in tag or tag == "XMP-tiff:Orientation"]
    scan = (source.parent / "thumbnail.jpg").read_bytes()[-80:-10]
    assert scan in source.read_bytes()
    assert scan not in path.read_bytes()


@needs_exiftool
@pytest.mark.parametrize("kind", KINDS)
def test_the_file_says_that_and_how_it_was_made(tmp_path: Path, source: Path, kind: str) -> None:
    after = tags(delivered(source, tmp_path / "a", format=kind))
    prompt = "; then ".join(INSTRUCTIONS)
    assert after["XMP-iptcExt:DigitalSourceType"] == metadata.SOURCE_TYPE
    assert after["XMP-iptcExt:AISystemUsed"] == "InstructPix2Pix (timbrooks/instruct-pix2pix)"
    assert str(after["XMP-iptcExt:AISystemVersionUsed"]).startswith("ffeeddccbbaa / ip2pbatch ")
    assert after["XMP-iptcExt:AIPromptInformation"] == prompt
    assert after["XMP-xmpMM:DerivedFrom"] == {"DocumentID": "xmp.did:parent"}
    assert after["XMP-xmpMM:DocumentID"] != "xmp.did:parent"
    assert str(after["XMP-xmp:CreatorTool"]).startswith("ip2pbatch ")
    assert str(after["IFD0:Software"]).startswith("ip2pbatch ")
    assert after["XMP-ip2p:Instructions"] == list(INSTRUCTIONS)
    assert (after["XMP-ip2p:TextGuidance"], after["XMP-ip2p:ImageGuidance"], after["XMP-ip2p:Seed"]) == (
        7.5,
        1.25,
        1371,
    )
    settings = "Steps: 20, Sampler: euler_a, CFG scale: 7.5, Image CFG scale: 1.25, Seed: 1371, Size: 80x120"
    texts = [str(after["ExifIFD:UserComment"])] + ([str(after["PNG:Parameters"])] if kind == "png" else [])
    for text in texts:
        assert prompt + "\n" + settings in text


@needs_exiftool
@pytest.mark.parametrize("kind", KINDS)
def test_the_prompt_and_the_position_can_be_left_out(tmp_path: Path, source: Path, kind: str) -> None:
    path = delivered(source, tmp_path / "a", format=kind, prompt=False, gps="strip")
    after = tags(path)
    assert not [tag for tag in after if "GPS" in tag]
    assert "winter" not in json.dumps(after)
    data = path.read_bytes()
    assert b"winter" not in data
    assert "winter".encode("utf-16-be") not in data
    assert after["IFD0:Make"] == "Canon"
    assert after["XMP-ip2p:Seed"] == 1371


@needs_exiftool
@pytest.mark.parametrize("kind", KINDS)
def test_exiftool_finds_nothing_wrong(tmp_path: Path, source: Path, kind: str) -> None:
    path = delivered(source, tmp_path / "a", format=kind)
    report = exiftool("-validate", "-warning", "-error", "-a", "-s3", path)
    # Not ours: what the fixture's own EXIF lacks, and exiftool's list of TIFF compressions without Adobe's Deflate.
    pardoned = ("OK", "[minor]", "Missing required", "Invalid value for IFD0 tag 0x0103", " Warning")
    wrong = [line for line in report.splitlines() if not any(word in line for word in pardoned)]
    assert wrong in ([], ["Non-standard format (int8u) for IFD0 0x83bb IPTC-NAA"])


@needs_exiftool
@pytest.mark.parametrize("kind", KINDS)
def test_delivering_a_delivered_file_does_not_pile_up(tmp_path: Path, source: Path, kind: str) -> None:
    once = delivered(source, tmp_path / "once", format=kind)
    twice = delivered(once, tmp_path / "twice")
    a, b = tags(once), tags(twice)
    assert str(b["ExifIFD:UserComment"]).count("Steps: 20") == 1
    assert b["XMP-ip2p:Instructions"] == a["XMP-ip2p:Instructions"]
    assert b["XMP-xmpMM:DerivedFrom"] == {"DocumentID": a["XMP-xmpMM:DocumentID"]}
    assert {tag: b.get(tag) for tag in KEPT} == {tag: a[tag] for tag in KEPT}


@needs_exiftool
def test_extended_xmp_goes_along(tmp_path: Path, source: Path) -> None:
    big = tmp_path / "big.png"
    Image.fromarray(PHOTO).save(big)
    exiftool("-q", "-overwrite_original", f"-XMP-dc:Description={'long ' * 20_000}", "-XMP-dc:Title=Cup", big)
    jpeg = delivered(big, tmp_path / "a", format="jpeg")
    assert len(containers.read_blocks(jpeg).xmp) < 65_502
    after = tags(jpeg)
    assert after["XMP-dc:Description"] == "long " * 20_000
    assert after["XMP-dc:Title"] == "Cup"
    assert after["XMP-iptcExt:DigitalSourceType"] == metadata.SOURCE_TYPE
    assert tags(delivered(jpeg, tmp_path / "b", format="tiff"))["XMP-dc:Description"] == after["XMP-dc:Description"]
    assert tags(delivered(jpeg, tmp_path / "c", format="jpeg"))["XMP-dc:Description"] == after["XMP-dc:Description"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_picture_gives_the_same_bytes(source: Path, kind: str) -> None:
    settings = DeliverySettings(format=kind)
    first, second = (render(Original(source), edited_like(source), settings, PROVENANCE).data for _ in range(2))
    assert first == second


def exif_with_maker_note(order: str) -> bytes:
    """An EXIF block whose maker note holds an offset that counts from the start of the block."""

    def directory(entries: list[tuple[int, int, int, bytes]]) -> bytes:
        body = b"".join(struct.pack(order + "HHI", *entry[:3]) + entry[3] for entry in entries)
        return struct.pack(order + "H", len(entries)) + body + bytes(4)

    def long(n: int) -> bytes:
        return struct.pack(order + "I", n)

    note = b"MAKER\0" + long(200) + b"secret of the camera"
    header = (b"II*\0" if order == "<" else b"MM\0*") + long(8)
    root = directory([(0x0112, 3, 1, struct.pack(order + "Hxx", 1)), (exif.EXIF_IFD, 4, 1, long(38))])
    details = directory([(0x927C, 7, len(note), long(56 + 30))])
    block = (header + root + details).ljust(86, b"\0") + note
    return block.ljust(200, b"\0") + b"what the note points at"


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
def test_maker_notes_keep_their_bytes_and_their_place(tmp_path: Path, order: str, kind: str) -> None:
    block = exif_with_maker_note(order)
    path = tmp_path / "photo.jpg"
    Image.fromarray(PHOTO).save(path, exif=b"Exif\0\0" + block)
    target = delivered(path, tmp_path / "a", format=kind)
    after = target.read_bytes() if kind == "tiff" else containers.read_blocks(target).exif
    assert after[86:116] == block[86:116]
    assert after[200:223] == b"what the note points at"
    assert exif.Block(after).get_exif(0x927C) == exif.Block(block).get_exif(0x927C)


@pytest.mark.parametrize(
    "block",
    [
        b"II*\0\xff\xff\0\0" + bytes(20),
        b"MM\0*" + bytes(4),
        b"II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0" * 10,
        b"II*\0\x08\0\0\0\x01\0\x69\x87\x02\0\x04\0\0\0abc\0" + bytes(4),
        b"garbage!" * 5,
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_exif_is_left_out_and_said(tmp_path: Path, block: bytes, kind: str) -> None:
    path = tmp_path / "photo.webp"
    Image.fromarray(PHOTO).save(path, exif=block)
    rendered = render(Original(path), edited_like(path), DeliverySettings(format=kind), PROVENANCE)
    (tmp_path / "a").write_bytes(rendered.data)
    again = exif.Block(containers.read_blocks(tmp_path / "a").exif)
    assert "Steps: 20" in again.get_exif(exif.USER_COMMENT).data[8:].decode("utf-16-le")  # type: ignore[union-attr]


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>'
RDF = '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">{}</rdf:RDF>'


@pytest.mark.parametrize(
    "packet",
    [
        b"not xml at all",
        b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><unclosed></x:xmpmeta>",
        b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>",
        (BOMB + RDF.format("<rdf:Description>&b;</rdf:Description>")).encode(),
        RDF.format("<rdf:Description>" + "<a>" * 3000 + "</a>" * 3000 + "</rdf:Description>").encode(),
        b"\xff\xfe" + "<rdf:RDF".encode("utf-16-le"),
    ],
    ids=["text", "unclosed", "no rdf", "bomb", "deep", "utf-16"],
)
def test_damaged_or_hostile_xmp_is_left_out_and_said(tmp_path: Path, packet: bytes) -> None:
    path = tmp_path / "photo.webp"
    Image.fromarray(PHOTO).save(path, xmp=packet)
    rendered = render(Original(path), edited_like(path), DeliverySettings(), PROVENANCE)
    (tmp_path / "a").write_bytes(rendered.data)
    after = xmp.Packet(containers.read_blocks(tmp_path / "a").xmp)
    assert after.get(xmp.IPTC_EXT, "DigitalSourceType") == metadata.SOURCE_TYPE
    assert [note for note in rendered.notes if "XMP" in note]


def jumbf_segment() -> bytes:
    """The head of a JPEG APP11 segment with a C2PA manifest store (C2PA 2.2, A.3.1)."""
    description = b"jumd" + b"c2pa" + bytes.fromhex("00110010800000aa00389b71") + b"\x03c2pa\0"
    box = b"jumb" + (len(description) + 4).to_bytes(4, "big") + description
    content = b"JP\0\1\0\0\0\1" + (len(box) + 4).to_bytes(4, "big") + box
    return b"\xff\xeb" + (len(content) + 2).to_bytes(2, "big") + content


@pytest.mark.parametrize("kind", KINDS)
def test_content_credentials_do_not_outlive_the_photo_and_that_is_said(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"photo{SUFFIX[kind]}"
    Image.fromarray(PHOTO).save(path, **({"tiffinfo": {52545: b"manifest"}} if kind == "tiff" else {}))
    data = path.read_bytes()
    if kind == "jpeg":
        data = data[:2] + jumbf_segment() + data[2:]
    elif kind == "png":
        data = data[:33] + b"\0\0\0\x08caBXmanifest" + zlib.crc32(b"caBXmanifest").to_bytes(4, "big") + data[33:]
    elif kind == "webp":
        data += b"C2PA\x08\0\0\0manifest"
        data = data[:4] + (len(data) - 8).to_bytes(4, "little") + data[8:]
    path.write_bytes(data)
    rendered = render(Original(path), edited_like(path), DeliverySettings(), PROVENANCE)
    assert [note for note in rendered.notes if "C2PA" in note]
    assert b"manifest" not in rendered.data
    (tmp_path / "a").write_bytes(rendered.data)
    assert not containers.read_blocks(tmp_path / "a").c2pa


def test_gain_maps_and_depth_maps_of_the_old_picture_are_not_announced(tmp_path: Path) -> None:
    body = (
        '<rdf:Description rdf:about="u" xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"'
        ' xmlns:my="http://example.com/mine/" my:note="kept"><my:deep><rdf:Bag><rdf:li>too</rdf:li></rdf:Bag></my:deep>'
        '<D:Data xmlns:D="http://ns.google.com/photos/1.0/depthmap/">AAAA</D:Data></rdf:Description>'
    )
    path = tmp_path / "photo.jpg"
    Image.fromarray(PHOTO).save(path, xmp=RDF.format(body).encode())
    packet = containers.read_blocks(delivered(path, tmp_path / "a")).xmp.decode()
    assert "hdrgm:Version" not in packet
    assert "AAAA" not in packet
    assert 'my:note="kept"' in packet
    assert "<my:deep><rdf:Bag><rdf:li>too</rdf:li></rdf:Bag></my:deep>" in packet
    assert packet.count('rdf:about="u"') == 2


def test_control_characters_in_an_instruction_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(PHOTO).save(path)
    odd = Provenance("k", "s", ("a\0b\x1b[31m\ud800c",), 1, 1, 1, 1, "ddim", (8, 8), "tiny")
    after = xmp.Packet(containers.read_blocks(delivered(path, tmp_path / "a", odd)).xmp)
    assert after.get(xmp.IPTC_EXT, "AIPromptInformation") == "ab[31mc"


def test_png_texts_of_the_photographer_are_kept(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "Jo")
    info.add_itxt("Title", "Tasse ☕", zip=True)
    info.add_text("parameters", "another program's")
    path = tmp_path / "photo.png"
    Image.fromarray(PHOTO).save(path, pnginfo=info)
    with Image.open(delivered(path, tmp_path / "a")) as image:
        image.load()
        assert image.info["Author"] == "Jo"
        assert image.info["Title"] == "Tasse ☕"
        assert "Seed: 1371" in image.info["parameters"]


def test_capture_dates(tmp_path: Path) -> None:
    block = Image.Exif()
    block[0x0132] = "2025:01:01 00:00:00"  # the day of the last change, not of the photo
    path = tmp_path / "a.jpg"
    Image.fromarray(PHOTO).save(path, exif=block)
    assert metadata.capture_date(path) is None
    block.get_ifd(0x8769)[0x9003] = "2024:07:15 18:03:11"
    whole = Image.Exif()
    whole.load(block.tobytes())  # Pillow writes the Exif directory into a TIFF only of a block that was read
    for name in ("a.jpg", "a.png", "a.tif", "a.webp"):
        Image.fromarray(PHOTO).save(tmp_path / name, exif=whole)
        assert metadata.capture_date(tmp_path / name) == datetime(2024, 7, 15, 18, 3, 11)
    block.get_ifd(0x8769)[0x9003] = "0000:00:00 00:00:00"
    Image.fromarray(PHOTO).save(path, exif=block)
    assert metadata.capture_date(path) is None
    body = '<rdf:Description xmlns:e="http://ns.adobe.com/exif/1.0/" e:DateTimeOriginal="2023-02-01T03:04:05.6+01:00"/>'
    Image.fromarray(PHOTO).save(path, xmp=RDF.format(body).encode())
    assert metadata.capture_date(path) == datetime(2023, 2, 1, 3, 4, 5)
    assert metadata.capture_date(tmp_path / "none.jpg") is None


def test_provenance_follows_from_the_chain_and_names_no_folder_of_yours() -> None:
    first = make_edit("photo", "make it rain", Guidance(7, 1.5), 3, steps=20, sampler="ddim", size=(64, 48))
    second = make_edit(
        first.key, "make it night", Guidance(8, 1.5), 3, steps=20, sampler="ddim", size=(64, 48), carry="latent"
    )
    provenance = Provenance.of((first, second), "/home/jo/models/my-model", "abc")
    assert provenance.instructions == ("make it rain", "make it night")
    assert (provenance.key, provenance.source, provenance.text) == (second.key, "photo", 8)
    assert provenance.model == "my-model"
    assert Provenance.of((first,), "timbrooks/instruct-pix2pix").model == "timbrooks/instruct-pix2pix"
