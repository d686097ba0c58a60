"""Cells as parts of a recipe, so that the report can put together one that makes just the picked ones."""

from __future__ import annotations

import shlex
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel

from ip2pbatch.disk.buckets.locations import absolute, shown
from ip2pbatch.errors import RecipeError
from ip2pbatch.plan.expand import photo_seed
from ip2pbatch.plan.globs import exactly
from ip2pbatch.plan.regional.regions import in_words
from ip2pbatch.plan.written.as_text import flow, quoted
from ip2pbatch.plan.written.outputs import Metadata, Output
from ip2pbatch.plan.written.recipe import DEFAULT_SEED
from ip2pbatch.plan.written.yaml_source import parse_yaml
from ip2pbatch.run.directory.kept_defaults import kept_defaults
from ip2pbatch.run.directory.view import RunView
from ip2pbatch.show.cells import Cell, today


@dataclass(frozen=True, slots=True)
class Origin:
    """What the recipe of a run said, as far as a recipe of some of its cells needs it.

    `numbers` are those that photos' own seeds were made from; `folder` is where the report lies, `run` the run's own
    output folder. `settings` are lines of what files are delivered and whether the checker runs; `strength` is what
    they say of all edits.
    """

    name: str
    model: str
    size: str
    folder: Path
    numbers: tuple[int, ...] = (DEFAULT_SEED,)
    settings: tuple[str, ...] = ('output: {folder: "picked"}',)
    sizes: bool = False
    strength: float = 1.0
    run: Path | None = None

    @property
    def apply(self) -> str:
        """The command that uses a cell for other photos, but for the cell's number."""
        return f"ip2pbatch apply {shlex.quote(str(self.run or self.folder))}"

    def head(self) -> str:
        """The first lines of the new recipe."""
        lines = [
            f"# Picked from a report of {today()}. With the output folder {quoted(str(self.run or self.folder))}",
            "# it would reuse what that run has made.",
            f"name: {quoted(f'{self.name}, picked'[:200])}",
            f"model: {quoted(self.model)}",
            f"size: {self.size}",
            *self.settings,
        ]
        return "\n".join(lines)


def origin_of(view: RunView, folder: Path, model: str = "") -> Origin:
    """The Origin of a run, `model` its name where several are compared; where its recipe's text cannot be read, what
    its pictures tell.
    """
    written = _parsed(view.sessions[-1].recipe if view.sessions else "", view)
    size = _size(written.get("size")) or _unsaid_size(view)
    specs = written.get("edits")
    seeds = [
        written.get("seeds"),
        *(s.get("seeds") for s in (specs if isinstance(specs, list) else []) if isinstance(s, dict)),
    ]
    numbers = dict.fromkeys([DEFAULT_SEED, *(number for given in seeds for number in _per_photo(given))])
    recorded = view.sessions[-1].recipes if view.sessions else ()
    base = Path(recorded[-1].file).parent if recorded and recorded[-1].file else view.root.absolute()
    sizes = len({_size(_parsed(one.text, view).get("size")) for one in recorded}) > 1
    return Origin(
        view.plan.name, view.plan.model, size, folder, tuple(numbers),
        _settings(written, base, f"picked-{model}" if model else "picked"), sizes,
        _part(written, "output", Output, base).get("strength", 1.0), view.root.absolute(),
    )  # fmt: skip


def _unsaid_size(view: RunView) -> str:
    """What a recipe without a size means: an area where the run's model is at home at one, else the long side."""
    known = kept_defaults(view.root, view.spec.model)
    if known is not None and known.megapixels is not None:
        return f"{{megapixels: {known.megapixels!r}}}"
    return f"{{long_side: {max((max(edit.size) for edit in view.plan.edits), default=512)}}}"


def _parsed(text: str, view: RunView) -> dict[str, Any]:
    """What a recipe said; nothing where only an older version took it."""
    try:
        recipe, _ = parse_yaml(text, view.layout.folder)
    except RecipeError:
        return {}
    return recipe if isinstance(recipe, dict) else {}


def _settings(written: dict[str, Any], base: Path, folder: str) -> tuple[str, ...]:
    """The lines of `output`, for another folder, `metadata` and `safety`; paths in them become absolute."""
    lines = [f"output: {flow(_part(written, 'output', Output, base) | {'folder': folder})}"]
    metadata = _part(written, "metadata", Metadata, base)
    lines += [f"metadata: {flow(metadata)}"] if metadata else []
    return (*lines, *(["safety: off"] if str(written.get("safety")).lower() in ("off", "false", "no") else []))


