"""Lines that rot: each is known by its checksum or its shape, set aside once, and what it said is made again."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from command import CommandLine
from runs import digests, make_photos, unsealed

from ip2pbatch.disk.journal import Journal, read_journal, seal, unseal
from ip2pbatch.pictures.deliver import DeliverySettings
from ip2pbatch.plan.formats import written
from ip2pbatch.run.directory.layout import Layout
from ip2pbatch.run.directory.lines import DELIVERY, NUMBERED, RECORD, SESSION

DONE = b'{"edit":"ab","status":"done","seconds":1.5,"bytes":3}'


@pytest.fixture
def recipe(command: CommandLine, tmp_path: Path) -> Path:
    """The recipe of a finished run of two photos."""
    make_photos(tmp_path / "photos", 2)
    path = tmp_path / "recipe.yaml"
    name = '"{n}_{stem}_{edit}"'
    path.write_text(f"photos: photos\nedits: [make it rain]\nsize: 64\noutput: {{folder: out, name: {name}}}\n")
    assert command("run", path, "--backend", "fake").code == 0
    return path


def inside(recipe: Path) -> Path:
    return recipe.parent / "out/.ip2pbatch"


def test_a_sealed_line_is_known_to_be_whole() -> None:
    line = seal(DONE)
    assert json.loads(line) == json.loads(DONE) | {"crc": f"{zlib.crc32(DONE[:-1]):08x}"}
    assert unseal(line + b"\n") == (DONE, True)
    assert unseal(DONE + b"\n") == (DONE, False)
    for place in range(len(line)):
        for bit in range(8):
            damaged = bytearray(line)
            damaged[place] ^= 1 << bit
            assert RECORD(bytes(damaged)) is None


@pytest.mark.parametrize(
    "line",
    [
        DONE.replace(b'"bytes"', b'"bites"'), DONE.replace(b"1.5", b"NaN"), DONE.replace(b"1.5", b"1e400"),
        DONE.replace(b"1.5", b"true"), DONE.replace(b"done", b"dome"), DONE.replace(b"3}", b"-3}"),
        DONE.replace(b"3}", b"9" * 5000 + b"}"), DONE.replace(b"ab", b"..\\u0000"), b"[" * 100_000, b'{"a":' * 100_000,
        DONE.replace(b"ab", b"\xff\xfe"), b"\0" * 50, b"[1]", b"null", b"{}", b"",
    ],
)  # fmt: skip
def test_a_line_of_another_shape_counts_for_nothing(line: bytes) -> None:
    assert RECORD(DONE) is not None
    assert RECORD(line) is None


def test_what_a_later_version_adds_is_left_out_and_what_is_not_unicode_is_kept() -> None:
    assert NUMBERED(seal(b'{"photo":"a","n":1,"later":true}')) is not None
    name = "a/\udcff.jpg".encode("utf-8", "surrogatepass")
    row = DELIVERY(b'{"edit":"ab","strip":"cd","path":"%b","settings":"ef","sha256":"01","turn":3}' % name)
    assert row is not None
    assert (row.path, row.turn) == ("a/\udcff.jpg", 3)
    assert DELIVERY(b'{"edit":"ab","strip":"cd","path":"../x","settings":"ef","sha256":"01"}') is None


def flip(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"metrics"', b'"matrics"', 1))


def double(path: Path) -> None:
    path.write_bytes(b"".join(2 * [line] for line in path.read_bytes().splitlines(keepends=True)))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def nest(path: Path) -> None:
    path.write_bytes(b"[" * 1_000_000 + b"\n")


@pytest.mark.parametrize("damage", [flip, empty, nest, Path.unlink])
@pytest.mark.parametrize("name", ["results.jsonl", "deliveries.jsonl", "numbers.jsonl", "sessions.jsonl", "run.json"])
def test_a_damaged_file_is_told_and_mended_and_nothing_else_changes(
    command: CommandLine, recipe: Path, name: str, damage: Callable[[Path], None]
) -> None:
    out, path = recipe.parent / "out", inside(recipe) / name
    before = {file: digest for file, digest in digests(out).items() if "/" in file and file.endswith(".jpg")}
    damage(path)
    for words in (("status", out), ("deliver", recipe), ("run", recipe, "--backend", "fake"), ("report", out)):
        said = command(*words)
        assert said.code in (0, 2), said.err
    after = {file: digest for file, digest in digests(out).items() if "/" in file and file.endswith(".jpg")}
    assert (said.code, after) == (0, before)
    assert "warning" not in command("status", out).err


def test_a_bad_line_is_told_by_its_number_and_set_aside_once(command: CommandLine, recipe: Path) -> None:
    path = inside(recipe) / "results.jsonl"
    flip(path)
    bad = path.read_bytes().splitlines(keepends=True)[0]
    said = command("status", recipe)
    assert "results.jsonl: line 1 cannot be read and was passed over" in said.err
    assert command("report", recipe).err == said.err
    said = command("run", recipe, "--backend", "fake")
    assert "moved to results.jsonl.bad" in said.err
    assert said.out.splitlines()[-1].startswith("done: 1 edit made, 1 file delivered")
    assert path.with_name("results.jsonl.bad").read_bytes() == bad
    assert bad not in path.read_bytes()
    assert "results.jsonl" not in command("run", recipe, "--backend", "fake").err


def test_lines_of_older_runs_have_no_checksum_and_are_taken(command: CommandLine, recipe: Path) -> None:
    for path in inside(recipe).glob("*.jsonl"):
        path.write_text(unsealed(path))
    said = command("run", recipe, "--backend", "fake")
    assert said.err.count("warning") == 0
    assert said.out.splitlines()[-1].startswith("done: 0 edits made, 0 files delivered")


def test_lines_in_another_order_and_twice_say_the_same(command: CommandLine, recipe: Path) -> None:
    for path in inside(recipe).glob("*.jsonl"):
        path.write_bytes(b"".join(2 * path.read_bytes().splitlines(keepends=True)[::-1]))
    standing = json.loads(command("status", recipe, "--json").out)
    assert (standing["sessions"], standing["delivered"], standing["photos"]) == (1, 2, 2)
    said = command("run", recipe, "--backend", "fake")
    assert said.out.splitlines()[-1].startswith("done: 0 edits made, 0 files delivered")


def test_a_stored_plan_is_written_again(command: CommandLine, recipe: Path) -> None:
    (path,) = (inside(recipe) / "plans").iterdir()
    before = path.read_bytes()
    path.write_bytes(before.replace(b"rain", b"ruin"))
    said = command("status", recipe)
    assert (said.code, "is damaged or gone: run the recipe again" in said.err) == (0, True)
    assert command("run", recipe, "--backend", "fake").code == 0
    assert path.read_bytes() == before


def test_a_header_that_no_session_remembers_is_refused_with_what_to_do(command: CommandLine, recipe: Path) -> None:
    sessions = inside(recipe) / "sessions.jsonl"
    rows = [{k: v for k, v in row.items() if k != "spec"} for row in read_journal(sessions)]
    sessions.unlink()
    journal = Journal(sessions)
    journal.append(*rows)
    journal.close()
    Layout(inside(recipe)).header.write_bytes(b"")
    for words in (("status", recipe), ("run", recipe, "--backend", "fake"), ("verify", recipe)):
        said = command(*words)
        assert said.code == 2
        assert "run.json is damaged, and no session" in said.err
        assert "hint: put it back" in said.err


@pytest.mark.parametrize("name", ["results.jsonl", "deliveries.jsonl", "sessions.jsonl", "numbers.jsonl", "run.json"])
def test_a_folder_in_the_place_of_a_file_is_refused_by_name(command: CommandLine, recipe: Path, name: str) -> None:
    path = inside(recipe) / name
    aside = path.rename(path.with_name("aside"))
    path.mkdir()
    for words in (("status", recipe), ("run", recipe, "--backend", "fake"), ("check", recipe)):
        said = command(*words)
        assert (said.code, name in said.err, "hint: " in said.err) == (7, True, True), said.err
    path.rmdir()
    aside.rename(path)
    assert command("run", recipe, "--backend", "fake").out.splitlines()[-1].startswith("done: 0 edits made, 0 files")


@pytest.mark.parametrize("put", [Path.mkdir, lambda path: path.symlink_to(path)])
def test_a_log_that_cannot_be_opened_ends_nothing(
    command: CommandLine, recipe: Path, put: Callable[[Path], None]
) -> None:
    path = inside(recipe) / "log.txt"
    path.unlink()
    put(path)
    assert command("run", recipe, "--backend", "fake").code == 0


def test_a_link_that_leads_nowhere_in_the_place_of_a_picture_is_refused_by_name(
    command: CommandLine, recipe: Path
) -> None:
    path = next(inside(recipe).glob("edits/*/*.png"))
    path.unlink()
    path.symlink_to(path)
    for words in (("status", recipe), ("report", recipe), ("verify", recipe)):
        assert command(*words).code in (0, 4)
    said = command("run", recipe, "--backend", "fake")
    assert (said.code, path.name in said.err, "it is a symbolic link" in said.err) == (7, True, True), said.err
    path.unlink()
    assert command("run", recipe, "--backend", "fake").out.splitlines()[-1].startswith("done: 1 edit made")


@pytest.mark.parametrize("format", ["same", *written()])
def test_a_session_writes_down_every_setting_of_its_deliveries(format: str) -> None:
    settings = replace(DeliverySettings(), format=format, chroma="source", dates="source", raw="tiff16")
    line = json.dumps({"event": "delivery", **asdict(settings)}).encode()
    for one in (line, seal(line)):
        read = SESSION["delivery"](one)
        assert read is not None
        assert {name: getattr(read, name) for name in asdict(settings)} == asdict(settings)
