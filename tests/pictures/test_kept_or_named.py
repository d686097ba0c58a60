"""What photos carry beside their pixels, and few tools read: it comes along, or a note says that it does not."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import tifffile
from PIL import Image, ImageCms, PngImagePlugin
from test_metadata import PROVENANCE, edited_like, needs_exiftool, tags

from ip2pbatch.pictures import containers, exif, images, metadata, xmp
from ip2pbatch.pictures.deliver import DeliverySettings, Rendered, render
from ip2pbatch.pictures.originals import Original

PHOTO = skimage.data.coffee()[:96, :128]
ROOM = 65_527  # bytes of EXIF in a JPEG's segment
XMP_HEAD = b"http://ns.adobe.com/xap/1.0/\0"
GOOGLE = "http://ns.google.com/photos/1.0"


def camera_s(maker_note: int = 0) -> bytes:
    """EXIF with camera, date, place and copyright, and a maker note of so many bytes."""
    block = Image.Exif()
    block[0x010F], block[0x0110], block[0x8298], block[0x0112] = "Maker", "Model One", "Copyright holder", 1
    block.get_ifd(0x8769).update({0x9003: "2019:08:07 06:05:04", 0x9286: b"ASCII\0\0\0mine", 0xA002: 1, 0xA003: 1})
    block.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 24.0), 3: "E", 4: (2.0, 21.0, 3.0)})
    if maker_note:
        block.get_ifd(0x8769)[0x927C] = (bytes(range(256)) * 256)[:maker_note]
    return block.tobytes()[6:]


def jpeg(path: Path, *segments: tuple[int, bytes], behind: bytes = b"", **options: object) -> Path:
    """A JPEG with more segments behind its start, and bytes behind its end."""
    Image.fromarray(PHOTO).save(path, quality=92, **options)
    data = path.read_bytes()
    more = b"".join(struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content for marker, content in segments)
    path.write_bytes(data[:2] + more + data[2:] + behind)
    return path


def packet(attributes: str) -> bytes:
    body = f'<rdf:Description rdf:about="" {attributes}/>'
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{xmp.RDF}">{body}</rdf:RDF></x:xmpmeta>'.encode()


def with_xmp(path: Path, attributes: str, behind: bytes = b"") -> Path:
    return jpeg(path, (0xE1, XMP_HEAD + packet(attributes)), behind=behind)


def resource(number: int, content: bytes) -> bytes:
    return b"8BIM" + struct.pack(">HHI", number, 0, len(content)) + content + bytes(len(content) % 2)


def raw_profile(name: str, content: bytes) -> tuple[str, str]:
    """A text of a PNG as ImageMagick, exiv2 and digiKam keep EXIF and IPTC."""
    dump = content.hex()
    lines = "\n".join(dump[at : at + 72] for at in range(0, len(dump), 72))
    return f"Raw profile type {name}", f"\n{name}\n{len(content):8d}\n{lines}\n"


def edited(path: Path, **settings: str) -> tuple[Rendered, Path]:
    """The edited file of a photo, in a folder beside it."""
    made = render(Original(path), edited_like(path), DeliverySettings(**settings), PROVENANCE)
    target = path.parent / "edited" / path.name
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(made.data)
    return made, target


@pytest.mark.parametrize("missing", [0, 1, 40, 400, 4000])
@pytest.mark.parametrize("gps", ["keep", "strip"])
def test_exif_that_fills_its_segment_stays_to_the_last_byte(tmp_path: Path, missing: int, gps: str) -> None:
    note = ROOM - missing - len(camera_s(256)) + 255
    path = jpeg(tmp_path / "photo.jpg", exif=b"Exif\0\0" + camera_s(note))
    made, target = edited(path, gps=gps)
    block = exif.Block(containers.read_blocks(target).exif)
    assert len(containers.read_blocks(path).exif) in (ROOM - missing, ROOM - missing - 1)  # values begin at even places
    assert len(block.data) <= ROOM
    assert [block.text(block.get(tag)) for tag in (0x010F, 0x8298)] == ["Maker", "Copyright holder"]
    assert block.text(block.get_exif(exif.DATE_TIME_ORIGINAL)) == "2019:08:07 06:05:04"
    found = block.get_exif(0x927C)
    assert found is not None
    assert found.data == (bytes(range(256)) * 256)[:note]
    assert (block.get(exif.GPS_IFD) is None) == (gps == "strip")
    assert [block.number(block.get_exif(tag)) for tag in (exif.PIXEL_X, exif.PIXEL_Y)] == [128, 96]
    assert [one for one in made.notes if "settings left out of EXIF" in one] == list(made.notes)
    assert bool(made.notes) == (missing < 4000)
    assert metadata.SOURCE_TYPE.encode() in containers.read_blocks(target).xmp


def test_a_panorama_stays_one_and_its_figures_follow_its_size(tmp_path: Path) -> None:
    space = f'xmlns:GPano="{GOOGLE}/panorama/" GPano:ProjectionType="equirectangular"'
    path = with_xmp(tmp_path / "p.jpg", f'{space} GPano:FullPanoWidthPixels="128" GPano:CroppedAreaTopPixels="48"')
    for size, figures in (("auto", ["128", "48"]), ("off", ["64", "24"])):
        made, target = edited(path, full_resolution=size)
        found = xmp.Packet(containers.read_blocks(target).xmp)
        names = ("ProjectionType", "FullPanoWidthPixels", "CroppedAreaTopPixels")
        assert [found.get(xmp.PANORAMA, name) for name in names] == ["equirectangular", *figures]
        assert made.notes == ()


VIDEO = b"\0\0\0\x18ftypmp42" + bytes(range(200))
LEFT_BEHIND = {
    "gain map": ('xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"', b"", "HDR gain map"),
    "micro video": (f'xmlns:G="{GOOGLE}/camera/" G:MicroVideo="1" G:MicroVideoOffset="212"', VIDEO, "video of"),
    "motion photo": (f'xmlns:G="{GOOGLE}/camera/" G:MotionPhoto="1"', b"", "video of a motion photo"),
    "unannounced video": ('xmlns:m="http://example.com/mine/" m:a="b"', VIDEO, "video of a motion photo"),
    "depth": (f'xmlns:D="{GOOGLE}/depthmap/" D:Data="AAAA"', b"", "depth map"),
    "sound": (f'xmlns:A="{GOOGLE}/audio/" A:Data="AAAA"', b"", "sound"),
    "trailer": ('xmlns:m="http://example.com/mine/" m:a="b"', b"SEFH" + bytes(9) + b"SEFT", "data behind the picture"),
}  # fmt: skip


@pytest.mark.parametrize("kind", LEFT_BEHIND)
def test_what_no_edited_file_can_have_is_named_and_no_pointer_to_it_stays(tmp_path: Path, kind: str) -> None:
    attributes, behind, said = LEFT_BEHIND[kind]
    other = (
        f'xmlns:C="{GOOGLE}/camera/" C:BurstID="kept"'
        if kind != "micro video"
        else 'xmlns:C="http://e.com/" C:a="kept"'
    )
    made, target = edited(with_xmp(tmp_path / "photo.jpg", f"{attributes} {other}", behind))
    assert len(made.notes) == 1
    assert made.notes[0].startswith(said)
    assert made.notes[0].endswith(" left out")
    found = containers.read_blocks(target).xmp
    assert b"kept" in found
    assert (attributes.split('"')[2].split("=")[0].strip().encode() in found) == ("m:a" in attributes)
    assert target.read_bytes().endswith(b"\xff\xd9")


def test_a_further_picture_that_nothing_lists_is_named(tmp_path: Path) -> None:
    one = jpeg(tmp_path / "one.jpg").read_bytes()
    assert edited(jpeg(tmp_path / "two.jpg", behind=one))[0].notes == ("a further picture left out",)


FLAG, ADDRESS, OUTLINE = resource(0x040A, b"\1"), resource(0x040B, b"http://example.org/"), resource(0x07D0, bytes(52))
CAPTION = b"\x1c\x02\x78\0\x05a cup"


@pytest.mark.parametrize("suffix", [".jpg", ".tif", ".png"])
def test_photoshop_s_blocks_stay_and_paths_where_the_picture_lies_as_it_did(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"photo{suffix}"
    block = FLAG + resource(0x0404, CAPTION) + ADDRESS + resource(0x040C, b"thumbnail") + OUTLINE
    if suffix == ".jpg":
        jpeg(path, (0xED, b"Photoshop 3.0\0" + block[:90]), (0xED, b"Photoshop 3.0\0" + block[90:]))
    elif suffix == ".tif":
        Image.fromarray(PHOTO).save(path, tiffinfo={34377: block})
    else:
        info = PngImagePlugin.PngInfo()
        info.add_text(*raw_profile("8bim", block), zip=True)
        Image.fromarray(PHOTO).save(path, pnginfo=info)
    made, target = edited(path)
    found = containers.read_blocks(target)
    assert (found.photoshop, found.iptc, made.notes) == (FLAG + ADDRESS + OUTLINE, CAPTION, ())
    made, target = edited(path, full_resolution="off")
    assert containers.read_blocks(target).photoshop == FLAG + ADDRESS
    assert [note for note in made.notes if "paths, guides and slices left out" in note] == list(made.notes)


def test_damaged_resources_are_kept_as_far_as_they_can_be_followed(tmp_path: Path) -> None:
    for cut in range(1, len(OUTLINE)):
        block = FLAG + OUTLINE[:-cut]
        path = jpeg(tmp_path / "photo.jpg", (0xED, b"Photoshop 3.0\0" + block))
        assert containers.read_blocks(path).photoshop == FLAG


@pytest.mark.parametrize("zipped", [True, False])
def test_profiles_in_the_texts_of_a_png_are_read(tmp_path: Path, zipped: bool) -> None:
    info, path = PngImagePlugin.PngInfo(), tmp_path / "photo.png"
    turned = camera_s().replace(b"\x12\x01\x03\0\x01\0\0\0\x01", b"\x12\x01\x03\0\x01\0\0\0\x06")
    info.add_text(*raw_profile("exif", b"Exif\0\0" + turned), zip=zipped)
    info.add_text(*raw_profile("iptc", resource(0x0404, CAPTION)), zip=zipped)
    info.add_text(*raw_profile("xmp", packet('xmlns:m="http://example.com/mine/" m:note="kept"')), zip=zipped)
    info.add_text("Raw profile type exif", "\nexif\n no number\n00", zip=zipped)
    info.add_text("Author", "Jo")
    Image.fromarray(PHOTO).save(path, pnginfo=info)
    assert images.load(path).pixels.shape == PHOTO.shape, "no viewer turns a PNG by such a text"
    made, target = edited(path)
    found = containers.read_blocks(target)
    block = exif.Block(found.exif)
    assert (block.text(block.get(0x8298)), block.number(block.get(exif.ORIENTATION))) == ("Copyright holder", 1)
    assert (found.iptc, made.notes) == (CAPTION, ())
    assert b'm:note="kept"' in found.xmp
    assert (b"tEXt", b"Author\0Jo") in found.text


def test_texts_and_profiles_of_more_than_a_megabyte_are_taken(tmp_path: Path) -> None:
    info, path = PngImagePlugin.PngInfo(), tmp_path / "photo.png"
    info.add_text("workflow", "n" * 1_600_000, zip=True)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(PHOTO).save(path, pnginfo=info)
    data = b"big\0\0" + zlib.compress(struct.pack(">I", len(profile) + 1_400_000) + profile[4:] + bytes(1_400_000))
    chunk = struct.pack(">I", len(data)) + b"iCCP" + data + struct.pack(">I", zlib.crc32(b"iCCP" + data))
    whole = path.read_bytes()
    path.write_bytes(whole[:33] + chunk + whole[33:])
    made, target = edited(path)
    with Image.open(target) as found:
        assert len(found.info["icc_profile"]) == len(profile) + 1_400_000
    assert made.notes == ()
    assert [len(content) for _, content in containers.read_blocks(target).text if content.startswith(b"workflow")]


def test_a_bomb_of_texts_is_refused_in_our_words(tmp_path: Path) -> None:
    info, path = PngImagePlugin.PngInfo(), tmp_path / "photo.png"
    for name in "abcde":
        info.add_text(name, "n" * (15 << 20), zip=True)
    Image.fromarray(PHOTO).save(path, pnginfo=info)
    with pytest.raises(images.PhotoError, match=r"photo\.png: holds more than 64 MB of texts and profiles"):
        images.load(path)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_transparent_grey_of_a_png_is_transparent_in_the_result(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "photo.png"
    grey = np.tile(np.arange(64, dtype=np.uint32) * ((1 << bits) - 1) // 63, (48, 1))
    packed = np.unpackbits(grey.astype(">u2").view(np.uint8).reshape(48, 64, 2), axis=-1).reshape(48, 64, 16)[
        ..., 16 - bits :
    ]
    rows = b"".join(b"\0" + np.packbits(row.reshape(-1)).tobytes() for row in packed)
    clear = int(grey[0, 40])

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 48, bits, 0, 0, 0, 0))
        + chunk(b"tRNS", struct.pack(">H", clear)) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )  # fmt: skip
    alpha = images.load(path, colours="own").alpha
    assert alpha is not None
    assert ((alpha == 0) == (grey == clear)).all()
    made, target = edited(path)
    assert made.data[25] == 4, "grey with alpha"
    with Image.open(target) as found:
        assert (np.asarray(found.getchannel("A")) == alpha).all()


def test_a_lossless_webp_stays_lossless(tmp_path: Path) -> None:
    for lossless, kind in ((True, b"VP8L"), (False, b"VP8 ")):
        Image.fromarray(PHOTO).save(path := tmp_path / f"{lossless}.webp", lossless=lossless)
        made, _ = edited(path)
        assert kind in made.data
        assert containers.read_blocks(path).lossless == lossless


def test_an_avif_stored_without_loss_is_named(tmp_path: Path) -> None:
    """Encoders that lose nothing code red, green and blue as they are, and say so: matrix 0."""
    for matrix, told in ((b"\0\0", 1), (b"\0\6", 0)):
        Image.fromarray(PHOTO).save(path := tmp_path / f"{told}.avif", quality=100, subsampling="4:4:4")
        data = path.read_bytes()
        at = data.index(b"colrnclx") + 12
        path.write_bytes(data[:at] + matrix + data[at + 2 :])
        made, _ = edited(path)
        assert sum("stored without loss" in note for note in made.notes) == told
        made, _ = edited(path, format="png")
        assert not made.notes


@needs_exiftool
def test_exiftool_reads_all_of_it_and_finds_nothing_wrong(tmp_path: Path) -> None:
    info, png = PngImagePlugin.PngInfo(), tmp_path / "photo.png"
    info.add_text(*raw_profile("exif", b"Exif\0\0" + camera_s()), zip=True)
    info.add_text(*raw_profile("iptc", FLAG + resource(0x0404, CAPTION) + ADDRESS), zip=True)
    Image.fromarray(PHOTO).save(png, pnginfo=info)
    full = jpeg(tmp_path / "full.jpg", (0xED, b"Photoshop 3.0\0" + FLAG + ADDRESS), exif=b"Exif\0\0" + camera_s(65_000))
    for path in (png, full):
        before, after = tags(path), tags(edited(path)[1])
        ours = ("System:", "File:", "ExifTool:", "IFD0:Software", "ExifIFD:ExifImage")
        assert {name: after.get(name) for name in before if not name.startswith(ours)} == {
            name: value for name, value in before.items() if not name.startswith(ours)
        } | {name: after.get(name) for name in ("SourceFile", "ExifIFD:UserComment") if name in before}


SIDECAR = (
    '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/"'
    ' xmlns:my="http://example.com/mine/" xmp:Rating="4" my:history="crop">'
    "<dc:subject><rdf:Bag><rdf:li>coffee</rdf:li><rdf:li>bär</rdf:li></rdf:Bag></dc:subject>"
    "<dc:rights><rdf:Alt><rdf:li xml:lang='x-default'>(c) Jo</rdf:li></rdf:Alt></dc:rights></rdf:Description>"
)


def beside(path: Path, name: str, content: str = SIDECAR) -> Path:
    whole = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{xmp.RDF}">{content}</rdf:RDF></x:xmpmeta>'
    sidecar = path.with_name(name)
    sidecar.write_text(whole, encoding="utf-8")
    return sidecar


@pytest.mark.parametrize("name", ["photo.xmp", "photo.jpg.xmp"])
def test_a_sidecar_says_what_the_photo_itself_does_not(tmp_path: Path, name: str) -> None:
    path = jpeg(tmp_path / "photo.jpg")
    before = beside(path, name).read_bytes()
    made, target = edited(path)
    found = containers.read_blocks(target).xmp.decode()
    assert xmp.Packet(found.encode()).get(xmp.XMP, "Rating") == "4"
    assert all(text in found for text in ("<rdf:li>coffee</rdf:li>", "bär", "(c) Jo"))
    assert "my:history" not in found, "how a program developed the photo is not true of the edit"
    assert (made.notes, path.with_name(name).read_bytes()) == ((), before)


def test_what_the_photo_says_itself_counts_before_its_sidecar(tmp_path: Path) -> None:
    path = jpeg(
        tmp_path / "photo.jpg",
        (0xE1, XMP_HEAD + packet('xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="2"')),
        (0xED, b"Photoshop 3.0\0" + resource(0x0404, b"\x1c\x02\x19\0\x03tea")),
        exif=b"Exif\0\0" + camera_s(),
    )
    beside(path, "photo.xmp")
    found = containers.read_blocks(edited(path)[1])
    assert xmp.Packet(found.xmp).get(xmp.XMP, "Rating") == "2"
    assert b"coffee" not in found.xmp
    assert b"(c) Jo" not in found.xmp
    assert found.iptc == b"\x1c\x02\x19\0\x03tea"


def test_a_damaged_sidecar_is_named_and_does_no_harm(tmp_path: Path) -> None:
    path = jpeg(tmp_path / "photo.jpg")
    for content in (b"<x", bytes(range(256)), b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'):
        path.with_name("photo.xmp").write_bytes(content)
        assert edited(path)[0].notes == ("the sidecar photo.xmp, which is damaged, left out",)


def test_segments_that_only_their_maker_reads_are_named(tmp_path: Path) -> None:
    path = jpeg(
        tmp_path / "photo.jpg", (0xE6, b"GoPro\0\1\2"), (0xE1, b"FLIR\0\1"), (0xE4, b"\1\2"), (0xEC, b"Ducky\0\1")
    )
    made, _ = edited(path)
    named = [note for note in made.notes if note.startswith("segment")]
    assert named == ["segment APP6 (GoPro) left out", "segment APP1 (FLIR) left out", "segment APP4 left out"]


def test_maker_notes_give_way_before_all_of_exif(tmp_path: Path) -> None:
    Image.fromarray(PHOTO).save(tmp_path / "photo.png", exif=b"Exif\0\0" + camera_s(65_000 + 512))
    made, target = edited(tmp_path / "photo.png", format="jpeg")
    block = exif.Block(containers.read_blocks(target).exif)
    assert "maker notes left out: with them EXIF has more than 64 KB" in made.notes
    assert block.text(block.get(0x0110)) == "Model One"
    assert block.text(block.get_exif(exif.DATE_TIME_ORIGINAL)) == "2019:08:07 06:05:04"
    assert block.get(exif.GPS_IFD)
    assert not block.get_exif(exif.MAKER_NOTE)


def test_texts_of_a_png_stay_or_are_named(tmp_path: Path) -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("parameters", "a cat\nSteps: 9", zip=True)
    texts.add_text("Title", "Cat")
    Image.fromarray(PHOTO).save(tmp_path / "photo.png", pnginfo=texts)
    _, target = edited(tmp_path / "photo.png")
    again, _ = edited(target)
    for data in (target.read_bytes(), again.data):
        target.write_bytes(data)
        with Image.open(target) as image:
            image.load()
            assert (image.text["Title"], image.text["parameters"].count("Version: ip2pbatch")) == ("Cat", 1)
    made, _ = edited(tmp_path / "photo.png", format="jpeg")
    assert "the PNG's texts left out: parameters, Title" in made.notes


@pytest.mark.parametrize(
    ("chunks", "named"),
    [
        ({b"gAMA": struct.pack(">I", 45_455)}, None), ({b"gAMA": struct.pack(">I", 100_000)}, "the PNG's own gamma"),
        ({b"gAMA": struct.pack(">I", 100_000), b"sRGB": b"\0"}, None), ({b"cICP": b"\1\r\0\1"}, None),
        ({b"cICP": b"\t\x10\0\1"}, "colours by numbers (cICP)"),
    ],
)  # fmt: skip
def test_colours_of_a_png_that_are_not_looked_at_are_named(
    tmp_path: Path, chunks: dict[bytes, bytes], named: str | None
) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(PHOTO).save(path)
    data = path.read_bytes()
    more = b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks.items()
    )
    path.write_bytes(data[:33] + more + data[33:])
    assert edited(path)[0].notes == ((f"{named} left out",) if named else ())


def test_pictures_in_subdirectories_of_a_tiff_are_named(tmp_path: Path) -> None:
    path = tmp_path / "photo.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(PHOTO, photometric="rgb", subifds=1, metadata=None)
        writer.write(PHOTO[::2, ::2], photometric="rgb", metadata=None)
    assert "pictures in SubIFDs left out" in edited(path)[0].notes
