"""What can be known to go wrong before a chain begins: missing data and models, and a disk that is too small."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from ip2pbatch.backends import hub
from ip2pbatch.errors import Ip2pError, ModelError, ResourceError
from ip2pbatch.plan.defaults import EMBEDDED
from ip2pbatch.plan.written.yaml_source import suggest
from ip2pbatch.train.configs import StageConfig
from ip2pbatch.train.estimates import is_sdxl
from ip2pbatch.train.model_names import HubSet, ModelName, commit_of, meant_as_path

Place = tuple[str | int, ...]


def problems(configs: Iterable[StageConfig]) -> list[Ip2pError]:
    """All that is missing for these stages, in their order: a RecipeError at its key, or a ModelError of the hub's."""
    return [problem for config in configs for problem in problems_of(config)]


def problems_of(config: StageConfig) -> Iterator[Ip2pError]:
    """The same of one stage."""
    for at, value in config.sources():
        if isinstance(value, ModelName):
            yield from problem_of_model(config, at, value)
        elif isinstance(value, HubSet):
            try:
                hub.look_up_data(*value.hub)
            except ModelError as error:
                yield ModelError(f"{config.mistake(str(error), at, error.hint)}", hint=error.hint)
        elif not value.exists():
            yield config.mistake(f"there is nothing at {value}", at, hint_at(value, config))
    if config.stage == "evaluate":
        yield from sdxl_to_evaluate(config)


def sdxl_to_evaluate(config: StageConfig) -> Iterator[Ip2pError]:
    """An evaluation edits with its models, and by InstructPix2Pix alone: said before an SDXL is trained for weeks."""
    named = [(at, value) for at, value in config.sources() if isinstance(value, ModelName)]
    for name, one in config.inputs.items():
        starts = [value for at, value in one.sources() if isinstance(value, ModelName) and at == ("start",)]
        named += [(("inputs", name), value) for value in starts]
    for at, value in named:
        if is_sdxl(value):
            hint = "edit with `ip2pbatch run`, and judge the pictures with `method: folder`, or `generated: FOLDER`"
            yield config.mistake(f"{value} is an SDXL model, with which no evaluation edits yet", at, hint)


def problem_of_model(config: StageConfig, at: Place, name: ModelName) -> Iterator[Ip2pError]:
    """What is wrong with a model's name, if anything."""
    folder = config.path.parent
    if name in EMBEDDED:
        return
    if name.is_path:
        if not Path(name).exists():
            yield config.mistake(f"there is no model at {name}", at, hint_at(Path(name), config))
    elif not name.is_hub_id:
        said = f"{name} is no input, no folder beside the config and no model of the hub"
        hint = suggest(name, list(config.inputs)) or "give a folder, such as ./models/name, or owner/name of the hub"
        yield config.mistake(said, at, hint)
    elif "@" not in name and Path(name).exists():
        hint = "paths are read from the config's folder: write where it lies from there"
        yield config.mistake(f"{name} is a folder where the command runs, and none beside the config", at, hint)
    elif "@" not in name and (meant := meant_as_path(name, folder)):
        hint = f"there is no {meant}; if a model of the hub is meant, name its revision: {name}@main"
        yield config.mistake(f"{name} could be a path that is missing, and is not taken for a model", at, hint)
    elif commit_of(name) is None:
        try:
            hub.look_up(*name.hub)
        except ModelError as error:
            yield ModelError(str(config.mistake(str(error), at, error.hint)), hint=error.hint)


def unchecked(configs: Iterable[StageConfig]) -> list[str]:
    """What these stages name and nobody looked at, as the hub cannot be asked: models that are not on this machine, and
    data sets. Whether it has them, and gives them to this user, a run finds out."""
    found = {}
    for config in configs:
        for at, value in config.sources():
            if isinstance(value, ModelName) and any(problem_of_model(config, at, value)):
                continue  # told of, and perhaps no model of the hub at all
            if is_unreachable(value):
                found[value] = f"{config.path.name}: {'.'.join(map(str, at))}: {value} is not checked: no network"
    return list(found.values())


def is_unreachable(value: Path | ModelName | HubSet) -> bool:
    """Whether it is of the hub, not on this machine, and the hub cannot be asked."""
    with suppress(ModelError):  # told of as a problem
        if isinstance(value, HubSet):
            return hub.look_up_data(*value.hub) is None
        if isinstance(value, ModelName) and value.is_hub_id and commit_of(value) is None:
            return hub.look_up(*value.hub) is None
    return False


def hint_at(path: Path, config: StageConfig) -> str:
    """What to do about a path that leads nowhere."""
    try:
        typed = path.relative_to(config.path.parent)
    except ValueError:
        typed = None
    if typed is not None and typed.exists():
        return f"paths are read from the config's folder, not from where the command runs, which has {typed}"
    if typed is not None and ModelName(typed).is_hub_id:
        return f"paths are read from the config's folder; a data set of the hub is written {typed}@main"
    return f"paths are read from the config's folder, {config.path.parent}"


def short_of_room(needed: float, out: Path) -> ResourceError | None:
    """An error where so many bytes do not fit on the disk that `out` is or will be on."""
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if needed <= free:
        return None
    said = f"the chain needs about {needed / 1e9:,.0f} GB in {out}, and {free / 1e9:,.0f} GB are free"
    return ResourceError(said, hint="free some space, or choose another folder with --out")
