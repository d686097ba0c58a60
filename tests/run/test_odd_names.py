"""Names and links that lead astray: nothing is written outside the output folder, nothing overwritten unasked."""

from __future__ import annotations

import ctypes
import re
import shutil
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from command import CommandLine
from PIL import Image
from runs import Wrapped, carry_out, digests, make_photos, make_plan, strays

from ip2pbatch.engine.fake import FakeEngine
from ip2pbatch.plan.edits import Edit

FAKE = ("--backend", "fake")
ODD = [
    "CON.jpg", "nul.tar.jpg", "LPT9.jpg", "a\nb.jpg", "tab\there.jpg", " lead.jpg", "trail .jpg", "dots...jpg", "~.jpg",
    "-rf.jpg", "$(touch pwned).jpg", "%s%n.jpg", "{stem}.jpg", "{0.__class__}.jpg", "a'b\"c.jpg", "back\\slash.jpg",
    "co:lon?.jpg", "😀👩‍👩‍👧.jpg", "nfd-u\u0308.jpg", "ﬁ.jpg", "rtl-\u202egpj.jpg", "zero\u200bwidth.jpg",
    "x" * 251 + ".jpg", "ü" * 125 + ".jpg", "雪" * 80 + ".jpg", "no-edit_make-it-winter.jpg", "sheets/inside.jpg",
    "report.html.jpg",     f"{'d' * 100}/{'e' * 100}/{'f' * 100}.jpg", "con/aux/prn.jpg", "day /x.jpg", "x..jpg/y.jpg",
]  # fmt: skip
RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")


