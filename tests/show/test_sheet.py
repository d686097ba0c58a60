"""Contact sheets: what is on them, that nothing is squashed, clipped or lost, and that they stay printable."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from galleries import RECIPE, make_run
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from ip2pbatch.plan.edits import Edit, Guidance
from ip2pbatch.plan.written.outputs import Sheet
from ip2pbatch.run.directory.kept import Kept
from ip2pbatch.run.directory.view import RunView
from ip2pbatch.run.engine import Result
from ip2pbatch.show import lettering
from ip2pbatch.show.cells import Cell, Gallery, aligned, gallery, mark_of, totals
from ip2pbatch.show.page import Box, Heading, Measure, Tile, draw_tile, tile_size
from ip2pbatch.show.paging import MAX_PIXELS, pages_of
from ip2pbatch.show.sheet import draw_sheets, sheets_of, write_sheets
from ip2pbatch.show.table import page_size

SMALL = Sheet(cell=96)


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> RunView:
    return make_run(tmp_path_factory.mktemp("run"))


def a_cell(photo: str = "a.jpg", words: str = "make it winter", **changes: object) -> Cell:
    values: dict[str, object] = {"guidance": Guidance(7.5, 1.5), "state": "missing", "size": (96, 64)} | changes
    return Cell(
        key=f"{photo} {words} {sorted(changes.items(), key=str)}", photo=photo, edit=words.replace(" ", "-"),
        instruction=words, steps=5, sampler="euler", **({"seed": 7} | values),  # type: ignore[arg-type]
    )  # fmt: skip


def a_gallery(*cells: Cell) -> Gallery:
    return Gallery("test", "tiny", "fake", cells)


def pixels(path: Path) -> NDArray[np.int16]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(np.int16)


def discs(page: NDArray[np.int16]) -> list[tuple[int, int]]:
    """(width, height) of every large white spot on a page."""
    white = page.min(axis=2) > 235
    found = []
    while white.any():
        spot = np.zeros_like(white)
        spot[tuple(np.argwhere(white)[0])] = True
        while True:  # flood one spot
            grown = spot.copy()
            grown[1:] |= spot[:-1]
            grown[:-1] |= spot[1:]
            grown[:, 1:] |= spot[:, :-1]
            grown[:, :-1] |= spot[:, 1:]
            grown &= white
            if (grown == spot).all():
                break
            spot = grown
        down, across = np.nonzero(spot)
        found.append((int(np.ptp(across)) + 1, int(np.ptp(down)) + 1))
        white &= ~spot
    return [size for size in found if min(size) > 12]


def test_a_run_has_an_overview_chains_and_grids(view: RunView, tmp_path: Path) -> None:
    pages = write_sheets(view, tmp_path / "sheets", SMALL)

    names = [page.name for page in pages]
    assert names[0] == "overview.png"
    assert [name for name in names if name.startswith("chain-trip")]
    assert sorted(n.rpartition("-")[0] for n in names if n.startswith("grid")) == ["grid-a-night", "grid-b-night"]
    assert sorted(tmp_path.joinpath("sheets").iterdir()) == sorted(pages)


def test_a_grid_has_every_value_on_its_axes_and_in_its_cells(view: RunView) -> None:
    grid = next(sheet for sheet in sheets_of(gallery(view), SMALL) if sheet.slug.startswith("grid"))

    assert grid.table.heads == ("5.0", "7.5", "10.0")
    assert [row.label for row in grid.table.rows] == ["1.00", "1.25", "1.50"]
    assert (grid.table.column_axis, grid.table.row_axis) == ("text guidance (s_T)", "image guidance (s_I)")
    captions = [tile.caption for row in grid.table.rows for tile in row.tiles if tile]
    assert len(captions) == 9
    assert captions[1] == "text 7.5, image 1.00"


def test_no_photo_is_squashed(tmp_path: Path) -> None:
    untouched = make_run(tmp_path, recipe=RECIPE.split("edits:")[0] + "edits: [x, y]\nsize: {long_side: 160}\n",
                         after=lambda edit, result: replace(result, image=None))  # fmt: skip

    (overview,) = write_sheets(untouched, tmp_path / "sheets", Sheet(cell=256))

    found = discs(pixels(overview))
    assert len(found) == 2  # the two sources: one lies, one stands
    for width, height in found:
        assert abs(width - height) <= 2


def test_a_failed_picture_is_a_hatched_box_with_its_reason(tmp_path: Path) -> None:
    box, measure = Box(256, 200, 1), Measure(256)

    def drawn(reason: str, state: str = "failed") -> NDArray[np.int16]:
        page = Image.new("RGB", tile_size(box, measure), "#e6e6e6")
        draw_tile(page, (0, 0), Tile("text 5", state=state, reason=reason), box, measure)
        return np.asarray(page).astype(np.int16)

    failed = drawn("out of memory")
    assert failed[:200].mean() > 150  # never a black square
    assert (failed != drawn("disk full")).any()
    assert (failed != drawn("out of memory", "flagged")).any()
    stripes = failed[5, :, 1]
    assert np.count_nonzero(np.diff((stripes < stripes.mean()).astype(int))) > 10


def test_a_picture_that_cannot_be_read_is_said_to_be_so(tmp_path: Path) -> None:
    torn = tmp_path / "torn.png"
    torn.write_bytes(b"\x89PNG\r\n\x1a\n then nothing")
    cells = [a_cell(state="done", picture=Kept(torn), source=Kept(torn)), a_cell(words="make it night")]

    (page,) = draw_sheets(a_gallery(*cells), tmp_path / "sheets", SMALL)

    assert pixels(page).mean() > 120


def test_a_sheet_says_what_made_it_where_that_is_not_the_model(tmp_path: Path) -> None:
    (by_model,), (by_fake,) = (
        draw_sheets(replace(a_gallery(a_cell()), backend=backend), tmp_path / backend, SMALL)
        for backend in ("torch", "fake")
    )
    assert not np.array_equal(pixels(by_model), pixels(by_fake))


def test_a_failed_link_and_its_descendants_stand_in_the_chain(tmp_path: Path) -> None:
    def black(edit: Edit, result: Result) -> Result:
        return replace(result, state="nan", detail="black") if edit.instruction == "make it dark" else result

    view = make_run(tmp_path, after=black)
    chain = next(sheet for sheet in sheets_of(gallery(view), SMALL) if sheet.slug == "chain-trip")

    tiles = [tile for tile in chain.table.rows[0].tiles if tile]
    assert [tile.state for tile in tiles] == ["", "nan", "skipped"]
    assert tiles[1].reason == "black"
    assert "make it dark" in tiles[2].reason or tiles[2].reason
    assert dict(chain.facts)["pictures"] == "2 done, 2 nan, 2 skipped"


def test_a_cell_that_hardly_changed_says_what_to_try(tmp_path: Path) -> None:
    view = make_run(tmp_path, metrics=lambda edit: {"l1": 0.001, "changed": 0.0, "structure": 1.0})

    overview = next(iter(sheets_of(gallery(view), SMALL)))

    marks = {tile.mark for row in overview.table.rows for tile in row.tiles if tile}
    assert marks == {"hardly changed: raise text or lower image"}
    assert mark_of({"changed": 0.9, "structure": 0.0}) == "lost the photo: lower text or raise image"
    assert mark_of({"changed": 0.9, "structure": 0.0}, ("text",)) == "lost the photo: lower text"
    assert mark_of({"changed": 0.9, "structure": 0.0}, ()) == "lost the photo"
    assert mark_of({"changed": 0.2, "structure": 0.8}) == mark_of({}) == ""


def test_scales_in_pairs_make_one_sheet_an_edit(tmp_path: Path) -> None:
    pairs = RECIPE.split("edits:")[0] + "edits: [x]\nguidance: {text: [5, 7.5], image: [1.2, 1.5], pair: zip}\n"
    view = make_run(tmp_path, recipe=pairs + "size: 64\n")

    (sweep,) = (sheet for sheet in sheets_of(gallery(view), SMALL) if sheet.slug != "overview")

    assert sweep.slug == "guidance-x"
    assert sweep.table.heads == ("text 5.0, image 1.2", "text 7.5, image 1.5")
    assert len(sweep.table.rows) == 2


def test_many_photos_fall_into_pages_of_one_height_and_none_is_lost() -> None:
    cells = [a_cell(f"{n:03d}.jpg", words) for n in range(40) for words in ("make it winter", "make it night")]
    whole = a_gallery(*cells)
    (overview,) = sheets_of(whole, Sheet())

    pages = pages_of(overview, whole, Measure(384))

    assert len(pages) > 1
    assert [row.source.caption for page in pages for row in page.rows if row.source] == [
        f"{n:03d}.jpg" for n in range(40)
    ]
    assert max(len(page.rows) for page in pages) - min(len(page.rows) for page in pages) <= len(pages)


@pytest.mark.parametrize(("texts", "images"), [(40, 3), (3, 60), (30, 30)])
def test_a_page_is_never_larger_than_viewers_take(texts: int, images: int, tmp_path: Path) -> None:
    cells = [
        a_cell(guidance=Guidance(1 + t / 4, 1 + i / 8), size=(64, 64)) for t in range(texts) for i in range(images)
    ]
    whole, measure = a_gallery(*cells), Measure(512)
    (grid,) = sheets_of(whole, Sheet(cell=512))

    pages = pages_of(grid, whole, measure)

    heading = Heading(whole.name, grid.subject, grid.facts, "page 1 of 1")
    assert all(np.prod(page_size(page, heading, measure)) <= MAX_PIXELS for page in pages)
    assert sum(sum(tile is not None for row in page.rows for tile in row.tiles) for page in pages) == texts * images


def test_the_same_run_gives_the_same_bytes_on_a_given_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    cells = a_gallery(a_cell(), a_cell("b.jpg"))
    first, again = (draw_sheets(cells, tmp_path / name, SMALL)[0].read_bytes() for name in "ab")
    assert first == again
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1800000000")
    assert draw_sheets(cells, tmp_path / "c", SMALL)[0].read_bytes() != first


def test_pages_of_an_earlier_time_go_and_other_files_stay(tmp_path: Path) -> None:
    out = tmp_path / "sheets"
    (old,) = draw_sheets(a_gallery(a_cell(), a_cell(words="make it night")), out, SMALL)
    old.rename(out / "overview-page7.png")
    Image.new("RGB", (9, 9)).save(out / "mine.png")
    (out / "broken.png").write_bytes(b"not a picture")

    (new,) = draw_sheets(a_gallery(a_cell(), a_cell(words="make it night")), out, SMALL)

    assert sorted(path.name for path in out.iterdir()) == sorted(["broken.png", "mine.png", new.name])


def test_photos_of_one_stem_or_none_get_sheets_of_their_own(tmp_path: Path) -> None:
    grid = [Guidance(t, i) for t in (5, 7) for i in (1, 2)]
    names = ["a.jpg", "a.png", "A.jpg", "../…", "日本/写真.jpg"]
    cells = [a_cell(name, guidance=scales) for name in names for scales in grid]

    pages = draw_sheets(a_gallery(*cells), tmp_path / "sheets", SMALL)

    assert len({page.name.casefold() for page in pages}) == len(pages) == 1 + len(names)
    assert all(page.parent == tmp_path / "sheets" for page in pages)


def test_instructions_of_single_photos_close_up() -> None:
    cells = [a_cell(f"{n}.jpg", f"instruction {n} {k}") for n in range(6) for k in range(2)]
    (overview,) = sheets_of(a_gallery(*cells), SMALL)
    assert all(len(row.tiles) == 2 and all(row.tiles) for row in overview.table.rows)


def test_the_chain_and_the_grid_of_one_photo_leave_no_holes_in_the_overview() -> None:
    shared = [a_cell(f"{n}.jpg", words) for n in range(5) for words in ("make it winter", "make it night")]
    grid = [a_cell("1.jpg", "make it autumn", guidance=Guidance(t, i)) for t in (5, 7) for i in (1, 2)]
    links = [a_cell("2.jpg", w, link=n + 1, links=2, chain=("one", "two")) for n, w in enumerate(("one", "two"))]
    chain = [replace(cell, edit="trip") for cell in links]

    overview, *own = sheets_of(a_gallery(*shared, *grid, *chain), SMALL)

    assert overview.table.heads == ("make it winter", "make it night")
    assert [sheet.slug for sheet in own] == ["chain-trip", "grid-1-make-it-autumn-7"]


def test_numbers_of_an_axis_line_up() -> None:
    assert list(aligned([1.5, 1, 1.25]).values()) == ["1.00", "1.25", "1.50"]
    assert list(aligned([-1, 0, 7.5]).values()) == ["-1.0", "0.0", "7.5"]
    assert list(aligned([5, 10]).values()) == ["5", "10"]


def test_a_shared_link_counts_once() -> None:
    assert totals([a_cell(), a_cell(), a_cell("b.jpg", state="failed")]) == "1 failed, 1 missing"


WORDS = st.text(max_size=25) | st.sampled_from(
    ["写真 日本の猫 😀", "zażółć gęślą jaźń", "x" * 300, "\u202egpj.exe", "\ud800"]
)


@settings(deadline=None, max_examples=25)
@given(text=WORDS, size=st.integers(10, 32), room=st.integers(40, 400))
def test_no_letter_is_clipped(text: str, size: int, room: int) -> None:
    assert lettering.width(lettering.elide(text, size, room), size) <= room
    lines = lettering.wrap(text, size, room, 3)
    assert len(lines) <= 3
    assert all(lettering.width(line, size) <= room for line in lines)
    page = Image.new("RGB", (room + 80, 2 * size), "white")
    for draw in (lettering.draw_line, lettering.draw_line_to):
        draw(page, (40, 4), lines[0] if lines else "", size=size, fill="black")


def test_an_elided_name_keeps_both_ends() -> None:
    short = lettering.elide("holiday/2019/a-very-long-name-of-a-photo-0412.jpg", 16, 200)
    assert short.startswith("hol")
    assert short.endswith("412.jpg")
    assert lettering.elide("short.jpg", 16, 400) == "short.jpg"


def of_models(*cells: Cell, **absent: str) -> Gallery:
    models = tuple(dict.fromkeys(cell.model for cell in cells))
    return replace(a_gallery(*cells), models=models, absent=absent)


def test_models_stand_side_by_side_on_a_sheet_of_each_instruction() -> None:
    whole = of_models(
        *(a_cell(photo, words, model=model, seed=seed) for photo in ("a.jpg", "b.jpg")
          for words in ("make it winter", "make it night") for model in ("tiny", "other") for seed in (1, 2)),
        gone="it is not on this machine",
    )  # fmt: skip
    drafts = list(sheets_of(whole, SMALL))
    assert [draft.slug for draft in drafts] == [
        f"models-make-it-{words}-seed{number}" for words in ("winter", "night") for number in (1, 2)
    ]
    for draft in drafts:
        assert draft.table.heads == ("tiny", "other", "gone")
        assert [len([tile for tile in row.tiles if tile]) for row in draft.table.rows] == [3, 3]
        assert {row.tiles[2].reason for row in draft.table.rows if row.tiles[2]} == {
            "not made: it is not on this machine"
        }


def test_scales_of_models_are_rows_from_weak_to_strong_and_one_photo_has_all_its_edits_on_one_sheet() -> None:
    both = [Guidance(text, image) for image in (1.2, 1.5) for text in (7.5, 5)]
    whole = of_models(
        *(a_cell(guidance=scales, model="tiny") for scales in both),
        *(a_cell(guidance=Guidance(text, 0), model="other") for text in (4, 1, 2)),
        a_cell(words="make it night", model="tiny"), a_cell(words="make it night", model="other"),
    )  # fmt: skip
    models, scales = sheets_of(replace(whole, usual={"other": (2, 0)}), SMALL)
    assert (models.slug, models.subject, scales.slug) == ("models", "a.jpg", "scales-make-it-winter-a")
    assert [[(tile.caption, tile.second) for tile in row.tiles if tile] for row in models.table.rows] == [
        [("make it winter", "text 7.5, image 1.5   seed 7"), ("make it winter", "text 2, image 0   seed 7")],
        [("make it night", "text 7.5, image 1.5   seed 7")] * 2,
    ]  # fmt: skip
    said = {row.label: [tile and tile.caption for tile in row.tiles] for row in scales.table.rows}
    assert said == {
        "tiny, image 1.2": ["text 5, image 1.2", "text 7.5, image 1.2", None],
        "tiny, image 1.5": ["text 5, image 1.5", "text 7.5, image 1.5", None],
        "other": ["text 1, image 0", "text 2, image 0", "text 4, image 0"],
    }
    assert scales.table.heads == ("", "", "")
