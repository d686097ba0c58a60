"""Folders to photos: which files, under which names, with which digest; and nothing a broken file can stop."""

from __future__ import annotations

import contextlib
import io
import os
import random
import struct
import time
import unicodedata
import warnings
import zlib
from pathlib import Path

import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from ip2pbatch.errors import NothingMatchedError, PhotoError, PlanError, RecipeError
from ip2pbatch.plan import photos
from ip2pbatch.plan.globs import matcher
from ip2pbatch.plan.memory import Memory
from ip2pbatch.plan.photo_digests import Look, look
from ip2pbatch.plan.photos import Scan, scan
from ip2pbatch.plan.written.recipe import PhotoFolder

ORIENTATION = 0x0112


def picture(width: int = 48, height: int = 32, seed: int = 0) -> Image.Image:
    return Image.linear_gradient("L").resize((width, height)).point(lambda v: (v + seed * 40) % 256).convert("RGB")


def save(path: Path, seed: int = 0, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed=seed).save(path, **options)  # type: ignore[arg-type]
    return path


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return Memory(tmp_path / "cache" / "photos.sqlite")


@pytest.fixture
def shoot(tmp_path: Path) -> Path:
    """A folder with one of everything."""
    for number, name in enumerate(
        ["b.jpg", "a.png", "c.tiff", "day 1/d.webp", "day 1/e.JPEG", ".hidden.jpg", ".git/x.jpg"]
    ):
        save(tmp_path / "shoot" / name, seed=number)
    (tmp_path / "shoot" / "notes.txt").write_text("no photo")
    (tmp_path / "shoot" / "layers.psd").write_bytes(b"psd")
    return tmp_path / "shoot"


def names(found: Scan) -> list[str]:
    return [photo.name for photo in found.photos]


def look_at(*folders: Path | PhotoFolder, memory: Memory, output: Path | None = None) -> Scan:
    made = [one if isinstance(one, PhotoFolder) else PhotoFolder(folder=one) for one in folders]
    return scan(made, output=output, memory=memory)


def test_a_folder_is_read_recursively_and_sorted(shoot: Path, memory: Memory) -> None:
    found = look_at(shoot, memory=memory)
    assert names(found) == ["a.png", "b.jpg", "c.tiff", "day 1/d.webp", "day 1/e.JPEG"]
    assert {photo.size for photo in found.photos} == {(48, 32)}
    assert len({photo.digest for photo in found.photos}) == 5
    assert found.broken == ()


@pytest.mark.parametrize(
    ("include", "exclude", "wanted"),
    [
        (("*.jpg",), (), ["b.jpg"]),
        (("**/*.JPG", "**/*.jpeg"), (), ["b.jpg", "day 1/e.JPEG"]),
        (("**/*.{jp*g,webp}",), (), ["b.jpg", "day 1/d.webp", "day 1/e.JPEG"]),
        (("**",), ("day 1",), ["a.png", "b.jpg", "c.tiff"]),
        (("**",), ("**/day ?/**",), ["a.png", "b.jpg", "c.tiff"]),
        (("**",), ("[!ab].*", "**/*.webp"), ["a.png", "b.jpg", "day 1/e.JPEG"]),
    ],
)
def test_globs(
    shoot: Path, memory: Memory, include: tuple[str, ...], exclude: tuple[str, ...], wanted: list[str]
) -> None:
    assert names(look_at(PhotoFolder(folder=shoot, include=include, exclude=exclude), memory=memory)) == wanted


def test_globs_do_not_cross_folders_unless_told() -> None:
    assert matcher(["a/*.jpg"])("a/b.jpg")
    assert not matcher(["a/*.jpg"])("a/b/c.jpg")
    assert matcher(["a/**/*.jpg"])("a/b.jpg")
    assert matcher(["a/**/*.jpg"])("a/b/c/d.jpg")
    assert not matcher(["a+.jpg"])("aa.jpg")
    with pytest.raises(PlanError, match="does not close"):
        matcher(["{a,b"])


