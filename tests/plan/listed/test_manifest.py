"""`photos: {manifest: photos.csv}`: what is read of it, what is refused, and that no photo is opened for its plan."""

from __future__ import annotations

import csv
import json
import os
import shutil
import unicodedata
from pathlib import Path

import pytest
from command import CommandLine
from PIL import Image

from ip2pbatch.plan import photos as reading
from ip2pbatch.plan.edits import Photo
from ip2pbatch.plan.listed.listed_photos import ListedPhotos
from ip2pbatch.plan.listed.manifest import Row, read_manifest, write_manifest
from ip2pbatch.plan.photo_digests import look
from ip2pbatch.plan.photos import Scan, scan
from ip2pbatch.plan.written.recipe import PhotoFolder

RECIPE = "model: tiny\nphotos: {}\nedits: [make it winter]\nsize: 64\noutput: {{folder: out}}\n"
DIGEST = "0123456789abcdef" * 2
FAKE = ("--backend", "fake")


def recipe(folder: Path, photos: str = "{manifest: photos.csv}") -> Path:
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(photos))
    return path


def of_manifest(path: Path, **others: object) -> Scan:
    return scan([PhotoFolder.model_validate({"manifest": path, **others})])


def rows(folder: Path, text: str) -> list[Row]:
    (folder / "photos.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    return [*read_manifest(folder / "photos.csv", folder)]


@pytest.mark.parametrize(
    "text",
    [
        f"name,digest,size\na.jpg,{DIGEST},40x30\n",
        f"\ufeffName;Digest;Size\r\na.jpg;{DIGEST.upper()};40 × 30\r\n",  # Excel's
        f'size\tdigest\tname\r"40X30"\t{DIGEST}\t" a.jpg "\r\r',  # of an old Macintosh
        f"\n\nname , digest , size,,,\n a.jpg , {DIGEST} , 40*30 ,,,\n,,,,,\n   \n",
        f"name,path,digest,size\n./a.jpg,,{DIGEST},40x30",
    ],
)
def test_a_manifest_is_read_as_spreadsheets_write_it(tmp_path: Path, text: str) -> None:
    (row,) = rows(tmp_path, text)
    assert (row.name, row.path, row.digest, row.size) == ("a.jpg", "", DIGEST, (40, 30))


def test_names_are_below_the_folder_however_they_are_written(tmp_path: Path) -> None:
    text = f'name\nday 1\\a.jpg\n{tmp_path}/day 2//./b.jpg\n"c, d.jpg"\n"e ""f"".jpg"\n"g\nh.jpg"\n./i\\j.jpg\n'
    names = ["day 1/a.jpg", "day 2/b.jpg", "c, d.jpg", 'e "f".jpg', "g\nh.jpg", "i\\j.jpg"]
    assert [row.name for row in rows(tmp_path, text)] == names


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "photos.csv:1:0: no column 'name'", "the first line is: name"),
        ("digest,size\n", "photos.csv:1:0: no column 'name'", "the first line is: name"),
        ("a.jpg\nb.jpg\n", "photos.csv:1:1: unknown column 'a.jpg'", "known are: name, path, digest, size"),
        ("name,photo\n", "photos.csv:1:6: unknown column 'photo'", "it is called name here"),
        ("name,size,size\n", "photos.csv:1:11: the column 'size' twice", None),
        ("name,size\na.jpg,40x30\n\n,40x30\n", "photos.csv:4:1: a row without a name", None),
        (
            "name\na.jpg\nb, c.jpg\n",
            "photos.csv:3:0: 2 cells, the header has 1",
            "text with commas in it in quotes",
        ),
        ("name\n../a.jpg\n", "photos.csv:2:1: '../a.jpg' leads out of", "say where the file is in a column path"),
        ("name\n/b/a.jpg\n", "photos.csv:2:1: '/b/a.jpg' leads out of", "`folder:` beside `manifest:`"),
        ("name\nday 1/\n", "photos.csv:2:1: 'day 1/' is no photo's name", None),
        ("name\ns3://b/a.jpg\n", "photos.csv:2:1: 's3://b/a.jpg' is an address", "a column path"),
        ("name,path\na.jpg,http://b/a.jpg\n", "photos.csv:2:1: 'http://b/a.jpg' is an address", None),
        ("name\na\0.jpg\n", "photos.csv:2:1: a name cannot hold a NUL", None),
        ("name,path\na.jpg,a\0\n", "photos.csv:2:1: a path cannot hold a NUL", None),
        ("name,digest\na.jpg,1.23E+31\n", "photos.csv:2:1: '1.23E+31' is no digest of 32", "leave it out"),
        (f"name,digest\na.jpg,{DIGEST * 2}\n", "is no digest of 32 hexadecimal digits", "plan --write-manifest"),
        ("name,size\na.jpg,4000\n", "photos.csv:2:1: '4000' is no size", "such as 4000x3000"),
        ("name,size\na.jpg,0x30\n", "photos.csv:2:1: '0x30' is no size", None),
        ("name,size\na.jpg,٤x٣\n", "is no size", None),
        ("name\na.jpg\nb.jpg\nA.JPG\n", "photos.csv:4:1: 'a.jpg' and 'A.JPG': one name twice, in line 2 before", None),
        ("name\na.jpg\na.jpg\n", "photos.csv:3:1: 'a.jpg': one name twice, in line 2 before", None),
        ("name\na.jpg\nb\udce9.jpg\n", "photos.csv:3:1: not UTF-8 text", "save it as CSV UTF-8"),
        ('name\n"a.jpg\nb.jpg\n', "photos.csv:2:1: unexpected end of data", "close every quote"),
        (
            'name\n"a.jpg\n' + "b.jpg\n" * 30_000,
            "photos.csv:2:1: a cell of more than 131,072 characters",
            "every quote",
        ),
        ("name\n" + "a" * 300_000 + ".jpg\n", "photos.csv:2:1: a line of more than 262,144 characters", None),
        ("name\nout/a.jpg\n", "photos.csv:2:1: out/a.jpg lies in the output folder", "originals are kept"),
        ("name,path\na.jpg,out/../out/a.jpg\n", "photos.csv:2:1: a.jpg lies in the output folder", None),
    ],
)
def test_what_is_wrong_in_a_manifest_ends_with_2_at_its_line(
    tmp_path: Path, command: CommandLine, text: str, message: str, hint: str | None
) -> None:
    (tmp_path / "photos.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    said = command("plan", recipe(tmp_path))
    assert said.code == 2
    assert message in " ".join(said.err.split())
    assert hint is None or hint in " ".join(said.err.split())
    assert command("validate", recipe(tmp_path)).code == 2


def test_a_manifest_that_is_not_there_or_no_file(tmp_path: Path, command: CommandLine) -> None:
    assert (said := command("plan", recipe(tmp_path))).code == 2
    assert "photos.csv: cannot be read: No such file" in said.err
    os.mkfifo(tmp_path / "photos.csv")
    assert (said := command("run", recipe(tmp_path), *FAKE)).code == 2
    assert "it is a folder, a pipe or a device" in said.err


def test_utf_16_is_told_what_to_be_saved_as(tmp_path: Path, command: CommandLine) -> None:
    (tmp_path / "photos.csv").write_text("name\na.jpg\n", encoding="utf-16")
    assert (said := command("validate", recipe(tmp_path))).code == 2
    assert "photos.csv:1:1: not UTF-8 text" in said.err


def test_a_manifest_without_photos_matches_nothing(tmp_path: Path, command: CommandLine) -> None:
    (tmp_path / "photos.csv").write_text("name,digest,size\n")
    assert (said := command("plan", recipe(tmp_path))).code == 5
    assert "no photo in" in said.err
    assert "photos.csv" in said.err


@pytest.mark.parametrize(
    ("photos", "message"),
    [
        ("{manifest: photos.csv, pairs: raw}", "pairs: is for folders"),
        ("{manifest: photos.csv, follow_links: true}", "follow_links: is for folders"),
        ("{manifest: 's3://b/photos.csv'}", "manifest: 's3://b/photos.csv' is an address and no path"),
        ("{manifest: [photos.csv]}", "manifest: should be a path"),
        ("{}", "folder"),
    ],
)
def test_what_a_recipe_cannot_say_of_a_manifest(
    tmp_path: Path, command: CommandLine, photos: str, message: str
) -> None:
    (tmp_path / "photos.csv").write_text("name\na.jpg\n")
    said = command("validate", recipe(tmp_path, photos))
    assert said.code == 2
    assert message in said.err


def test_a_plan_of_a_manifest_opens_no_photo(
    shoot: Path, command: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It need not even be there, and the plan is that of the folder."""
    whole = recipe(shoot, "photos")
    said = command("plan", whole, "--write-manifest", shoot / "photos.csv", "--json")
    assert said.code == 0, said.err
    before = {photo.name: photo for photo in scan([PhotoFolder(folder=shoot / "photos")]).photos}
    shutil.move(shoot / "photos", shoot / "away")
    monkeypatch.setattr(reading, "look", lambda path: pytest.fail(f"{path} was opened"))
    found = of_manifest(shoot / "photos.csv")
    assert {photo.name: photo for photo in found.photos} == before
    now = json.loads(command("plan", recipe(shoot), "--json").out)
    assert now == json.loads(said.out) | {"notes": [], "disk_free": now["disk_free"]}


def test_a_run_goes_on_with_a_manifest_where_it_was_begun_with_a_folder(shoot: Path, command: CommandLine) -> None:
    """Keys and names are the same: nothing is made or delivered again."""
    assert command("run", recipe(shoot, "photos"), *FAKE).code == 0
    assert command("plan", recipe(shoot, "photos"), "--write-manifest", shoot / "photos.csv").code == 0
    said = command("run", recipe(shoot), *FAKE)
    assert said.code == 0, said.err
    assert "done: 0 edits made, 0 files delivered" in said.out
    assert command("run", shoot / "out", *FAKE).code == 0
    (shoot / "photos.csv").unlink()
    said = command("run", shoot / "out", *FAKE)
    assert (said.code, "photos.csv" in said.err) == (2, True)


def test_shards_make_the_photos_of_a_manifest(shoot: Path, command: CommandLine) -> None:
    command("plan", recipe(shoot, "photos"), "--write-manifest", shoot / "photos.csv")
    for part in ("1/2", "2/2"):
        assert command("run", recipe(shoot), *FAKE, "--shard", part).code == 0
    assert sorted(path.name for path in (shoot / "out").rglob("*winter.*")) == [
        "one_make-it-winter.jpg", "three_make-it-winter.png", "two_make-it-winter.jpg",
    ]  # fmt: skip


def listed(shoot: Path, **changes: str) -> None:
    """A manifest of `shoot/photos`, with other cells where `changes` say so by the photo's stem and the column."""
    write_manifest(shoot / "photos.csv", scan([PhotoFolder(folder=shoot / "photos")]).photos)
    with (shoot / "photos.csv").open(newline="") as file:
        table = [*csv.DictReader(file)]
    for row in table:
        row.update({key.split("_")[1]: cell for key, cell in changes.items() if Path(row["name"]).stem in key})
    with (shoot / "photos.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"one_digest": DIGEST},
            "one.jpg has changed since it was planned, or its manifest has another",
        ),
        ({"one_size": "96x128"}, "one.jpg has 128 × 96 pixels as it is shown, and was planned with 96 × 128"),
        ({"one_path": "nowhere.jpg"}, "nowhere.jpg: cannot be opened (No such file or directory)"),
        ({"one_digest": "", "one_size": "96x128"}, "128 × 96 pixels as it is shown, and its manifest says 96 × 128"),
        ({"one_digest": DIGEST, "one_size": ""}, "is another photo than its manifest says: its digest is "),
        ({"one_digest": "", "one_path": "nowhere.jpg"}, "one.jpg: cannot be read: No such file or directory"),
        ({"one_name": "one.mp4"}, "one.mp4: is of a format that is not read here (video)"),
        ({"one_size": "9000x20"}, "one.jpg: has 9000 × 20 pixels; one side more than 32 times the other"),
    ],
)
def test_a_photo_that_is_not_what_its_manifest_says_is_a_failed_row(
    shoot: Path, command: CommandLine, changes: dict[str, str], reason: str
) -> None:
    """Never a wrong picture; the others are made."""
    listed(shoot, **changes)
    said = command("run", recipe(shoot), *FAKE)
    assert said.code == 3
    assert reason in " ".join((said.out + said.err).split()) + " ".join(
        (shoot / "out" / ".ip2pbatch" / "results.jsonl").read_text().split()
    )
    assert sorted(path.name for path in (shoot / "out").rglob("*winter.*")) == [
        "three_make-it-winter.png", "two_make-it-winter.jpg",
    ]  # fmt: skip


