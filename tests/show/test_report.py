"""The report as a file: that it is whole, that nothing in it can run or ask, and what its picks make."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from command import CommandLine
from galleries import make_run
from PIL import Image

from ip2pbatch.plan.edits import Guidance
from ip2pbatch.run.directory.kept import Kept
from ip2pbatch.run.directory.view import RunView, read_run
from ip2pbatch.show.cells import Cell, Gallery, gallery
from ip2pbatch.show.picks import Origin, origin_of
from ip2pbatch.show.report import MOST_UNREADABLE, draw_report, write_report
from ip2pbatch.show.tiles import values_of


class Page(html.parser.HTMLParser):
    """The tags of a page with their attributes, and the text of its scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self._in = ""
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in = tag if tag in self.inside else ""

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in:
            self.inside[self._in].append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> RunView:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page(view: RunView) -> Page:
    return Page(write_report(view, view.root / "report.html"))


def gallery_of(folder: Path, count: int) -> Gallery:
    """`count` pictures, each another one."""
    cells = []
    for number in range(count):
        picture = folder / f"{number}.png"
        Image.new("RGB", (24, 16), (number * 61 % 256, number * 17 % 256, 90)).save(picture)
        cells.append(Cell(
            key=f"{number:032x}", photo=f"{number // 5}.jpg", edit=f"e{number % 5}", instruction=f"edit {number % 5}",
            guidance=Guidance(7.5, 1.5), seed=1, steps=5, sampler="euler", size=(24, 16), state="done",
            picture=Kept(picture), source=Kept(folder / f"{number // 5 * 5}.png"),
            original=folder / f"{number // 5}.jpg",
        ))  # fmt: skip
    return Gallery("many", "tiny", "fake", tuple(cells))


def origin(folder: Path) -> dict[str, Origin]:
    return {"": Origin("many", "tiny", "{long_side: 64}", folder)}


