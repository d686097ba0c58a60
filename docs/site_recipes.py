"""The recipes on the documentation site, each with its text and a sheet by the embedded model, and all their keys.

The embedded model has scales and a size of its own, and knows light, colour, weather, material and medium only: of a
recipe it is given the instructions whose words it was taught, at its own scales.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from ip2pbatch import jobs
from ip2pbatch.plan.written.schema import schema as schema_of_recipes
from ip2pbatch.plan.written.taught import taught_by

ROOT = Path(__file__).parent.parent
RUNS = ROOT / "build/recipes"
PHOTOS = ROOT / "build/photos"
SHOWN = ["travel/china.jpg", "coffee.jpg"]
ALONE = ("chain", "grid")  # recipes that say enough over one photo
# The embedded model's own range of scales, for the recipe that is about scales.
GRID = {"text": [1, 1.4, 2], "image": [1, 1.3]}
WIDTH, QUALITY = 900, 84
TYPES = {
    "integer": "a whole number", "number": "a number", "string": "text", "object": "a mapping",
    "boolean": "true or false", "array": "a list",
}  # fmt: skip
HEAD = ("| key | takes | otherwise | what it says |", "|---|---|---|---|")


def gallery(folder: Path) -> str:
    """The sections of all recipes, whose pictures are written into `folder`."""
    return "".join(section(path, folder) for path in sorted((ROOT / "recipes").glob("*.yaml")) if path.stem != "demo")


def section(path: Path, folder: Path) -> str:
    """One recipe: what it is for, its sheet where the embedded model knows any of it, and its text."""
    text = path.read_text("utf-8")
    about = " ".join(line.lstrip("# ") for line in re.match(r"((?:#.*\n)*)", text)[0].splitlines())
    wanted = embedded(path)
    picture = "The embedded model was never taught any of this, so there is no picture here: it takes the real one."
    if wanted["edits"]:
        (folder / f"recipe-{path.stem}.jpg").write_bytes(sheet(wanted))
        picture = f"![What the {path.stem} recipe makes](recipe-{path.stem}.jpg)\n\n{shown(wanted, path)}"
    return f"\n## {path.stem}\n\n{about}\n\n{picture}\n\n```yaml\n{text[text.index('name:') :]}```\n"


def shown(wanted: dict[str, Any], path: Path) -> str:
    """What a picture shows of a recipe."""
    every = len(yaml.safe_load(path.read_text("utf-8"))["edits"])
    part = f", {len(wanted['edits'])} of {every} edits" if len(wanted["edits"]) < every else ""
    return f"*Made by the embedded model at its own scales and size{part}.*"


def embedded(path: Path) -> dict[str, Any]:
    """What the embedded model is given of a recipe."""
    recipe = yaml.safe_load(path.read_text("utf-8"))
    taught = taught_by("tiny")
    assert taught is not None
    edits = []
    for edit in recipe["edits"]:
        words = links_of(edit)
        if not any(taught.unlike(one) for one in words):
            name = {"id": edit["id"]} if isinstance(edit, dict) else {}
            kept = {key: edit[key] for key in ("region", "strength") if isinstance(edit, dict) and key in edit}
            edits.append(
                name | kept | ({"chain": words, "keep": "all"} if len(words) > 1 else {"instruction": words[0]})
            )
    photos = {"folder": str(PHOTOS), "include": SHOWN[:1] if path.stem in ALONE else SHOWN}
    given = {"name": path.stem, "model": "tiny", "photos": photos, "edits": edits,
             "seeds": [1371], "output": {"folder": str(RUNS / path.stem), "full_resolution": "off"}}  # fmt: skip
    return given | ({"guidance": GRID} if path.stem == "grid" else {})


def links_of(edit: Any) -> list[str]:
    """The instructions of one entry of `edits`, in their order."""
    if isinstance(edit, str):
        return [edit]
    links = edit.get("chain", [edit])
    return [one if isinstance(one, str) else one["instruction"] for one in links]


def sheet(wanted: dict[str, Any]) -> bytes:
    """A JPEG of the first contact sheet of a recipe's run, of which only what is missing is made."""
    RUNS.mkdir(parents=True, exist_ok=True)
    recipe = RUNS / f"{wanted['name']}.yaml"
    recipe.write_text(yaml.safe_dump(wanted, sort_keys=False), encoding="utf-8")
    outcome = jobs.run(recipe)
    assert outcome.exit_code == 0, outcome.summary
    page = min(jobs.sheet(recipe, cell=256), key=lambda one: not one.name.startswith(("grid", "chain")))
    data = io.BytesIO()
    with Image.open(page) as opened:
        small = opened.convert("RGB")
        small.thumbnail((WIDTH, 4 * WIDTH), Image.Resampling.LANCZOS)
        small.save(data, "JPEG", quality=QUALITY, optimize=True, progressive=True)
    return data.getvalue()