def test_a_photo_with_the_digest_of_another_gets_no_file_of_the_others_edit(shoot: Path, command: CommandLine) -> None:
    """Their edit is one, so that the photo itself is held to its digest when the file is made of it."""
    shutil.copy(shoot / "photos" / "one.jpg", shoot / "photos" / "same.jpg")
    Image.new("RGB", (128, 96), "red").save(shoot / "photos" / "other.jpg")
    listed(shoot, other_digest=look(shoot / "photos" / "one.jpg").digest)
    said = command("run", recipe(shoot), *FAKE)
    assert said.code == 3
    assert "other_make-it-winter.jpg: other.jpg has changed since it was planned" in " ".join(said.err.split())
    assert {path.name for path in (shoot / "out").rglob("*winter.jpg")} == {
        "one_make-it-winter.jpg", "same_make-it-winter.jpg", "two_make-it-winter.jpg",
    }  # fmt: skip


def test_the_size_is_that_of_the_photo_as_it_is_shown(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=exif)
    write_manifest(tmp_path / "photos.csv", scan([PhotoFolder(folder=tmp_path)]).photos)
    assert "30x40" in (tmp_path / "photos.csv").read_text()


def test_the_order_is_the_manifests_and_of_several_entries_by_name(shoot: Path) -> None:
    names = ["three.png", "day2/two.jpg", "one.jpg"]
    (shoot / "photos" / "list.csv").write_text("name\n" + "\n".join(names))
    assert [photo.name for photo in of_manifest(shoot / "photos" / "list.csv").photos] == names
    assert [photo.name for photo in of_manifest(shoot / "photos" / "list.csv").limit(2).photos] == names[:2]
    (shoot / "more").mkdir()
    shutil.copy(shoot / "photos" / "one.jpg", shoot / "more" / "one.jpg")
    both = [PhotoFolder.model_validate(one) for one in ({"manifest": shoot / "photos" / "list.csv"}, shoot / "more")]
    assert [photo.name for photo in scan(both).photos] == [
        "more/one.jpg", "photos/day2/two.jpg", "photos/one.jpg", "photos/three.png",
    ]  # fmt: skip


