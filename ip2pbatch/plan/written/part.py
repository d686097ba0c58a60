"""What every part of a recipe has in common: how it is checked, and how a path in it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, ValidationInfo, WithJsonSchema

from ip2pbatch.disk.buckets.locations import LocationError, is_object, read_location, shown
from ip2pbatch.plan.written.addresses import is_address, unfit
from ip2pbatch.plan.written.yaml_source import Mistake


def _path(value: Any, info: ValidationInfo) -> Any:
    """A path as written → absolute, relative ones from the recipe's folder (the validation context)."""
    if not isinstance(value, (str, Path)) or not str(value).strip():
        raise Mistake("should be a path", hint="./photos, for example")
    if is_address(str(value)):
        why, hint = unfit(str(value), repr(str(value)))
        raise Mistake(why, hint=hint)
    if "\0" in str(value):
        raise Mistake("a path cannot hold a NUL character", hint="remove it")
    base = info.context if isinstance(info.context, Path) else Path.cwd()
    return Path(normalised(base / Path(value).expanduser()))


def _path_or_location(value: Any, info: ValidationInfo) -> Any:
    """The same where a bucket may stand: s3://bucket/prefix, gs:// or az://."""
    if not isinstance(value, (str, Path)) or not is_object(value):
        return _path(value, info)
    try:
        return read_location(str(value))
    except LocationError as error:  # which says nothing of what may be a secret
        raise Mistake(str(error), hint=error.hint) from None


def normalised(path: Path) -> str:
    """The path without `..` and double slashes, links not followed."""
    import os.path  # normpath has no pathlib form: it takes `..` away without asking the disk

    return os.path.normpath(path)


_TEXT = WithJsonSchema({"type": "string", "minLength": 1})
RecipePath = Annotated[Path, BeforeValidator(_path), _TEXT]
PathOrLocation = Annotated[
    Path, BeforeValidator(_path_or_location), PlainSerializer(shown, return_type=str, when_used="json"), _TEXT
]


class Written(BaseModel):
    """What every part of a recipe has in common: frozen, and an unknown key is an error."""

    # Built once, inside Recipe, at its first use: half the start-up time of every command.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, serialize_by_alias=True)
