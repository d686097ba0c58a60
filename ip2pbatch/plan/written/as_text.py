"""A Recipe as a file that asks for the same: a key a line, each folder and each edit a line of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ip2pbatch.disk.buckets.locations import shown
from ip2pbatch.plan.written.recipe import EditSpec, Recipe
from ip2pbatch.plan.written.slug import name_of

# JSON is YAML but for these characters, which YAML wants escaped.
_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")


def quoted(text: str) -> str:
    """`text` as a double-quoted scalar of YAML."""
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=False))


def flow(value: Any) -> str:
    """Data as YAML in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else value)


def recipe_text(recipe: Recipe, *, folder: str | None = None, head: Sequence[str] = ()) -> str:
    """The YAML of `recipe`, with absolute paths and without what is its default; `head` are lines of comment.

    `folder` is written for the output folder, as "." where the file is to lie in it.
    """
    data = {"name": recipe.name} | recipe.model_dump(mode="json", exclude_defaults=True)  # a file's name is its default
    data["edits"] = [*map(_edit, recipe.edits)]
    data["output"] = {"folder": folder or shown(recipe.output.folder)} | _without(data.get("output", {}), "folder")
    lines = [f"# {line}" for line in head]
    for key, value in data.items():
        lines += [f"{key}:", *_items(value)] if key in ("photos", "edits") else [f"{key}: {flow(value)}"]
    return "\n".join(lines) + "\n"


def _items(values: Sequence[Any]) -> Iterator[str]:
    return (f"  - {flow(value)}" for value in values)


def _edit(spec: EditSpec) -> Any:
    """As a person would write it: a lone instruction is one, and has a name only where that is not made from it."""
    data = spec.model_dump(mode="json", exclude_defaults=True)
    words = [link.instruction for link in spec.chain]
    named = {} if spec.id == name_of(words) else {"id": spec.id}
    rest = {key: value for key, value in data.items() if key not in ("id", "chain", "keep")}
    if len(spec.chain) > 1 or len(data["chain"][0]) > 1:
        return named | {"chain": data["chain"], "keep": data["keep"]} | rest
    return named | {"instruction": words[0]} | rest if named or rest else words[0]


def _without(data: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name != key}