def test_a_folder_elsewhere_filters_and_instructions(shoot: Path, command: CommandLine) -> None:
    (shoot / "lists").mkdir()
    (shoot / "lists" / "list.csv").write_text("name\none.jpg\nday2/two.jpg\nthree.png\n")
    (shoot / "notes.csv").write_text("photo,instruction\none.jpg,make it night\nthree.png,make it day\n")
    found = of_manifest(
        shoot / "lists" / "list.csv", folder=shoot / "photos", include="**/*.jpg", exclude=["day2"],
        instructions=shoot / "notes.csv",
    )  # fmt: skip
    assert [photo.path for photo in found.photos] == [shoot / "photos" / "one.jpg"]
    assert [row.photo for row in found.instructions] == [
        "one.jpg",
        "three.png",
    ]
    assert [str(kind) for kind in found.passed] == [
        "2 photos (day2/two.jpg …): left out by `include` and `exclude`"
    ]  # fmt: skip
    (shoot / "notes.csv").write_text("photo,instruction\nfour.png,make it night\n")
    photos = "{manifest: lists/list.csv, folder: photos, instructions: notes.csv}"
    assert (said := command("plan", recipe(shoot, photos))).code == 2
    assert "no photo 'four.png'" in said.err


def test_any_recipes_photos_come_back_from_the_manifest_of_it(tmp_path: Path) -> None:
    """Several folders, odd names, names that the disk has in another form, links: name, path, digest, size, order."""
    odd = [
        "ü.jpg",
        " a, b.jpg",
        'c"d;.jpg',
        "e\\f.jpg",
        "g\r\nh.jpg",
        "=1+1.jpg",
        unicodedata.normalize("NFD", "é.jpg"),
    ]
    for number, name in enumerate(odd):
        for folder in ("one", "deep/two"):
            (tmp_path / folder / "sub").mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40 + number, 30)).save(tmp_path / folder / "sub" / name)
    Image.new("RGB", (40, 30)).save(tmp_path / " lone.jpg")
    folders = [PhotoFolder(folder=tmp_path / name) for name in ("one", "deep/two", " lone.jpg")]
    before = scan(folders)
    assert len(before.photos) == 15
    for place in (tmp_path, tmp_path / "one"):
        assert write_manifest(place / "photos.csv", before.photos) == 15
        found = of_manifest(place / "photos.csv")
        assert isinstance(found.photos, ListedPhotos)
        assert found.photos == before.photos
        assert [*found.photos] == [*before.photos]


