"""Lays out the pages of the documentation site, and checks what was built of them: `make docs` calls both.

    python docs/site_pages.py pages build/docs         pages, what is generated, and the recipes' pictures
    python docs/site_pages.py check build/site         every link leads somewhere, and nothing is fetched from elsewhere

docs/ stays readable as plain files: links to files of the repository become links to their pages here, or their names.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import site_recipes

DOCS = Path(__file__).parent
ROOT = DOCS.parent
# Pages that lie elsewhere than in docs/.
ELSEWHERE = {
    "ip2pbatch/DESIGN.md": "design.md",
    "training/LOG.md": "training-log.md",
    "BENCHMARKS.md": "benchmarks.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "README.md": "index.md",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)
FETCHED = re.compile(r"""(url\(|@import\s+)["']?(https?:)?//""")
FUNCTIONS = """# Functions

What commands do, as functions; [From Python](python.md) shows them at work. Importing them costs a tenth of a second.

::: ip2pbatch.jobs
    options:
      show_root_heading: false

## What they are told, and what they tell

::: ip2pbatch.jobs.voice

## Errors

::: ip2pbatch.errors
"""


def lay_out(folder: Path) -> None:
    """Write every page into `folder`, which holds nothing else afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for page in sorted(DOCS.glob("*.md")):
        (folder / page.name).write_text(rewritten(page), encoding="utf-8")
    for source, name in ELSEWHERE.items():
        if source != "README.md":
            (folder / name).write_text(rewritten(ROOT / source), encoding="utf-8")
    for shown in (*DOCS.glob("*.jpg"), *DOCS.glob("ray*.*")):  # pictures, and what a page hands out
        shutil.copy(shown, folder)
    with (folder / "recipes.md").open("a", encoding="utf-8") as page:
        page.write(site_recipes.gallery(folder))
    (folder / "recipe-keys.md").write_text(site_recipes.keys(), encoding="utf-8")
    (folder / "functions.md").write_text(FUNCTIONS, encoding="utf-8")


def rewritten(page: Path) -> str:
    """A page whose links are those of the site, its code blocks as they are."""
    parts = FENCE.split(page.read_text("utf-8"))
    return "".join(part if part.startswith("```") else LINK.sub(lambda m: link(m, page), part) for part in parts)


def link(found: re.Match[str], page: Path) -> str:
    """One link of a page, as the site has it."""
    mark, words, target = found.groups()
    path, _, anchor = target.partition("#")
    if "://" in target or not path:
        return found[0]
    file = Path(os.path.normpath(page.parent / path)).relative_to(ROOT).as_posix()
    if file in ELSEWHERE or file.startswith("docs/"):
        name = ELSEWHERE.get(file, file.removeprefix("docs/"))
        return f"{mark}[{words}]({name}{'#' + anchor if anchor else ''})"
    if (recipe := re.fullmatch(r"recipes/([\w-]+)\.yaml", file)) is not None:
        return f"[{words}](recipes.md#{recipe[1]})"
    return f"`{file}`" if words == file else f"{words} (`{file}`)"


class Links(HTMLParser):
    """What a built page refers to, what it fetches by itself, and the places within it."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.fetched: set[str] = set()
        self.places: set[str] = {""}
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect one element's."""
        known = {name: value for name, value in attrs if value}
        self.places |= {known[name] for name in ("id", "name") if name in known}
        to = known.get("href") or known.get("src")
        if to and tag in ("a", "link", "script", "img", "iframe", "source"):
            (self.links if tag == "a" else self.fetched).add(to)


def complaints(site: Path) -> list[str]:
    """A sentence for each link of a built site that leads nowhere, and each thing that is fetched from elsewhere."""
    pages = {page.resolve(): Links(page) for page in sorted(site.rglob("*.html"))}
    found = []
    for page, links in pages.items():
        name = page.relative_to(site.resolve())
        found += [f"{name} fetches {one}" for one in links.fetched if urlsplit(one).netloc]
        if name.name == "404.html":  # its links are from the root, wherever that is
            continue
        for one in sorted(links.links | links.fetched):
            parts = urlsplit(one)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                found.append(f"{name}: {one} is no file")
            elif target in pages and unquote(parts.fragment) not in pages[target].places:
                found.append(f"{name}: {one} is no place")
    styles = (
        file for file in site.rglob("*.css") if re.search(r"(url\(|@import\s+)[\"']?(https?:)?//", file.read_text())
    )
    return found + [f"{file.relative_to(site)} fetches from elsewhere" for file in styles]


def main() -> None:
    """Lay out or check, and say what is wrong."""
    job, folder = sys.argv[1], Path(sys.argv[2])
    if job == "pages":
        lay_out(folder)
    elif found := complaints(folder):
        sys.exit("\n".join(found))
    else:
        print(
            f"{len(list(folder.rglob('*.html')))} pages: every link leads somewhere, nothing is fetched from elsewhere"
        )


if __name__ == "__main__":
    main()
