"""The models that a recipe names, and those that it compares: where they lie, what each is called and asked for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from ip2pbatch.errors import ModelError
from ip2pbatch.plan.defaults import EMBEDDED, FILES, is_file
from ip2pbatch.plan.editors.composed import Composed, Lora, brief, composed
from ip2pbatch.plan.written.addresses import hub_hint, is_address
from ip2pbatch.plan.written.choices import Sampler
from ip2pbatch.plan.written.part import Written, normalised
from ip2pbatch.plan.written.ranges import NUMBERS_SCHEMA, Size, Steps, read_numbers
from ip2pbatch.plan.written.yaml_source import Mistake

MOST_NAME = 60
# What stands beside the models' folders.
_TAKEN = ("sheets", "report.html", "report_files", "recipe.yaml")


def _read(value: Any) -> Any:
    return value if value == "default" else read_numbers(value)


OwnScales = Annotated[
    tuple[float, ...] | Literal["default"], BeforeValidator(_read),
    WithJsonSchema({"anyOf": [{"const": "default"}, *NUMBERS_SCHEMA["anyOf"]]}),
]  # fmt: skip


class Compared(Written):
    """One of the models that are compared. Scales, steps, sampler and size are its own where its family has others than
    the recipe has.
    """

    model: Annotated[str, Field(min_length=1, max_length=1000)] = Field(
        description="hub id (@revision pins it), folder, or tiny"
    )
    name: Annotated[str, Field(min_length=1, max_length=MOST_NAME)] = Field(
        description="its folder's name, and what sheets call it"
    )
    text: OwnScales | None = Field(
        default=None, description="its own text scales, or default, the model's; guidance is not for it then"
    )
    image: OwnScales | None = Field(
        default=None, description="its own image scales, or default, the model's; guidance is not for it then"
    )
    steps: Steps | None = Field(default=None, description="its own step count")
    sampler: Sampler | None = Field(default=None, description="its own sampler; model: the one that it brings")
    size: Size | None = Field(default=None, description="the size that it works at")

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        value = {"model": value} if isinstance(value, str) else value
        if not isinstance(value, dict):
            raise Mistake("a compared model is its name or a mapping", hint="compare: [tiny, {model: klein, text: 1}]")
        model = value.get("model")
        return {"name": short_name(model)} | value if isinstance(model, str) and model else value

    @model_validator(mode="after")
    def _folder(self) -> Compared:
        if (fit := _fit(self.name)) != self.name:
            raise Mistake(f"{self.name!r} cannot be a folder's name everywhere", hint=f"name: {fit}", at=("name",))
        if self.name.casefold() in _TAKEN:
            hint = "give it a name: {model: …, name: another}"
            raise Mistake(f"{self.name} is taken: what joins the models is called that", hint=hint, at=("name",))
        return self


def short_name(model: str) -> str:
    """What a model's folder is called: the last part of a path or hub id, without revision and a file's ending, and
    what is laid over it.
    """
    own, plus, over = brief(model).partition(" + ")
    return _fit(f"{_last(own)}-{over}" if plus else _last(model))


def _last(model: str) -> str:
    text = Path(model if Path(model).is_absolute() else model.partition("@")[0]).name
    return next((text[: -len(end)] for end in FILES if text.casefold().endswith(end)), text)


def _fit(text: str) -> str:
    """`text` as a folder's name that every system takes."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-._")[:MOST_NAME] or "model"


def refuse_clashes(compared: tuple[Compared, ...]) -> tuple[Compared, ...]:
    """`compared`, where no two have one folder. Raises Mistake."""
    seen: dict[str, int] = {}
    for place, one in enumerate(compared):
        first = seen.setdefault(one.name.casefold(), place)
        if first != place:
            other, hint = compared[first], f"name one of them: {{model: {one.model}, name: {one.name}-2}}"
            if other == one:
                raise Mistake(f"{one.model} is there twice", hint="remove one of them", at=(place,))
            raise Mistake(f"{other.model} and {one.model} would both be called {one.name}", hint=hint, at=(place,))
    return compared


def with_path(compared: Any, place: int, base: Path) -> Any:
    """One of the models that are compared, with its path."""
    if isinstance(compared, str):
        return model_path(compared, base, ("compare", place))
    if isinstance(compared, dict) and isinstance(compared.get("model"), str):
        return compared | {"model": model_path(compared["model"], base, ("compare", place, "model"))}
    return compared


def model_path(name: str, base: Path, at: tuple[str | int, ...] = ("model",)) -> str:
    """A model that is a folder beside the recipe, a file or written like a path becomes absolute; hub ids stay. So does
    what is laid over it.
    """
    try:
        found = composed(name)
    except ModelError as error:
        raise Mistake(str(error), hint=error.hint or "", at=at) from error
    loras = tuple(Lora(_one_path(lora.path, base, at), lora.scale) for lora in found.loras)
    vae = _one_path(found.vae, base, at) if found.vae else ""
    return str(Composed(_one_path(found.base, base, at), loras, vae))


def _one_path(name: str, base: Path, at: tuple[str | int, ...]) -> str:
    if is_address(name):
        raise Mistake(f"{name!r} is an address and no model", hint=hub_hint(name), at=at)
    path = base / Path(name).expanduser()
    written = name.startswith(("./", "../", "/", "~"))
    return normalised(path) if written or is_file(name) or (name not in EMBEDDED and path.is_dir()) else name