def _part(written: dict[str, Any], name: str, part: type[BaseModel], base: Path) -> dict[str, Any]:
    """What a recipe says in one of its parts, but for defaults; nothing where only an older version took it."""
    with suppress(ValueError):
        return part.model_validate(written.get(name, {}), context=base).model_dump(mode="json", exclude_defaults=True)
    return {}


def _size(written: Any) -> str:
    sizes = written if isinstance(written, dict) else {"long_side": written}
    for key in ("long_side", "megapixels"):
        if isinstance(sizes.get(key), (int, float)) and not isinstance(sizes[key], bool):
            return f"{{{key}: {sizes[key]!r}}}"
    return ""


def _per_photo(written: Any) -> list[int]:
    numbers = written.get("per_photo") if isinstance(written, dict) else written
    if isinstance(written, list):  # seeds that every photo gets
        return []
    return [n for n in (numbers if isinstance(numbers, list) else [numbers]) if isinstance(n, int)]


def pick_of(chain: Sequence[Cell], origin: Origin) -> dict[str, str]:
    """What the report's script needs to write the last cell of `chain` (its links so far, in order) into a recipe.

    `folder` (absolute, for the recipe may be saved anywhere) and `glob` find its photo, `prefix` is what photo names
    begin with where there are several folders, `recipe` are the keys of its edit.
    """
    root, name = _root(chain[-1])
    size = f", size: {{long_side: {max(chain[-1].size)}}}" if origin.sizes else ""
    return {
        "folder": shown(absolute(root)), "prefix": exactly(root.resolve().name), "glob": exactly(name),
        "recipe": _edit(chain, origin.numbers) + size,
    }  # fmt: skip


def recipe_of(chain: Sequence[Cell], origin: Origin) -> str:
    """A recipe that asks for the last cell of `chain` (its links so far, in order) of its own photo alone."""
    cell, pick = chain[-1], pick_of(chain, origin)
    strength = "" if cell.strength == origin.strength else f", strength: {cell.strength!r}"
    photo = f"{pick['folder'].rstrip('/')}/{_root(cell)[1]}"
    lines = [origin.head(), "photos:", f"  - {quoted(photo)}", "edits:"]
    return "\n".join([*lines, f"  - {{id: {quoted(cell.edit)}, {pick['recipe']}{strength}}}"]) + "\n"


def _root(cell: Cell) -> tuple[Path, str]:
    """The folder that a photo's name is relative to, and the name in it."""
    path = cell.original or Path(cell.photo)
    parts = PurePosixPath(cell.photo).parts
    if path.parts[-len(parts) :] == parts or unicodedata.normalize("NFC", path.as_posix()).endswith("/" + cell.photo):
        return Path(*path.parts[: -len(parts)]), cell.photo
    return path.parent, unicodedata.normalize("NFC", path.name)


def _edit(chain: Sequence[Cell], numbers: Sequence[int]) -> str:
    cell = chain[-1]
    scales = f"text: {cell.guidance.text!r}, image: {cell.guidance.image!r}"
    if len(chain) == 1:
        words = f"instruction: {quoted(cell.instruction)}, {scales}{_region(cell)}"
    else:
        links = ", ".join(_link(link) for link in chain)
        words = f"chain: [{links}], keep: [{cell.link}], carry: {cell.carry}, {scales}"
    rest = f", negative: {quoted(cell.negative)}" if cell.negative else ""
    return f"{words}, seeds: {_seeds(chain, numbers)}, steps: {cell.steps}, sampler: {cell.sampler}{rest}"


def _seeds(chain: Sequence[Cell], numbers: Sequence[int]) -> str:
    """The number that the photo's own seeds were made from, so that one edit says it for many photos; else the seed."""
    for number in numbers:
        if all(cell.seed == photo_seed(number, cell.digest, cell.link) for cell in chain):
            return str(number)
    return f"[{chain[0].seed}]"


def _link(cell: Cell) -> str:
    scales = f"text: {cell.guidance.text!r}, image: {cell.guidance.image!r}"
    return f"{{instruction: {quoted(cell.instruction)}, {scales}{_region(cell)}}}"


def _region(cell: Cell) -> str:
    """Its region, and what it leaves as it is."""
    return "".join(f", {name}: {flow(said)}" for name, said in in_words(cell.region, cell.feather).items())