def test_files_and_several_folders(shoot: Path, tmp_path: Path, memory: Memory) -> None:
    other = save(tmp_path / "other" / "b.jpg", seed=9).parent
    single = save(tmp_path / "single.jpg", seed=10)
    found = look_at(shoot, other, single, memory=memory)
    assert names(found)[0] == "other/b.jpg"
    assert {"shoot/b.jpg", "shoot/day 1/e.JPEG", "single.jpg"} <= set(names(found))
    assert names(look_at(shoot / "b.jpg", shoot / "b.jpg", memory=memory)) == ["b.jpg"]


def test_a_missing_folder_and_an_empty_one(tmp_path: Path, memory: Memory) -> None:
    with pytest.raises(PlanError, match="No such file"):
        look_at(tmp_path / "nowhere", memory=memory)
    (tmp_path / "raws").mkdir()
    (tmp_path / "raws" / "a.psd").write_bytes(b"psd")
    with pytest.raises(NothingMatchedError) as caught:
        look_at(tmp_path / "raws", memory=memory)
    assert caught.value.hint == "passed over: 1 Photoshop file (a.psd): not read here; export as JPEG, PNG or TIFF"


def test_broken_photos_stop_nothing(shoot: Path, memory: Memory) -> None:
    (shoot / "empty.jpg").write_bytes(b"")
    (shoot / "text.png").write_text("hello")
    (shoot / "cut.tif").write_bytes(b"II*\0\xff\xff\xff\xff")
    (shoot / "noise.webp").write_bytes(b"RIFF\x10\0\0\0WEBPVP8 " + bytes(8))
    found = look_at(shoot, memory=memory)
    assert len(found.photos) == 5
    reasons = {one.name: one.reason for one in found.broken}
    assert reasons["empty.jpg"] == "is empty"
    assert reasons["text.png"].startswith("is not a JPEG or another picture")
    assert reasons["cut.tif"].startswith("is not a readable TIFF")
    assert reasons["noise.webp"].startswith("is not a readable WEBP")


def test_a_folder_of_nothing_but_broken_photos_is_no_error(tmp_path: Path, memory: Memory) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff")
    assert [one.name for one in look_at(tmp_path, memory=memory).broken] == ["a.jpg"]


def test_what_is_not_readable_is_a_reason(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match="cannot be read: No such file"):
        look(tmp_path / "gone.jpg")


