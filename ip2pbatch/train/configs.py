"""A stage's config file, read and checked with all that it builds on: what is wrong in it is named with its place.

A config is YAML: `stage:` and `maker:` name a module of `STAGES` (the first maker where none is named), `inputs:` other
configs, the rest is the module's own `Config`. Every path in it, a model's too, is read from the config's own folder.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel

from ip2pbatch.errors import RecipeError
from ip2pbatch.plan.written.addresses import HINT, hub_hint, is_address
from ip2pbatch.plan.written.yaml_source import Locator, read_yaml, suggest, validate
from ip2pbatch.train.model_names import HubSet, ModelName, beside, set_beside
from ip2pbatch.train.stage import Stage

# Stage → maker → a module with a STAGE (see stage.py). A maker is a module and a line here.
STAGES: dict[str, dict[str, str]] = {
    "captions": {
        "template": "ip2pbatch.train.captions.wordings_stage",
        "finetune": "ip2pbatch.train.captions.finetune",
        "generate": "ip2pbatch.train.captions.generate",
    },
    "tokenizer": {"clip": "ip2pbatch.train.fit.tokenizer"},
    "pairs": {
        "procedural": "ip2pbatch.train.pairs.procedural",
        "prompt_to_prompt": "ip2pbatch.train.pairs.prompt_to_prompt.pair_stage",
    },
    "autoencoder": {"dc": "ip2pbatch.train.fit.autoencoder"},
    "scores": {"clip": "ip2pbatch.train.pairs.scores"},
    "filter": {"clip": "ip2pbatch.train.pairs.filter"},
    "pack": {"latents": "ip2pbatch.train.data.pack_latents", "pictures": "ip2pbatch.train.data.pack_pictures"},
    "finetune": {
        "scratch": "ip2pbatch.train.fit.scratch",
        "stable_diffusion": "ip2pbatch.train.fit.stable_diffusion",
        "distill": "ip2pbatch.train.fit.students.distill",
    },
    "evaluate": {
        "families": "ip2pbatch.train.judge.unseen",
        "tradeoff": "ip2pbatch.train.judge.tradeoff",
        "magicbrush": "ip2pbatch.train.judge.magicbrush",
        "imgedit": "ip2pbatch.train.judge.benchmarks.imgedit",
        "gedit": "ip2pbatch.train.judge.benchmarks.gedit",
        "emu_edit": "ip2pbatch.train.judge.benchmarks.emu_edit",
    },
}


NAMED = (BaseModel, Path, ModelName, HubSet)  # what a list of settings is looked into for


@dataclass(frozen=True)
class StageConfig:
    """A config file read and checked, with the configs it builds on; `places` knows where in the file its keys are."""

    path: Path
    stage: str
    code: str  # the module's name
    settings: BaseModel
    places: Locator = field(repr=False, compare=False)
    inputs: Mapping[str, StageConfig] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The file's name without its suffix: what the stage's folder is called."""
        return self.path.stem

    @property
    def module(self) -> Stage:
        """The stage itself."""
        return stage_of(self.code)

    def sources(self) -> Iterator[tuple[tuple[str | int, ...], Path | ModelName | HubSet]]:
        """Every path, data set and model that the stage reads and that is none of its inputs, by where it is named."""
        idle = self.module.idle(self.settings)
        for at, value in values_of(self.settings):
            read = isinstance(value, Path | HubSet) or (isinstance(value, ModelName) and value not in self.inputs)
            if read and at[0] not in idle:
                yield at, value

    def mistake(self, why: str, at: tuple[str | int, ...], hint: str | None = None) -> RecipeError:
        """An error at one of its keys."""
        line, column = self.places(at, of_key=True)
        key = ".".join(map(str, at))
        return RecipeError(why, file=self.path, line=line, column=column, key=key, hint=hint)


def stage_of(code: str) -> Stage:
    """What the module of that name says of itself."""
    return cast(Stage, importlib.import_module(code).STAGE)


def load_config(path: Path, _open: tuple[Path, ...] = ()) -> StageConfig:
    """Read a config and all that it builds on. Raises RecipeError with the place of the mistake."""
    path = path.resolve()
    data, locate = read_yaml(path)
    if path in _open:
        raise RecipeError("is its own input", file=path, hint="inputs must not form a circle")
    if not isinstance(data, dict) or data.get("stage") not in STAGES:
        found = data.get("stage") if isinstance(data, dict) else None
        line, column = locate(["stage"]) if isinstance(data, dict) and "stage" in data else (1, 1)
        hint = suggest(str(found), list(STAGES)) or f"stages are {', '.join(STAGES)}"
        raise RecipeError(f"{found!r} is not a stage", file=path, line=line, column=column, key="stage", hint=hint)
    stage, named = data.pop("stage"), data.pop("inputs", None) or {}
    if not isinstance(named, dict):
        line, column = locate(["inputs"])
        raise RecipeError(
            "must map a stage to a config", file=path, line=line, column=column, key="inputs", hint="pairs: pairs.yaml"
        )
    code = module_of(stage, data, path, locate)
    settings = validate(stage_of(code).config, data, locate)
    refuse_addresses(settings, named, path, locate)
    inputs = {name: load_config(path.parent / str(file), (*_open, path)) for name, file in named.items()}
    config = StageConfig(path, stage, code, with_paths_beside(settings, path.parent, inputs), locate, inputs)
    refuse_what_does_not_fit(config)
    return config


