"""The JSON Schema of recipes, with the shorthands that YAML allows, for completion and checking in an editor."""

from __future__ import annotations

from typing import Any

from ip2pbatch.plan.written.recipe import DEFAULT_SEED, Recipe

_SEED = {"type": "integer", "minimum": 0}
_SEEDS = {"type": "array", "items": _SEED, "minItems": 1}
_LINKS = {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/Link"}}


def schema() -> dict[str, Any]:
    """What `load_recipe` accepts, as JSON Schema 2020-12. Rules between keys (pairs, ids, kept links) are not in it."""
    made = Recipe.model_json_schema()
    parts = made["$defs"]
    parts["EditSpec"] = _edit(parts["EditSpec"])
    parts["PhotoFolder"] = _or(_photos(parts["PhotoFolder"]), {"type": "string", "minLength": 1})
    parts["Link"] = _or(parts["Link"], {"type": "string", "minLength": 1})
    parts["Compared"]["required"] = ["model"]
    parts["Compared"] = _or(parts["Compared"], {"type": "string", "minLength": 1})
    parts["Size"] = _or(_exactly_one(parts["Size"]), {"type": "integer", "minimum": 16})
    for part in ("Where", "Protected"):
        parts[part] = _or(parts[part], {"type": "string", "minLength": 1})
    seeds = _exactly_one(parts["Seeds"])
    for key in seeds["properties"]:
        seeds["properties"][key] = _or(_SEEDS | {"description": seeds["properties"][key]["description"]}, _SEED)
    parts["Seeds"] = _or(seeds, _SEED, _SEEDS)
    said = made["properties"]["compare"]["description"]
    for key, item in (("photos", "PhotoFolder"), ("edits", "EditSpec"), ("compare", "Compared")):
        one = {"$ref": f"#/$defs/{item}"}
        made["properties"][key] = {"anyOf": [one, {"type": "array", "minItems": 1, "items": one}]}
    made["properties"]["compare"]["description"] = said
    made["properties"]["photos"]["description"] = "a folder or a photo, a mapping, or a list of them"
    made["properties"]["edits"]["description"] = "instructions, mappings and chains"
    made["properties"] |= _overlays()
    made["properties"]["seeds"]["default"] = DEFAULT_SEED
    made["properties"]["safety"] = {"enum": ["on", "off", True, False], "description": "the model's safety checker"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_without_titles(made), "title": "Recipe"}


def _overlays() -> dict[str, Any]:
    """What is laid over the model, which becomes part of its own text."""
    path = {"type": "string", "minLength": 1}
    keys = {"path": path, "scale": {"type": "number", "default": 1}}
    one = {"anyOf": [path, {"type": "object", "properties": keys, "required": ["path"], "additionalProperties": False}]}
    lora = {"anyOf": [*one["anyOf"], {"type": "array", "items": one, "maxItems": 16}]}
    return {
        "lora": lora | {"description": "LoRAs that are added to the model's weights, each with its scale"},
        "vae": path | {"description": "an autoencoder in the place of the model's: folder, file or hub id"},
    }


def _edit(part: dict[str, Any]) -> dict[str, Any]:
    """A string, a list (a chain), or a mapping with either an instruction or a chain."""
    keys = part["properties"] | {
        "instruction": {"type": "string", "minLength": 1, "description": "what to do, in words"},
        "chain": _LINKS | {"description": "instructions one after another"},
        "keep": {
            "description": "which links are delivered: all, last, or their numbers from 1",
            "anyOf": [{"enum": ["all", "last"]}, {"type": "integer", "minimum": 1}, _SEEDS],
        },
    }
    keys["photos"] = {
        "description": keys["photos"]["description"],
        "type": ["string", "array"], "items": {"type": "string"}, "minItems": 1,
    }  # fmt: skip
    single = {key: value for key, value in keys.items() if key not in ("chain", "keep", "carry")}
    chain = {key: value for key, value in keys.items() if key != "instruction"}
    return {
        "description": part["description"],
        "anyOf": [
            {"type": "string", "minLength": 1},
            _LINKS,
            _mapping(single, "instruction"),
            _mapping(chain, "chain"),
        ],
    }


def _mapping(properties: dict[str, Any], required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [required], "additionalProperties": False}


def _photos(part: dict[str, Any]) -> dict[str, Any]:
    """A folder or a manifest, or a manifest with the folder of its photos; a glob may stand alone."""
    for key in ("include", "exclude"):
        glob = {"type": "string"}
        part["properties"][key] |= {"type": ["string", "array"], "items": glob}
    part["anyOf"] = [{"required": part.pop("required")}, {"required": ["manifest"]}]
    return part


def _exactly_one(part: dict[str, Any]) -> dict[str, Any]:
    return part | {"minProperties": 1, "maxProperties": 1}


def _or(part: dict[str, Any], *shorthands: dict[str, Any]) -> dict[str, Any]:
    """`part` or one of its shorthands; its description stays where editors look for it."""
    return {"description": part.get("description", ""), "anyOf": [*shorthands, part]}


def _without_titles(part: Any) -> Any:
    """Pydantic titles every property with its own name, which editors would show instead of the description."""
    if isinstance(part, list):
        return [_without_titles(item) for item in part]
    if not isinstance(part, dict):
        return part
    return {key: _without_titles(value) for key, value in part.items() if key != "title" or not isinstance(value, str)}
