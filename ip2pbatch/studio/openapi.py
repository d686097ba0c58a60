"""The OpenAPI schema, made of the table of routes: what is not served is not in it, and what is served is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from ip2pbatch import __version__
from ip2pbatch.studio.messages import Refused
from ip2pbatch.studio.tables import JSON, Endpoint

_REFS = "#/components/schemas/{model}"
_ERRORS = {
    "401": "no token", "403": "a request from elsewhere", "404": "nothing there", "409": "another process writes",
    "413": "too large", "415": "a file or body of another kind", "422": "wrong in what it says",
    "503": "not possible at the moment",
}  # fmt: skip


def schema(endpoints: Sequence[Endpoint[Any]]) -> dict[str, Any]:
    """All of it, as JSON data."""
    wanted = [pair for one in endpoints for pair in _models(one)] + [(Refused, "serialization")]
    refs, components = models_json_schema([*dict.fromkeys(wanted)], ref_template=_REFS)
    paths: dict[str, dict[str, Any]] = {}
    for one in endpoints:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, refs)
    return {
        "openapi": "3.1.0",
        "info": {"title": "ip2pbatch studio", "version": __version__},
        "paths": paths,
        "security": [{"token": []}],
        "components": {
            "schemas": components["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }  # fmt: skip


def _models(one: Endpoint[Any]) -> Iterator[tuple[type[BaseModel], JsonSchemaMode]]:
    if one.body is not None:
        yield one.body, "validation"
    if one.reply is not None:
        yield one.reply, "serialization"


def _operation(one: Endpoint[Any], refs: Mapping[Any, dict[str, Any]]) -> dict[str, Any]:
    said: dict[str, Any] = {"operationId": one.name, "summary": one.summary, "parameters": [*_parameters(one)]}
    if one.body is not None:
        schema = refs[one.body, "validation"]
        required = any(field.is_required() for field in one.body.model_fields.values())
        said["requestBody"] = {"required": required, "content": {JSON: {"schema": schema}}}
    if one.takes:
        binary = {"schema": {"type": "string", "format": "binary"}}
        said["requestBody"] = {"required": True, "content": {"application/octet-stream": binary}}
    content = (
        {JSON: {"schema": refs[one.reply, "serialization"]}} if one.reply is not None else
        {kind: {"schema": {"type": "string", "format": "binary"}} for kind in one.media}
    )  # fmt: skip
    refused = {JSON: {"schema": refs[Refused, "serialization"]}}
    said["responses"] = {str(one.status): {"description": one.summary, "content": content}} | {
        code: {"description": why, "content": refused} for code, why in _ERRORS.items()
    }
    if "if-none-match" in one.listens:
        said["responses"]["304"] = {"description": "as it was"}
    return said


def _parameters(one: Endpoint[Any]) -> Iterator[dict[str, Any]]:
    for name, pattern in (one.places or {}).items():
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", "pattern": pattern}}
    if one.query is not None:
        for name, schema in one.query.model_json_schema()["properties"].items():
            yield {"name": name, "in": "query", "required": False, "schema": schema}
    for name in one.listens:
        yield {"name": name, "in": "header", "required": False, "schema": {"type": "string"}}