def photo(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.linear_gradient("L").resize((64, 48)).point(lambda v: (v + 7 * shade) % 256).convert("RGB").save(path, "JPEG")


def around(folder: Path, out: Path) -> dict[str, str]:
    """sha256 of everything under `folder` but what is under `out`."""
    return {name: sha for name, sha in digests(folder).items() if not (folder / name).is_relative_to(out)}


def pictures(out: Path) -> set[Path]:
    return {path.relative_to(out) for path in out.rglob("*.jpg") if path.is_file()}


def test_every_odd_name_is_edited_and_its_file_is_portable_and_inside(command: CommandLine, tmp_path: Path) -> None:
    shoot, out = tmp_path / "shoot", tmp_path / "out"
    for shade, name in enumerate(ODD):
        photo(shoot / name, shade)
    before = around(tmp_path, out)
    said = command("edit", shoot, "-i", "make it winter", "-o", out, "--size", "64", *FAKE)
    assert said.code == 0, said.err
    assert around(tmp_path, out) == before
    delivered = pictures(out)
    assert len(delivered) == len(ODD)
    for path in delivered:
        assert len(str(path).encode()) < 1024
        for part in path.parts:
            assert len(part.encode()) <= 255
            assert not RESERVED.fullmatch(part)
            assert not set(part) & set('\0\n\t<>:"|?*\\\u202e')
            assert part == unicodedata.normalize("NFC", part)
            assert not part.endswith((".", " "))
            assert not part.startswith((".", " "))
    assert len({str(path).casefold() for path in delivered}) == len(ODD)
    assert command("edit", shoot, "-i", "make it winter", "-o", out, "--size", "64", *FAKE).code == 0
    assert pictures(out) == delivered


def test_a_name_that_commands_a_terminal_is_told_without_its_commands(command: CommandLine, tmp_path: Path) -> None:
    shoot, out = tmp_path / "shoot", tmp_path / "out"
    photo(shoot / "torn\x1b]0;owned\x07.jpg", 1)
    data = (shoot / "torn\x1b]0;owned\x07.jpg").read_bytes()
    (shoot / "torn\x1b]0;owned\x07.jpg").write_bytes(data[: len(data) // 2])
    (shoot / "words\x1b[2J\x9b31m.jpg").write_bytes(b"no photo")
    said = [
        command("edit", shoot, "-i", "make it winter", "-o", out, "--size", "64", *FAKE),
        command("status", out),
        command("edit", shoot / "\x1b[2Jnowhere", "-i", "make it winter", "-o", out, *FAKE),
    ]
    assert [one.code for one in said] == [3, 0, 2]
    text = "".join(one.out + one.err for one in said)
    assert not set(text) & {"\x1b", "\x07", "\x9b"}
    assert text.count("owned") == text.count("words") == 2
    assert "nowhere" in text


TEMPLATES = ["../{stem}_{edit}", "/{stem}", "{folder}/../../{stem}", "../../../../tmp/{stem}", "..", "{edit}/../.."]
IDENTITIES = ["/etc/passwd", "..", "a/../../b", "C:\\x"]


@pytest.mark.parametrize(
    ("name", "identity"),
    [*((name, "../../up") for name in TEMPLATES), *((TEMPLATES[0], identity) for identity in IDENTITIES)],
)
def test_no_template_and_no_edit_s_name_leads_out(
    command: CommandLine, tmp_path: Path, name: str, identity: str
) -> None:
    inner = tmp_path / "a" / "b"
    photo(inner / "shoot" / "one.jpg", 1)
    (inner / "r.yaml").write_text(
        f"photos: shoot\nedits: [{{id: '{identity}', instruction: make it winter}}]\n"
        f"size: 64\noutput: {{folder: out, name: '{name}', full_resolution: off}}\n"
    )
    before = around(tmp_path, inner / "out")
    said = command("run", inner / "r.yaml", *FAKE)
    assert said.code in (0, 2), said.err
    assert around(tmp_path, inner / "out") == before
    assert len(list((inner / "out").rglob("*.jpg"))) == (said.code == 0)


@pytest.mark.parametrize(
    ("first", "second"), [("A.jpg", "a.jpg"), ("ü.jpg", "u\u0308.jpg"), ("day/x.jpg", "DAY/x.jpg"), ("ß.jpg", "SS.jpg")]
)
def test_twins_are_told_and_neither_is_written(command: CommandLine, tmp_path: Path, first: str, second: str) -> None:
    photo(tmp_path / "shoot" / first, 1)
    photo(tmp_path / "shoot" / second, 2)
    if len(list((tmp_path / "shoot").rglob("*.jpg"))) < 2:
        pytest.skip("this file system takes them for one file")
    said = command("edit", tmp_path / "shoot", "-i", "make it winter", "-o", tmp_path / "out", *FAKE)
    assert said.code == 2
    assert "one name" in said.err.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_what_is_already_there_is_never_replaced_unasked(command: CommandLine, tmp_path: Path) -> None:
    photo(tmp_path / "shoot" / "a.jpg", 1)
    out = tmp_path / "out"
    photo(out / "a_make-it-winter.jpg", 9)
    (out / "report.html").symlink_to(tmp_path / "shoot" / "a.jpg")
    before = around(tmp_path, tmp_path / "nothing")
    said = command("edit", tmp_path / "shoot", "-i", "make it winter", "-o", out, "--size", "64", *FAKE)
    assert said.code == 7  # the report would go through a link
    assert "symbolic link" in said.err
    after = around(tmp_path, tmp_path / "nothing")
    assert before.items() <= after.items()
    assert (out / "a_make-it-winter_2.jpg").is_file()


def run_with(tmp_path: Path, mischief: Callable[[], None], count: int = 24) -> int:
    """The exit code of a run in `tmp_path/out` in which `mischief` happens before the third call of the engine."""
    plan, calls = make_plan(make_photos(tmp_path / "in", count), ("make it rain", "make it night"), keep=(1, 2)), 0

    def before(edits: Sequence[Edit]) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            mischief()

    return carry_out(tmp_path / "out", plan, Wrapped(before=before, batch=4))


def swap(one: Path, other: Path) -> None:
    """Exchange two names in one step: in two, a writer makes the folder again in between."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        pytest.skip("two names cannot be exchanged in one step here")
    at_working_folder, exchange = -100, 2
    assert renameat2(at_working_folder, bytes(one), at_working_folder, bytes(other), exchange) == 0, ctypes.get_errno()


@pytest.mark.parametrize("what", ["", "day0", ".ip2pbatch", ".ip2pbatch/edits", ".ip2pbatch/sources"])
@pytest.mark.parametrize("prepared", [False, True])
def test_an_output_exchanged_for_a_link_takes_nothing_elsewhere(tmp_path: Path, what: str, prepared: bool) -> None:
    """While a run goes on, a folder of its output becomes a link to another; `prepared` has all folders there."""
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    target = out / what
    elsewhere.mkdir()

    def exchange() -> None:
        target.mkdir(parents=True, exist_ok=True)
        if prepared:
            being_written = shutil.ignore_patterns(".ip2p-*")  # may be gone before it is copied
            shutil.copytree(target, elsewhere, dirs_exist_ok=True, ignore=being_written)
        (tmp_path / "moved").symlink_to(elsewhere)
        swap(tmp_path / "moved", target)
        before.update({str(path) for path in elsewhere.rglob("*")})

    before: set[str] = set()
    originals = None

    def first() -> None:
        nonlocal originals
        originals = digests(tmp_path / "in")
        exchange()

    assert run_with(tmp_path, first) == 7
    assert {str(path) for path in elsewhere.rglob("*")} == before
    assert digests(tmp_path / "in") == originals
    target.unlink()
    (tmp_path / "moved").rename(target)
    plan = make_plan(make_photos(tmp_path / "in", 24), ("make it rain", "make it night"), keep=(1, 2))
    assert carry_out(out, plan, FakeEngine()) == 0  # put back, it goes on
    assert not strays(out)
    assert len([name for name in digests(out) if name.endswith(".jpg")]) == 48


def test_another_real_folder_in_the_place_of_the_output_is_told_as_well(tmp_path: Path) -> None:
    def exchange() -> None:
        (tmp_path / "out").rename(tmp_path / "moved")
        (tmp_path / "out").mkdir()

    assert run_with(tmp_path, exchange) == 7
    assert not list((tmp_path / "out").iterdir())


def test_an_output_that_is_a_link_from_the_start_is_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    assert run_with(tmp_path, lambda: None, count=6) == 0
    assert len(list((tmp_path / "disk").rglob("day*/*.jpg"))) == 12


def test_sheets_and_report_follow_no_link_out_of_the_output(command: CommandLine, tmp_path: Path) -> None:
    photo(tmp_path / "shoot" / "a.jpg", 1)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sheets").symlink_to(tmp_path / "elsewhere")
    said = command("edit", tmp_path / "shoot", "-i", "make it winter", "-o", tmp_path / "out", "--size", "64", *FAKE)
    assert said.code == 7
    assert "sheets" in said.err
    assert not list((tmp_path / "elsewhere").iterdir())


def test_links_to_photos_are_read_only_within_the_folder(command: CommandLine, tmp_path: Path) -> None:
    photo(tmp_path / "shoot" / "in.jpg", 1)
    photo(tmp_path / "private" / "secret.jpg", 2)
    (tmp_path / "shoot" / "loop").symlink_to(tmp_path / "shoot")
    (tmp_path / "shoot" / "self.jpg").symlink_to("self.jpg")
    (tmp_path / "shoot" / "there").symlink_to("back")
    (tmp_path / "shoot" / "back").symlink_to("there")
    (tmp_path / "shoot" / "out.jpg").symlink_to(tmp_path / "private" / "secret.jpg")
    (tmp_path / "shoot" / "folder").symlink_to(tmp_path / "private")
    said = command("edit", tmp_path / "shoot", "-i", "make it winter", "-o", tmp_path / "out", "--size", "64", *FAKE)
    assert said.code == 0, said.err
    assert [path.name for path in (tmp_path / "out").glob("*.jpg")] == ["in_make-it-winter.jpg"]
    assert "2 links lead out of the photos' folder" in said.err
    (tmp_path / "r.yaml").write_text("photos: shoot\nedits: [make it winter]\n")
    assert "2 links lead out of the photos' folder" in command("plan", tmp_path / "r.yaml").err