def test_the_page_allows_its_own_script_and_style_and_nothing_else(page: Page) -> None:
    (policy,) = [m["content"] or "" for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    data, script = page.inside["script"]
    (style,) = page.inside["style"]

    for text in (script, style):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert json.loads(data)["cells"]
    assert not any(key.startswith("on") or key == "style" for _, attributes in page.tags for key in attributes)


def test_a_small_report_is_one_file_without_an_address(view: RunView, page: Page) -> None:
    assert not (view.root / "report_files").exists()
    assert all(
        (image["src"] or "data:").startswith("data:image/jpeg;base64,") for image in page.all("img") if "src" in image
    )
    assert not re.search(r"https?://", page.text)
    assert not page.all("link")


def test_every_picture_says_what_it_shows(page: Page) -> None:
    alts = [image["alt"] for image in page.all("img") if "src" in image]
    assert len(alts) == len(page.all("figure"))
    assert all(alts)
    assert "a.jpg, make it night, text guidance 7.5, image guidance 1.25" in "\n".join(map(str, alts))


def test_tables_have_headers_for_both_axes(page: Page) -> None:
    scopes = [header.get("scope") for header in page.all("th")]
    assert set(scopes) == {"col", "colgroup", "row"}
    assert len([1 for header in page.all("th") if header.get("aria-sort") == "none"]) >= 8


def test_before_and_after_are_there_without_a_script(page: Page) -> None:
    """Everything that only the script brings to life is hidden until it has run; the pictures are not."""
    hidden = [attributes.get("id") for _, attributes in page.tags if "hidden" in attributes]
    assert {"tools", "picks", "nothing"} <= set(hidden)
    assert not any("hidden" in figure for figure in page.all("figure"))
    assert "source" in page.text


def test_many_pictures_lie_beside_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ip2pbatch.show.report.INLINE", 20)
    many = gallery_of(tmp_path, 21)
    report = draw_report(many, tmp_path / "my report.html", origin(tmp_path))

    sources = {image["src"] for image in Page(report).all("img") if "src" in image}
    files = set((tmp_path / "my report_files").iterdir())
    assert {source for source in sources if source} == {f"my%20report_files/{file.name}" for file in files}
    assert len(files) == 21

    (stranger := tmp_path / "my report_files" / "notes.txt").write_text("mine")
    fewer = replace(many, cells=many.cells[:10])
    draw_report(fewer, report, origin(tmp_path))
    assert list((tmp_path / "my report_files").iterdir()) == [stranger]


def test_a_page_that_would_be_too_long_shows_first_what_wants_a_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ip2pbatch.show.report.MOST_CELLS", 4)
    gallery = gallery_of(tmp_path, 9)
    cells = [*gallery.cells[:8], replace(gallery.cells[8], state="failed", picture=None)]
    page = Page(draw_report(replace(gallery, cells=tuple(cells)), tmp_path / "report.html", origin(tmp_path)))
    assert len([f for f in page.all("figure") if "data-cell" in f]) == 4
    assert "5 more pictures are not on this page" in page.text
    assert page.text.count('class="cell is-failed"') == 1


def test_a_picture_that_is_gone_is_a_box_that_says_so(tmp_path: Path) -> None:
    gallery = gallery_of(tmp_path, 2)
    (tmp_path / "1.png").write_bytes(b"torn")
    text = draw_report(gallery, tmp_path / "report.html", origin(tmp_path)).read_text()
    assert "its picture is damaged or gone" in text
    assert text.count('class="cell is-damaged"') == 1


def test_a_photo_that_is_not_read_yet_is_told_from_one_that_could_not_be(tmp_path: Path) -> None:
    one, other = gallery_of(tmp_path, 2).cells
    cells = (replace(one, photo="a.jpg", state="missing"), replace(other, photo="b.jpg", state="failed"))
    gallery = replace(gallery_of(tmp_path, 2), cells=tuple(replace(c, source=None, picture=None) for c in cells))
    text = draw_report(gallery, tmp_path / "report.html", origin(tmp_path)).read_text()
    assert text.count("not read yet") == text.count("the photo could not be read") == 1
    assert text.index("not read yet") < text.index("the photo could not be read")


def test_a_delivered_file_is_linked_as_a_file_never_as_a_scheme(tmp_path: Path) -> None:
    gallery = gallery_of(tmp_path, 1)
    name = "javascript:alert(1)#?.jpg"
    cells = (replace(gallery.cells[0], delivered=tmp_path / name),)
    page = Page(draw_report(replace(gallery, cells=cells), tmp_path / "report.html", origin(tmp_path)))
    (cell,) = json.loads(page.inside["script"][0])["cells"]
    assert cell["file"] == "./javascript%3Aalert%281%29%23%3F.jpg"


def test_names_that_are_no_unicode_do_not_stop_the_report(tmp_path: Path) -> None:
    gallery = gallery_of(tmp_path, 1)
    cells = (replace(gallery.cells[0], photo="caf\udce9.jpg", instruction="\ud83d\u2028</script>"),)
    page = Page(draw_report(replace(gallery, cells=cells), tmp_path / "report.html", origin(tmp_path)))
    assert len(page.inside["script"]) == 2


def test_the_date_is_that_of_the_source_where_one_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    gallery = gallery_of(tmp_path, 3)
    first, again = (
        draw_report(gallery, tmp_path / name, origin(tmp_path)).read_bytes() for name in ("a.html", "b.html")
    )
    assert first == again
    assert b"2023-11-14" in first


def test_the_head_of_a_picked_recipe_has_the_runs_own_size(view: RunView) -> None:
    assert "size: {long_side: 64}" in origin_of(view, view.root).head()
    other = replace(
        view, sessions=(replace(view.sessions[0], recipe="size: {megapixels: 0.25}\nseeds: {per_photo: [3, 4]}"),)
    )
    assert origin_of(other, view.root).size == "{megapixels: 0.25}"
    assert origin_of(other, view.root).numbers == (1371, 3, 4)
    unreadable = replace(view, sessions=(replace(view.sessions[0], recipe="{[: not yaml"),))
    assert origin_of(unreadable, view.root).size == f"{{long_side: {max(max(e.size) for e in view.plan.edits)}}}"


def test_a_picked_recipe_keeps_how_files_are_delivered_and_whether_the_checker_runs(view: RunView) -> None:
    text = "output: {folder: out, format: png, name: '{stem}'}\nmetadata: {gps: strip}\nsafety: off"
    other = replace(view, sessions=(replace(view.sessions[0], recipe=text),))
    head = origin_of(other, view.root).head()
    for line in (
        'output: {folder: "picked", name: "{stem}", format: "png"}',
        'metadata: {gps: "strip"}',
        "safety: off",
    ):
        assert line in head.splitlines()


def test_picks_of_edits_at_several_sizes_say_theirs(command: CommandLine, tmp_path: Path) -> None:
    Image.new("RGB", (128, 96), (200, 90, 30)).save(tmp_path / "a.jpg")
    for words, size in (("make it winter", "96"), ("make it dark", "128")):
        flags = ["-i", words, "--size", size, "--backend", "fake", "--model", "tiny", "-o", tmp_path / "out"]
        assert command("edit", tmp_path / "a.jpg", *flags).code == 0
    text = (tmp_path / "out/report.html").read_text("utf-8")
    assert sorted(set(re.findall(r"size: {long_side: \d+}\"", text))) == [
        'size: {long_side: 128}"', 'size: {long_side: 96}"'
    ]  # fmt: skip


@pytest.mark.parametrize(("model", "told"), [("klein", ""), ("qwen-edit", "text 4"), ("ip2p", "text 7.5, image 1.5")])
def test_a_scale_that_a_family_has_not_is_not_shown(command: CommandLine, shoot: Path, model: str, told: str) -> None:
    edit = ("edit", shoot / "photos/one.jpg", "-i", "make it winter", "--model", model, "--size", "64")
    assert command(*edit, "-o", shoot / "out", "--backend", "fake").code == 0
    (cell,) = gallery(read_run(shoot / "out")).cells
    assert cell.told == told
    assert values_of(cell) == f"{f'{told}   ' * bool(told)}seed {cell.seed}"
    assert command("report", shoot / "out").code == 0
    page = (shoot / "out/report.html").read_text(encoding="utf-8")
    assert ("image 1" in page) == ("image" in told)
    assert ("text guidance 7.5" in page) == (model == "ip2p")


def test_photos_that_could_not_be_read_head_the_page(command: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (64, 48), (200, 90, 30)).save(tmp_path / "in" / "good.jpg")
    (tmp_path / "in" / "broken <b>.jpg").write_bytes(b"no photo")
    said = command("edit", tmp_path / "in", "-i", "make it winter", "--backend", "fake", "-o", tmp_path / "out")
    assert said.code == 3
    text = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "1 photo could not be read and has no edit" in text
    assert "<b>broken &lt;b&gt;.jpg</b> is not a JPEG" in text


def test_many_photos_that_could_not_be_read_are_counted(tmp_path: Path) -> None:
    many = replace(gallery_of(tmp_path, 2), unreadable={f"{n}.jpg": "is damaged" for n in range(MOST_UNREADABLE + 7)})
    page = Page(draw_report(many, tmp_path / "report.html", origin(tmp_path)))
    assert f"{MOST_UNREADABLE + 7} photos could not be read" in page.text
    assert page.text.count("is damaged") == MOST_UNREADABLE
    assert "and 7 more" in page.text