def test_what_is_no_manifest_is_not_written_over(shoot: Path, command: CommandLine) -> None:
    for taken in ("recipe.yaml", "photos/one.jpg"):
        path = recipe(shoot, "photos")
        before = (shoot / taken).read_bytes()
        said = command("plan", path, "--write-manifest", shoot / taken)
        assert (said.code, "is already there and is no manifest" in said.err) == (2, True)
        assert (shoot / taken).read_bytes() == before
    assert command("plan", recipe(shoot, "photos"), "--write-manifest", shoot / "no" / "photos.csv").code == 2
    for _ in range(2):  # one that is, is
        said = command("plan", recipe(shoot, "photos"), "--write-manifest", shoot / "photos.csv", "--limit", "2")
        assert said.code == 0
        assert "photos.csv lists 2 photos" in said.err
    assert len((shoot / "photos.csv").read_text().splitlines()) == 3
    assert not [*shoot.glob(".ip2p-*")]


def test_a_photo_of_a_manifest_takes_some_tens_of_bytes(tmp_path: Path) -> None:
    import tracemalloc

    listed = ListedPhotos(tmp_path)
    tracemalloc.start()
    for number in range(20_000):
        listed.append(Row(f"day-{number % 7}/{number:08d}.jpg", "", DIGEST, (40, 30), number), DIGEST, (40, 30))
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert taken < 80 * 20_000
    assert listed[-1] == Photo("day-0/00019999.jpg", tmp_path / "day-0" / "00019999.jpg", DIGEST, (40, 30))


def test_watch_takes_no_list(shoot: Path, command: CommandLine) -> None:
    (shoot / "photos.csv").write_text("name\none.jpg\n")
    said = command("watch", shoot / "photos", recipe(shoot), *FAKE)
    assert (said.code, "watch edits what arrives, and this recipe lists photos" in said.err) == (2, True)
