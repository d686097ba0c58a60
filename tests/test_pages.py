"""The documentation site: what its pages show can be typed, they are all in its menu, and a broken link is found."""

from __future__ import annotations

import re
import shlex
import shutil
import tomllib
from pathlib import Path

import pytest
import site_pages
import site_recipes
from command import CommandLine

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("page", ["index", "photographer", "explorer"])
def test_the_commands_of_a_page_work_in_their_order(
    page: str, command: CommandLine, shoot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shoot)
    shutil.rmtree(shoot / "photos/day2")
    text = "".join(re.findall(r"^```sh\n(.*?)^```", (ROOT / f"docs/{page}.md").read_text("utf-8"), re.M | re.S))
    calls = [shlex.split(line, comments=True)[1:] for line in text.splitlines() if line.startswith("ip2pbatch ")]
    assert len(calls) >= 6
    for words in calls:
        makes = words[0] in ("edit", "run", "retry", "compare")
        said = command(*words, *(["--backend", "fake"] if makes else []))
        assert said.code == 0, f"{' '.join(words)}: {said.err}"


def menu(entries: list[dict[str, object]]) -> list[str]:
    """The pages of the site's menu, in their order."""
    found = []
    for entry in entries:
        for value in entry.values():
            found += menu(value) if isinstance(value, list) else [str(value)]
    return found


def test_every_page_is_in_the_menu_once() -> None:
    own = {page.name for page in (ROOT / "docs").glob("*.md")}
    generated = {"recipe-keys.md", "functions.md"}
    pages = menu(tomllib.loads((ROOT / "zensical.toml").read_text("utf-8"))["project"]["nav"])
    assert sorted(pages) == sorted(own | set(site_pages.ELSEWHERE.values()) | generated)


def test_links_to_files_of_the_repository_become_links_of_the_site(tmp_path: Path) -> None:
    page = ROOT / "docs/made-up.md"
    kinds = {
        "[a](cli.md#b)": "[a](cli.md#b)",
        "[a](../ip2pbatch/DESIGN.md)": "[a](design.md)",
        "[a](../recipes/grid.yaml)": "[a](recipes.md#grid)",
        "[a](../ip2pbatch/cli/app.py)": "a (`ip2pbatch/cli/app.py`)",
        "[a](https://b.c)": "[a](https://b.c)",
        "![a](grid.jpg)": "![a](grid.jpg)",
    }
    for written, on_the_site in kinds.items():
        found = site_pages.LINK.fullmatch(written)
        assert found is not None
        assert site_pages.link(found, page) == on_the_site


def test_what_leads_nowhere_or_is_fetched_from_elsewhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<p id="here"><a href="#here"><a href="b.html#there"><a href="gone.html"><img src="https://a.example/b.png">'
    )
    (tmp_path / "b.html").write_text('<a href="a.html"><a href="https://fine.example"><script src="//c.example/d.js">')
    (tmp_path / "c.css").write_text("@import 'https://d.example/e.css'; a {background: url(data:image/png;base64,)}")
    assert site_pages.complaints(tmp_path) == [
        "a.html fetches https://a.example/b.png",
        "a.html: b.html#there is no place",
        "a.html: gone.html is no file",
        "b.html fetches //c.example/d.js",
        "c.css fetches from elsewhere",
    ]


def test_the_embedded_model_is_given_what_it_was_taught_of_a_recipe() -> None:
    given = {path.stem: site_recipes.embedded(path)["edits"] for path in (ROOT / "recipes").glob("*.yaml")}
    assert {name for name, edits in given.items() if not edits} == {"hair", "makeup", "clothes"}
    assert [edit["id"] for edit in given["seasons"]] == ["spring", "autumn", "winter"]
    assert [edit["region"].get("invert", False) for edit in given["regions"]] == [False, False, True]
    assert given["chain"][0]["chain"] == ["make the sky overcast", "make it rain", "make it night"]


def test_every_key_of_a_recipe_is_on_the_page_of_keys() -> None:
    text = site_recipes.keys()
    assert {"| `photos` |", "| `per_photo` |", "| `on_conflict` |", "| `chain` |"} <= set(
        re.findall(r"^\| `\w+` \|", text, re.M)
    )
    headings = {name.lower() for name in re.findall(r"^## (\w+)$", text, re.M)}
    assert set(re.findall(r"\]\(#(\w+)\)", text)) <= headings
