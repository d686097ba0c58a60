"""The defaults of the model that a run began with, kept in its header: a model's own may change, and a run that took
the new ones would make every picture again whose recipe leaves them unsaid. Light: `plan` reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from ip2pbatch.errors import Ip2pError
from ip2pbatch.plan.defaults import former_defaults, model_folder
from ip2pbatch.plan.editors.composed import base_of
from ip2pbatch.plan.families import ModelDefaults
from ip2pbatch.run.directory.header import known_header
from ip2pbatch.run.directory.layout import Layout, run_folders
from ip2pbatch.run.directory.lines import Header


def kept_defaults(root: Path, model: str) -> ModelDefaults | None:
    """Those of the newest run in the output folder `root`, as far as it is one of `model`: where it is from before
    they were kept, what the model's were then.

    None where there is no such run; one that does not say what it began with is for `open_run` to refuse. Raises
    ModelError.
    """
    header = _newest(root)
    if header is None or not _is_same(header.engine.model, model):
        return None
    return header.defaults or former_defaults(model)


def keeps_registering(root: Path) -> bool | None:
    """Whether the newest run in `root` registers edits where a recipe says nothing of it; None where there is none."""
    header = _newest(root)
    return None if header is None else header.registers


def keeps_lift(root: Path) -> int | None:
    """By which version of the lift the newest run in `root` delivers, None where there is none."""
    header = _newest(root)
    return None if header is None else header.lift


def keeps_files(root: Path) -> str:
    """The address below which the newest run in `root` delivers, "" where that is `root`, or no run is there."""
    header = _newest(root)
    return "" if header is None else header.files


def _newest(root: Path) -> Header | None:
    """What the newest run in an output folder began with."""
    folders = run_folders(root)
    try:
        return known_header(Layout(folders[-1])) if folders else None
    except Ip2pError:
        return None


def differences(kept: ModelDefaults, today: ModelDefaults) -> Iterator[str]:
    """What the run keeps although the model says otherwise today, in words."""
    for part in fields(ModelDefaults):
        old, new = getattr(kept, part.name), getattr(today, part.name)
        if old != new:
            yield f"{part.name.replace('_', ' ')} {old} (the model's is {new} today)"


def _is_same(made_with: str, model: str) -> bool:
    """One name, or two of one folder."""
    here, there = model_folder(made_with), model_folder(model)
    return base_of(made_with) == base_of(model) or (here is not None and there is not None and here.samefile(there))