def refuse_addresses(settings: BaseModel, inputs: Mapping[str, Any], path: Path, locate: Locator) -> None:
    """Raise RecipeError where a path, a model or an input of the config at `path` is written like an address."""
    written = dict(values_of(settings, whole=True))
    written |= {("inputs", name): Path(str(file)) for name, file in inputs.items()}
    for at, value in written.items():
        if not isinstance(value, Path | ModelName) or not is_address(str(value)):
            continue
        kind, hint = ("path", HINT) if isinstance(value, Path) else ("model", hub_hint(value))
        (line, column), key = locate(at, of_key=True), ".".join(map(str, at))
        said = f"{str(locate.given(at))!r} is an address and no {kind}"
        raise RecipeError(said, file=path, line=line, column=column, key=key, hint=hint)


def refuse_what_does_not_fit(config: StageConfig) -> None:
    """Raise the first thing that the stage says cannot be in its settings beside these inputs, the others with it."""
    kinds = {name: one.stage for name, one in config.inputs.items()}
    found = [config.mistake(one.why, one.at, one.hint) for one in config.module.check(config.settings, kinds)]
    if found:
        found[0].more = tuple(found[1:])
        raise found[0]


def module_of(stage: str, data: dict[str, Any], path: Path, locate: Callable[..., tuple[int, int]]) -> str:
    """The module of a stage's maker, the first where the config names none; `maker` stays only where Config has it."""
    makers = STAGES[stage]
    maker = data.get("maker", next(iter(makers)))
    if maker not in makers:
        line, column = locate(["maker"])
        hint = suggest(str(maker), list(makers)) or f"{stage} can be made by {', '.join(makers)}"
        said = f"{maker!r} is no way to make {stage}"
        raise RecipeError(said, file=path, line=line, column=column, key="maker", hint=hint)
    if "maker" not in stage_of(makers[maker]).config.model_fields:
        data.pop("maker", None)
    return makers[maker]


def with_paths_beside(settings: BaseModel, folder: Path, inputs: Mapping[str, Any]) -> BaseModel:
    """The settings with every relative path, those of models too, read from the config's own folder."""

    def placed(value: Any) -> Any:
        if isinstance(value, ModelName):
            return beside(value, folder, inputs)
        if isinstance(value, HubSet):
            return set_beside(value, folder)
        return (folder / value.expanduser()).resolve() if isinstance(value, Path) else value

    return cast(BaseModel, with_values(settings, placed))


def with_values(settings: Any, change: Callable[[Any], Any]) -> Any:
    """The settings with every single value in them, however deep, as `change` makes it."""
    if isinstance(settings, BaseModel):
        made = {name: with_values(value, change) for name, value in settings}
        return settings.model_copy(update={name: made[name] for name, value in settings if made[name] is not value})
    if isinstance(settings, tuple | list):
        parts = [with_values(value, change) for value in settings]
        return settings if all(new is old for new, old in zip(parts, settings, strict=True)) else type(settings)(parts)
    if isinstance(settings, dict):
        return {name: with_values(value, change) for name, value in settings.items()}
    return change(settings)


def values_of(
    settings: Any, at: tuple[str | int, ...] = (), *, whole: bool = False
) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every single value in the settings that decides a result, with where it is; what is excluded decides none, and
    is there where the `whole` is asked for."""
    if isinstance(settings, BaseModel):
        fields = type(settings).model_fields
        for name, value in settings:
            if whole or not fields[name].exclude:
                yield from values_of(value, (*at, name), whole=whole)
    elif isinstance(settings, tuple | list) and any(isinstance(one, NAMED) for one in settings):
        for number, value in enumerate(settings):
            yield from values_of(value, (*at, number), whole=whole)
    elif isinstance(settings, dict):
        for name, value in settings.items():
            yield from values_of(value, (*at, name), whole=whole)
    else:
        yield at, settings


def in_order(config: StageConfig) -> Iterator[StageConfig]:
    """The config and all that it builds on, inputs first, each once."""
    seen: set[Path] = set()

    def visit(one: StageConfig) -> Iterator[StageConfig]:
        if one.path in seen:
            return
        seen.add(one.path)
        for needed in one.inputs.values():
            yield from visit(needed)
        yield one

    yield from visit(config)