def keys() -> str:
    """A page of every key that a recipe may have, from its JSON Schema."""
    schema = schema_of_recipes()
    parts = ["# What a recipe may say\n\n`ip2pbatch schema` prints it as a JSON Schema, for completion in an editor.\n"]
    parts.append(table("A recipe", schema | {"description": "What pictures should exist."}, schema["$defs"]))
    parts += [table(name.removesuffix("Spec"), one, schema["$defs"]) for name, one in schema["$defs"].items()]
    return "\n".join(parts)


def called(schema: dict[str, Any]) -> str:
    """The name of a mapping that a schema refers to, as its heading has it."""
    return str(schema["$ref"]).rpartition("/")[2].removesuffix("Spec")


def table(name: str, schema: dict[str, Any], mappings: dict[str, Any]) -> str:
    """One mapping's keys, and what may stand in its place; `mappings` are all of them."""
    forms = schema.get("anyOf", [schema])
    keys = {key: one for form in forms for key, one in form.get("properties", {}).items()}
    rows = [f"| `{key}` | {kind(one)} | {default(one)} | {cell(about(one, mappings))} |" for key, one in keys.items()]
    instead = [kind(form) for form in forms if "properties" not in form]
    parts = [f"## {name}", schema.get("description", "").replace("; None is the model's default", "")]
    if instead:
        parts.append(f"In the place of a mapping: {' or '.join(dict.fromkeys(instead))}.")
    return "\n\n".join([*parts, "\n".join([*HEAD, *rows])]) + "\n"


def about(schema: dict[str, Any], mappings: dict[str, Any]) -> str:
    """What a key says: its own description, or the first sentence of the mapping that it holds."""
    if "description" in schema or "$ref" not in schema:
        return str(schema.get("description", ""))
    sentence = str(mappings[schema["$ref"].rpartition("/")[2]].get("description", "")).partition(". ")[0]
    return sentence.partition(";")[0].rstrip(".")


def kind(schema: dict[str, Any]) -> str:
    """What a value may be, in a few words."""
    if "$ref" in schema:
        name = called(schema)
        return f"[{name}](#{name.lower()})"
    if "enum" in schema:
        return ", ".join(f"`{yaml.safe_dump(one).splitlines()[0]}`" for one in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(kind(one) for one in schema["anyOf"] if one.get("type") != "null"))
    if schema.get("type") == "array":
        return f"a list of {kind(schema['items'])}" if "items" in schema else "a list"
    types = [schema["type"]] if isinstance(schema.get("type"), str) else schema.get("type", ["anything"])
    bounds = [f"{sign} {schema[word]}" for word, sign in (("minimum", "≥"), ("maximum", "≤")) if word in schema]
    return " ".join([" or ".join(TYPES.get(one, one) for one in types), *bounds])


def default(schema: dict[str, Any]) -> str:
    """What a key is where it is not written."""
    value = schema.get("default")
    if isinstance(value, list):
        return " ".join(f"`{one}`" for one in value)
    return "" if value is None else f"`{cell(str(value).lower() if isinstance(value, bool) else str(value))}`"


def cell(text: str) -> str:
    """A text that does not end a table's cell."""
    return text.replace("|", "\\|").replace("\n", " ")