def png(width: int, height: int) -> bytes:
    """A PNG's header with these sizes and no pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((20_000, 20_000), "megapixels at most"),
        ((4_000_000_000, 1), "megapixels at most"),
        ((5000, 20), "one side more than 32 times the other"),
        ((19_000, 10_000), None),  # more than Pillow itself would open
    ],
)
def test_the_size_is_limited_before_anything_is_decoded(
    tmp_path: Path, size: tuple[int, int], reason: str | None
) -> None:
    (tmp_path / "a.png").write_bytes(png(*size))
    if reason is None:
        assert look(tmp_path / "a.png").size == size
    else:
        with pytest.raises(PhotoError, match=reason):
            look(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_that_of_the_upright_photo(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = save(tmp_path / f"a.{suffix}", exif=exif)
    with Image.open(path) as image:
        assert look(path).size == ImageOps.exif_transpose(image).size


def test_a_png_may_say_its_orientation_after_its_pixels(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    data = save(tmp_path / "a.png", exif=exif).read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + struct.unpack(">I", data[start : start + 4])[0]
    (tmp_path / "b.png").write_bytes(data[:start] + data[end:-12] + data[start:end] + data[-12:])
    assert look(tmp_path / "b.png").size == look(tmp_path / "a.png").size == (32, 48)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp"])
def test_damage_is_a_reason_and_never_a_crash(tmp_path: Path, suffix: str) -> None:
    choose = random.Random(7)
    whole = save(tmp_path / f"a.{suffix}", exif=Image.Exif(), icc_profile=b"x" * 100).read_bytes()
    for _ in range(150):
        data = bytearray(whole[: choose.randrange(len(whole))] if choose.random() < 0.3 else whole)
        for _ in range(choose.randrange(1, 20) if data else 0):
            data[choose.randrange(len(data))] = choose.randrange(256)
        (tmp_path / f"b.{suffix}").write_bytes(data)
        with warnings.catch_warnings(), contextlib.suppress(PhotoError):
            warnings.simplefilter("ignore")
            assert min(look(tmp_path / f"b.{suffix}").size) > 0


def test_a_new_rating_is_the_same_photo(tmp_path: Path) -> None:
    """Metadata that no pixel depends on leaves the digest; orientation and profile do not."""
    plain = save(tmp_path / "plain.jpg", quality=90)
    rated, turned = Image.Exif(), Image.Exif()
    rated[0x4746] = 5
    turned[ORIENTATION] = 6
    assert look(save(tmp_path / "rated.jpg", quality=90, exif=rated, comment=b"fine")).digest == look(plain).digest
    assert look(save(tmp_path / "turned.jpg", quality=90, exif=turned)).digest != look(plain).digest
    assert look(save(tmp_path / "profile.jpg", quality=90, icc_profile=b"x" * 200)).digest != look(plain).digest
    assert look(save(tmp_path / "pixels.jpg", quality=90, seed=1)).digest != look(plain).digest
    assert look(save(tmp_path / "coded.jpg", quality=80)).digest != look(plain).digest


def test_a_png_is_its_pixels(tmp_path: Path) -> None:
    text = PngInfo()
    text.add_text("Comment", "kept out")
    plain = look(save(tmp_path / "plain.png"))
    assert look(save(tmp_path / "text.png", pnginfo=text, dpi=(300, 300))).digest == plain.digest
    assert look(save(tmp_path / "pixels.png", seed=1)).digest != plain.digest
    gamma = PngInfo()
    gamma.add(b"gAMA", struct.pack(">I", 100_000))
    assert look(save(tmp_path / "gamma.png", pnginfo=gamma)).digest != plain.digest


def test_the_digest_hangs_on_neither_name_nor_place(shoot: Path, tmp_path: Path, memory: Memory) -> None:
    before = {photo.name: photo.digest for photo in look_at(shoot, memory=memory).photos}
    (shoot / "b.jpg").rename(tmp_path / "renamed.jpg")
    assert look(tmp_path / "renamed.jpg").digest == before["b.jpg"]


def test_adobe_colour_coding_is_part_of_a_jpeg(tmp_path: Path) -> None:
    """APP14 says whether three components are RGB or YCbCr: the same scan is another picture."""
    raw = io.BytesIO()
    picture().save(raw, "JPEG")
    data = raw.getvalue()
    marker = b"\xff\xee" + struct.pack(">H", 14) + b"Adobe" + struct.pack(">HHHB", 100, 0, 0, 0)
    (tmp_path / "a.jpg").write_bytes(data)
    (tmp_path / "b.jpg").write_bytes(data[:2] + marker + data[2:])
    assert look(tmp_path / "a.jpg").digest != look(tmp_path / "b.jpg").digest


def test_a_changed_file_is_looked_at_again(shoot: Path, memory: Memory) -> None:
    before = {photo.name: photo.digest for photo in look_at(shoot, memory=memory).photos}
    save(shoot / "b.jpg", seed=50)
    os.utime(shoot / "b.jpg", ns=(1, 1))
    after = {photo.name: photo.digest for photo in look_at(shoot, memory=memory).photos}
    assert [name for name in before if before[name] != after[name]] == ["b.jpg"]


def test_an_unchanged_file_is_remembered(shoot: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    before = look_at(shoot, memory=memory)
    monkeypatch.setattr(photos, "look", lambda path: pytest.fail(f"{path} was read again"))
    assert look_at(shoot, memory=memory) == before


def test_a_photo_changed_under_its_size_and_time_is_read_again(shoot: Path, memory: Memory) -> None:
    path = save(shoot / "x.png", compress_level=0)
    before = {photo.name: photo.digest for photo in look_at(shoot, memory=memory).photos}
    status = path.stat()
    save(path, seed=3, compress_level=0)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    after = {photo.name: photo.digest for photo in look_at(shoot, memory=memory).photos}
    assert [name for name in after if after[name] != before[name]] == ["x.png"]


def test_what_is_forgotten_is_looked_at_again(shoot: Path, memory: Memory) -> None:
    (photo, *others) = look_at(shoot, memory=memory).photos
    memory.keep({(str(one.path), one.path.stat()): Look("0" * 32, one.size) for one in (photo, *others)})
    # wrong, as after a change that left no trace
    memory.forget(str(photo.path))
    (again, *wrong) = look_at(shoot, memory=memory).photos
    assert again == photo
    assert {one.digest for one in wrong} == {"0" * 32}


def test_a_useless_memory_costs_time_and_nothing_else(shoot: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.sqlite").write_bytes(b"not a database at all" * 100)
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "bad.sqlite", tmp_path / "file" / "below.sqlite"):
        assert len(look_at(shoot, memory=Memory(place)).photos) == 5
    assert len(look_at(shoot, memory=Memory(tmp_path / "bad.sqlite")).photos) == 5


def test_an_output_folder_among_the_photos_is_refused(shoot: Path, memory: Memory) -> None:
    for output in (shoot / "out", shoot, shoot / "day 1"):
        with pytest.raises(PlanError, match="is inside the photos' folder"):
            look_at(shoot, memory=memory, output=output)
    assert look_at(shoot, memory=memory, output=shoot.parent / "shoot-out").photos
    assert look_at(shoot / "b.jpg", memory=memory, output=shoot).photos


def test_the_output_of_another_run_is_passed_over(shoot: Path, memory: Memory) -> None:
    save(shoot / "edited" / "b_winter.jpg", seed=70)
    (shoot / "edited" / ".ip2pbatch").mkdir()
    assert "edited/b_winter.jpg" not in names(look_at(shoot, memory=memory))
    save(shoot / "edited" / "sheets" / "sheet.png", seed=71)
    assert names(look_at(shoot / "edited", memory=memory)) == ["b_winter.jpg"]


def test_loops_end_and_links_that_lead_out_are_passed_over(shoot: Path, tmp_path: Path, memory: Memory) -> None:
    save(tmp_path / "outside" / "o.jpg", seed=80)
    (shoot / "loop").symlink_to(shoot)
    (shoot / "day 1" / "up").symlink_to(shoot / "day 1")
    (shoot / "away").symlink_to(tmp_path / "outside")
    (shoot / "photo.jpg").symlink_to(tmp_path / "outside" / "o.jpg")
    (shoot / "dangling.jpg").symlink_to(tmp_path / "nothing.jpg")
    found = look_at(shoot, memory=memory)
    assert names(found) == ["a.png", "b.jpg", "c.tiff", "day 1/d.webp", "day 1/e.JPEG"]
    assert "3 links lead out of the photos' folder and were passed over" in found.notes[0]
    followed = look_at(PhotoFolder(folder=shoot, follow_links=True), memory=memory)
    assert {"away/o.jpg", "photo.jpg"} <= set(names(followed))


@pytest.mark.parametrize("twins", [("Ä.jpg", unicodedata.normalize("NFD", "Ä.jpg")), ("x.jpg", "X.JPG")])
def test_twins_are_refused_by_name(tmp_path: Path, memory: Memory, twins: tuple[str, str]) -> None:
    for name in twins:
        save(tmp_path / "p" / name)
    if len(list((tmp_path / "p").iterdir())) < 2:
        pytest.skip("this file system takes them for one file")
    with pytest.raises(PlanError) as caught:
        look_at(tmp_path / "p", memory=memory)
    assert all(repr(str(tmp_path / "p" / name)) in str(caught.value) for name in twins)


def test_a_name_that_is_no_text_is_a_broken_photo(tmp_path: Path, memory: Memory) -> None:
    save(tmp_path / "p" / "a.jpg")
    try:
        os.link(os.fsencode(tmp_path / "p" / "a.jpg"), os.fsencode(tmp_path / "p") + b"/\xff.jpg")
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    found = look_at(tmp_path / "p", memory=memory)
    assert names(found) == ["a.jpg"]
    assert found.broken[0].reason.startswith("its name is not UTF-8")


def test_pipes_are_not_photos(shoot: Path, memory: Memory) -> None:
    os.mkfifo(shoot / "pipe.jpg")
    assert len(look_at(shoot, memory=memory).photos) == 5


def test_instructions_for_single_photos(shoot: Path, tmp_path: Path, memory: Memory) -> None:
    notes = tmp_path / "notes.csv"
    notes.write_text(
        "photo;instruction;text\nb.jpg;make it night, please;5..7 by 1\nday 1/e.JPEG;make it day;\na.png;;\n"
    )
    folder = PhotoFolder(folder=shoot, instructions=notes)
    rows = look_at(folder, memory=memory).instructions
    assert [(row.photo, row.edit.chain[0].instruction, row.edit.text) for row in rows] == [
        ("b.jpg", "make it night, please", (5, 6, 7)),
        ("day 1/e.JPEG", "make it day", None),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("photo,instruction\nz.jpg,x", r"n\.csv:2:1: no photo 'z\.jpg'"),
        ("foto,instruction\nb.jpg,x", r"n\.csv:1:1: unknown column 'foto'"),
        ("photo\nb.jpg", r"n\.csv:1:0|n\.csv: no column 'instruction'|no column"),
        ("photo,instruction\nb.jpg,make it night, please", r"n\.csv:2:0|3 cells, the header has 2"),
        ("photo,instruction,text\nb.jpg,x,high", r"n\.csv:2:1: text: 'high' is not a number"),
        ("photo,instruction\n,x", "an instruction without a photo"),
    ],
)
def test_a_mistake_in_a_csv_has_its_line(shoot: Path, tmp_path: Path, memory: Memory, text: str, message: str) -> None:
    (tmp_path / "n.csv").write_text(text)
    with pytest.raises(RecipeError, match=message):
        look_at(PhotoFolder(folder=shoot, instructions=tmp_path / "n.csv"), memory=memory)


def test_a_row_for_an_excluded_photo_is_passed_over(shoot: Path, tmp_path: Path, memory: Memory) -> None:
    (tmp_path / "n.csv").write_text("photo,instruction\nb.jpg,x")
    folder = PhotoFolder(folder=shoot, exclude=("b.jpg",), instructions=tmp_path / "n.csv")
    assert "b.jpg" not in names(look_at(folder, memory=memory))


def test_part_of_a_scan(shoot: Path, memory: Memory) -> None:
    found = look_at(shoot, memory=memory)
    assert names(found.only(["day*/**"])) == ["day 1/d.webp", "day 1/e.JPEG"]
    assert names(found.limit(2)) == ["a.png", "b.jpg"]
    with pytest.raises(NothingMatchedError, match=r"no photo matches \*\.gif"):
        found.only(["*.gif"])


def test_a_remembered_folder_is_read_at_once(tmp_path: Path, memory: Memory) -> None:
    """2,000 photos in well under a second: the headers are not opened again."""
    first = save(tmp_path / "p" / "0000.jpg")
    for number in range(1, 2000):
        os.link(first, tmp_path / "p" / f"{number:04d}.jpg")
    look_at(tmp_path / "p", memory=memory)
    started = time.process_time()
    assert len(look_at(tmp_path / "p", memory=memory).photos) == 2000
    assert time.process_time() - started < 0.6


def test_a_folder_of_nothing_but_links_says_so(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.jpg").write_bytes(b"a photo")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").symlink_to(tmp_path / "elsewhere" / "a.jpg")
    with pytest.raises(NothingMatchedError, match="no photo in") as stop:
        scan([PhotoFolder(folder=tmp_path / "photos")])
    assert "1 link leads out of the photos' folder" in (stop.value.hint or "")
