"""`check`: every byte of a run is read, what is wrong is told, and what needs no model is put right."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from command import CommandLine
from runs import unsealed

from ip2pbatch import jobs
from ip2pbatch.disk.digests import file_digest
from ip2pbatch.errors import DamagedError
from ip2pbatch.run.directory.kept import Kept
from ip2pbatch.run.directory.view import read_run
from ip2pbatch.show.cells import gallery, totals

RECIPE = """
name: shoot
model: tiny
photos: photos
edits: [make it winter, {id: trip, chain: [make it rain, make it dark], keep: [1, 2]}]
output: {folder: out}
size: {long_side: 96}
"""


@pytest.fixture
def recipe(command: CommandLine, shoot: Path) -> Path:
    path = shoot / "recipe.yaml"
    path.write_text(RECIPE)
    assert command("run", path, "--backend", "fake").code == 0
    return path


def rot(path: Path) -> None:
    """One bit in the middle of a file the other way; its size and time stay."""
    data, before = bytearray(path.read_bytes()), path.stat()
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def everything(out: Path) -> dict[str, bytes]:
    """Delivered files and what is kept, but for what was set aside, sheets and report."""
    run = out / ".ip2pbatch"
    files = [*out.glob("*.*"), *out.glob("day2/*"), *run.glob("edits/*/*"), *run.glob("sources/*/*")]
    return {str(p): p.read_bytes() for p in files if p.is_file() and p.suffix not in (".damaged", ".html")}


def test_what_is_as_written_is_said_to_be_so(command: CommandLine, recipe: Path) -> None:
    said = command("check", recipe)
    assert said.code == 0
    assert said.out.startswith("as written: 27 files, ")
    assert json.loads(command("check", recipe.parent / "out", "--json").out)["files"] == {
        "picture": 9, "latent": 6, "source": 3, "file": 9,
    }  # fmt: skip


def test_one_of_each_kind_is_told_put_right_and_the_rest_is_made_by_the_next_run(
    command: CommandLine, recipe: Path
) -> None:
    out = recipe.parent / "out"
    before, view = everything(out), read_run(out)
    chains = [strip for strip in view.strips if len(strip.edits) > 1]
    edits, photos = [strip.edits for strip in chains], [strip.photo.name for strip in chains]
    source = view.source_path(view.strips[0])
    assert source is not None
    for path in (view.layout.picture(edits[0][0].key), view.layout.latent(edits[1][0].key), source):
        rot(path)
    view.layout.picture(edits[2][1].key).unlink()
    rot(out / "one_trip_1.jpg")
    (out / "one_trip_2.jpg").unlink()
    (out / "day2/two_make-it-winter.jpg").write_bytes(b"retouched by hand")
    rotten = everything(out)

    said = command("check", recipe)
    assert said.code == 4
    assert "wrong: 2 pictures, 1 latent, 1 source, 2 delivered files; " in said.out
    assert "changed since, and left as they are: 1 delivered file, such as day2/two_make-it-winter.jpg" in said.out
    assert everything(out) == rotten
    found = json.loads(command("check", out, "--json").out)
    assert found["exit_code"] == 4
    assert sorted((one["kind"], one["photo"]) for one in found["troubles"]) == sorted([
        ("file", "one.jpg"), ("file", "one.jpg"), ("latent", photos[1]), ("picture", photos[0]),
        ("picture", photos[2]), ("source", ""),
    ])  # fmt: skip

    said = command("check", out, "--repair")
    assert said.code == 4
    assert said.out.count(": made again") == 3
    assert said.out.count(": for the next run") == 2
    assert said.out.count(": set aside") == 1
    assert command("check", out).code == 0
    assert json.loads(command("status", out, "--json").out)["edits"]["failed"] == 2
    said = command("run", recipe, "--backend", "fake")
    assert said.code == 0
    assert said.out.splitlines()[-1].startswith("done: 2 edits made, 2 files delivered")
    after = everything(out)
    latent, theirs = str(view.layout.latent(edits[1][0].key)), str(out / "day2/two_make-it-winter.jpg")
    assert latent not in after  # it is made where a link starts from it
    assert after.pop(theirs) == b"retouched by hand"
    assert after == {path: data for path, data in before.items() if path not in (latent, theirs)}


def test_a_file_that_is_taken_while_it_is_looked_at_is_no_bug(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(path: Path) -> str | None:
        digest = file_digest(path)
        path.unlink(missing_ok=True)
        return digest

    monkeypatch.setattr("ip2pbatch.disk.files_at.file_digest", taken)
    found = jobs.check(recipe)
    assert (found.exit_code, found.files["file"]) == (0, 9)
    assert {trouble.fault.why for trouble in jobs.check(recipe).troubles} == {"it is gone"}


def test_from_python_it_counts_what_has_no_digest_yet_and_writes_it_down_when_asked(recipe: Path) -> None:
    out = recipe.parent / "out"
    journal = out / ".ip2pbatch/results.jsonl"
    rows = [json.loads(line) for line in unsealed(journal).splitlines()]
    journal.write_text("".join(json.dumps({**row, "digest": "", "latent": ""}) + "\n" for row in rows))
    found = jobs.check(out)
    assert (found.exit_code, found.undigested) == (0, 15)
    assert jobs.check(out, repair=True).undigested == 0
    again = jobs.check(recipe)
    assert (again.undigested, again.troubles, again.files["picture"]) == (0, (), 9)


def test_a_run_reads_what_it_says_is_there(command: CommandLine, recipe: Path) -> None:
    out = recipe.parent / "out"
    before, view = everything(out), read_run(out)
    rot(view.layout.picture(view.strips[0].edits[0].key))
    said = command("run", recipe, "--backend", "fake")
    assert said.code == 0
    assert "1 picture was damaged on the disk" in said.err
    assert said.out.splitlines()[-1].startswith("done: 1 edit made")
    assert everything(out) == before


def test_a_damaged_picture_is_told_by_deliver_and_lock_and_verify(command: CommandLine, recipe: Path) -> None:
    out = recipe.parent / "out"
    view = read_run(out)
    picture = view.layout.picture(view.strips[0].edits[0].key)
    whole = picture.read_bytes()
    rot(picture)
    said = command("lock", recipe)
    assert (said.code, "is damaged" in said.err) == (4, True)
    said = command("verify", out, "--level", "pixels")
    assert (said.code, "is damaged" in said.out) == (4, True)
    picture.write_bytes(whole)
    for strip, files in zip(view.strips, (8, 0), strict=False):
        rot(view.layout.picture(strip.edits[0].key))
        said = command("deliver", recipe, "--quality", "60")
        assert said.code == 3, "also where no file is due"
        assert "is damaged" in said.err
        last = said.out.splitlines()[-1]
        assert last.startswith(f"not complete: 0 edits made, {files} files delivered"), last
        assert last.endswith("1 file not delivered")
    assert command("retry", recipe, "--backend", "fake").out.splitlines()[-1].startswith("done: 2 edits made")
    assert command("verify", out, "--level", "pixels").code == 0


def test_status_counts_what_became_of_delivered_files_by_size_and_time(command: CommandLine, recipe: Path) -> None:
    out = recipe.parent / "out"
    (out / "one_trip_1.jpg").unlink()
    (out / "one_trip_2.jpg").write_bytes(b"retouched by hand")
    os.utime(out / "three_trip_1.png", (1, 1))
    recipe.write_text(RECIPE.replace("[make it winter, ", "["))
    assert command("run", recipe, "--backend", "fake", "--limit", "3").code == 0  # delivers one_trip_1 again
    (out / "one_trip_1.jpg").unlink()
    said = command("status", out)
    assert said.code == 0
    assert "1 file deleted since they were delivered" in said.out
    assert "1 file changed since they were delivered, and left as they are, such as one_trip_2.jpg" in said.out
    assert "1 file with another time than they were delivered with" in said.out
    assert "3 files still there of pictures that are no longer asked for" in said.out
    found = json.loads(command("status", out, "--json").out)
    assert found["delivered"] == 6
    assert found["superseded"] == ["day2/two_make-it-winter.jpg", "one_make-it-winter.jpg", "three_make-it-winter.png"]


def test_a_line_that_cannot_be_read_is_told(command: CommandLine, recipe: Path) -> None:
    journal = recipe.parent / "out/.ip2pbatch/results.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:3], b"\0" * 40 + b"\n", *lines[3:]]))
    said = command("check", recipe)
    assert said.code == 4
    assert "wrong: 1 line; 27 files, " in said.out
    assert "results.jsonl" in said.out


@pytest.mark.parametrize("name", ["results.jsonl", "deliveries.jsonl", "run.json"])
def test_a_folder_in_the_place_of_a_run_s_file_is_named_with_what_to_do(
    command: CommandLine, recipe: Path, name: str
) -> None:
    file = recipe.parent / "out/.ip2pbatch" / name
    file.unlink()
    file.mkdir()
    for line in (["check", recipe], ["status", recipe.parent / "out"], ["run", recipe, "--backend", "fake"]):
        said = command(*line)
        assert said.code == 7
        assert f"{name} cannot be read: a folder is where a file should be" in said.err
        assert "move it away and run again" in said.err
    file.rmdir()
    assert command("run", recipe, "--backend", "fake").code == 0
    assert command("check", recipe).code == 0


def test_a_file_in_the_place_of_a_run_s_folder_is_named_with_what_to_do(command: CommandLine, recipe: Path) -> None:
    plans = recipe.parent / "out/.ip2pbatch/plans"
    shutil.rmtree(plans)
    plans.write_bytes(b"")
    said = command("run", recipe, "--backend", "fake")
    assert (said.code, "is where a folder should be" in said.err, "hint: remove it" in said.err) == (7, True, True)
    plans.unlink()
    assert command("run", recipe, "--backend", "fake").code == 0


def test_no_file_is_called_unasked_for_where_what_was_asked_is_lost(command: CommandLine, recipe: Path) -> None:
    sessions = recipe.parent / "out/.ip2pbatch/sessions.jsonl"
    for damage in (b"\0\xff\n" * 3, b""):
        sessions.write_bytes(damage)
        said = command("status", recipe.parent / "out")
        assert said.code == 0
        assert said.out.startswith("a run in ")
        assert "no longer asked for" not in said.out


def test_deliver_never_says_that_all_is_there_where_pictures_were_not_made(command: CommandLine, recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("make it winter", "make it summer"))
    said = command("deliver", recipe)
    assert said.out.splitlines()[-1].endswith("6 of 9 edits are there")
    shutil.rmtree(recipe.parent / "out/.ip2pbatch/edits")
    assert command("deliver", recipe).out.splitlines()[-1].endswith("0 of 9 edits are there")


def test_a_damaged_source_is_told_with_what_mends_it_and_a_damaged_picture_by_its_file(
    command: CommandLine, recipe: Path
) -> None:
    out = recipe.parent / "out"
    view = read_run(out)
    rot(view.layout.picture(view.strips[0].edits[0].key))
    assert view.strips[0].edits[0].key in command("lock", recipe).err.replace("\n", "")
    source = next(view.layout.folder.glob("sources/*/*.png"))
    rot(source)
    with pytest.raises(DamagedError) as error:
        Kept(source, noun="source").pixels()
    assert error.value.hint == "run `ip2pbatch check --repair`"
    assert command("check", recipe, "--repair").code == 4
    assert Kept(source, noun="source").pixels().size


def test_a_run_makes_a_damaged_source_again(command: CommandLine, recipe: Path) -> None:
    source = next(read_run(recipe.parent / "out").layout.folder.glob("sources/*/*.png"))
    before = source.read_bytes()
    rot(source)
    said = command("run", recipe, "--backend", "fake")
    assert (said.code, source.read_bytes()) == (0, before), said.err
    assert f"1 photo at model size was damaged on the disk, such as {source.name}: made again" in said.err
    assert command("check", recipe).code == 0


def test_a_file_that_rotted_with_its_picture_is_delivered_again_under_its_own_name(
    command: CommandLine, recipe: Path
) -> None:
    view = read_run(recipe.parent / "out")
    file = next(iter(view.deliveries.values()))
    path, before = view.root / file.path, (view.root / file.path).read_bytes()
    for rotten in (path, view.layout.picture(file.edit)):
        rot(rotten)
    names = sorted(view.root.rglob("*.*"))
    for again in (["run", recipe, "--backend", "fake"], ["deliver", recipe]):
        said = command(*again)
        assert said.code == 0, said.err
    assert path.read_bytes() == before
    assert sorted(one for one in view.root.rglob("*.*") if not one.name.endswith(".damaged")) == names


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("lose", [Path.unlink, emptied])
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("results.jsonl", "it has lost the results of 9 edits"),
        ("deliveries.jsonl", "it has lost what it said of 9 delivered files"),
        ("sessions.jsonl", "it has lost its sessions"),
        ("numbers.jsonl", "it has lost the numbers of 3 photos"),
    ],
)
def test_a_journal_that_is_wholly_lost_is_told_by_the_others_and_made_good_by_the_next_run(
    command: CommandLine, recipe: Path, name: str, why: str, lose: Callable[[Path], None]
) -> None:
    out = recipe.parent / "out"
    before = everything(out)
    lose(out / ".ip2pbatch" / name)
    said = command("check", out)
    assert said.code == 4
    assert f"journal: .ip2pbatch/{name}: {why}" in said.out.replace("\n", " ")
    assert "wrong: 1 journal; " in said.out
    said = command("check", out, "--repair")
    assert said.code == 4
    assert ": for the next run" in said.out
    assert command("run", recipe, "--backend", "fake").code == 0
    assert command("check", out).code == 0
    assert everything(out) == before


@pytest.mark.parametrize("name", ["results", "deliveries", "sessions"])
def test_a_lost_journal_of_a_shard_is_told_and_made_good_by_the_shard(
    command: CommandLine, shoot: Path, name: str
) -> None:
    recipe, out = shoot / "recipe.yaml", shoot / "out"
    recipe.write_text(RECIPE)
    for shard in ("1/2", "2/2"):
        assert command("run", recipe, "--backend", "fake", "--shard", shard).code == 0
    assert command("check", out).code == 0
    for of in ("1of2", "2of2"):
        (out / f".ip2pbatch/{name}-{of}.jsonl").unlink()
        said = command("check", out)
        assert (said.code, "wrong: 1 journal; " in said.out) == (4, True), said.out
        assert f"journal: .ip2pbatch/{name}-{of}.jsonl: it has lost " in said.out
        assert command("run", recipe, "--backend", "fake", "--shard", of.replace("of", "/")).code == 0
        assert command("check", out).code == 0


def test_pictures_that_no_journal_knows_of_are_told_where_they_are_more_than_kills_leave(
    command: CommandLine, shoot: Path
) -> None:
    recipe, out = shoot / "recipe.yaml", shoot / "out"
    recipe.write_text(RECIPE.replace("edits: [", "seeds: [1, 2, 3, 4, 5]\nedits: ["))
    assert command("run", recipe, "--backend", "fake").code == 0
    run = out / ".ip2pbatch"
    rows = [line for line in (run / "sessions.jsonl").read_bytes().splitlines(keepends=True) if b'"end"' not in line]
    (run / "sessions.jsonl").write_bytes(b"".join(rows))
    (run / "results.jsonl").unlink()
    emptied(run / "deliveries.jsonl")
    assert "results.jsonl: 45 pictures are kept of which it has no result" in command("check", out).out.replace(
        "\n", " "
    )
    for picture in [*run.glob("edits/*/*.png")][20:]:
        picture.unlink()
    assert command("check", out).code == 0, "a kill may leave a picture without its record"


def test_sheet_and_report_tell_of_a_damaged_picture_and_count_it_as_that(command: CommandLine, recipe: Path) -> None:
    out = recipe.parent / "out"
    view = read_run(out)
    rot(view.layout.picture(view.strips[0].edits[0].key))
    for words in (["sheet", out], ["report", out]):
        said = command(*words)
        assert said.code == 3
        told = said.err.replace("\n", " ")
        assert "1 kept picture is damaged, such as " in told
        assert "`ip2pbatch check --repair` names what is damaged, and what it does not make again" in told
        assert said.out.strip().endswith((".png", ".html")), "and what is whole is drawn"
    page = (out / "report.html").read_text("utf-8")
    assert ('<span class="chip is-done"><b>8</b> done</span>' in page, "is-damaged" in page) == (True, True)
    shown = read_run(out)
    cells = gallery(replace(shown, damaged=jobs.report(out).damaged)).cells
    assert totals(cells) == "8 done, 1 damaged"
    assert command("run", recipe, "--backend", "fake").code == 0
    assert command("sheet", out).code == 0


def test_a_run_beside_a_damaged_picture_does_not_call_its_sheets_whole(
    command: CommandLine, shoot: Path, tmp_path: Path
) -> None:
    out, photo = shoot / "out", shoot / "photos/one.jpg"
    edit = ("edit", photo, "-o", out, "--backend", "fake")
    assert command(*edit, "-i", "make it winter").code == 0
    rot(next((out / ".ip2pbatch").glob("edits/*/*.png")))
    said = command(*edit, "-i", "make it night", "--json", "--junit", tmp_path / "junit.xml")
    assert said.code == 3
    last = json.loads(said.out.splitlines()[-1])
    assert (last["states"], last["exit_code"]) == ({"done": 1}, 3)
    assert "the kept picture is damaged" in last["damaged"][0]["reason"]
    assert "1 kept picture damaged" in said.err.splitlines()[-1]
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert [error.get("type") for error in suite.iter("error")] == ["damaged"]


@pytest.mark.parametrize("line", ["status", "check", "sheet", "deliver", "run"])
def test_a_folder_that_is_closed_to_us_is_named_and_no_bug(
    command: CommandLine, recipe: Path, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def closed(path: str | Path) -> object:
        if Path(path).name == "edits":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    what = recipe if line in ("deliver", "run") else recipe.parent / "out"
    said = command(line, what, *(("--backend", "fake") if line == "run" else ()))
    assert said.code == 7
    assert "no permission for " in said.err
    assert "hint: check whose it is" in said.err
