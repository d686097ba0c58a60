"""Checkpoints of a training: whole or not there, the older one kept until the newer is on the disk.

checkpoints/step-2000/   what accelerate saves (weights, optimizer, schedule, EMA, every process's RNG), losses.pt; of
                         weights that do not learn their digest alone, in frozen.json
checkpoints/partial/     one that is being written or removed; a kill leaves it behind, the next start sweeps it away
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ip2pbatch.errors import ModelError, ResourceError
from ip2pbatch.train.fingerprints import UNKNOWN, flatten, read_json
from ip2pbatch.train.fit.latents import digest_of_tensors

# Bytes a weight takes in a checkpoint: itself, Adam's two moments and the average, in float32.
BYTES_A_WEIGHT = 16
FROZEN = "frozen.json"


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint below `folder`, or none."""
    found = in_order(folder)
    return found[-1] if found else None


def in_order(folder: Path) -> list[Path]:
    """The whole checkpoints below `folder`, oldest first."""
    return sorted((folder / "checkpoints").glob("step-*"), key=step_of)


def step_of(checkpoint: Path) -> int:
    """How many steps were done when it was written."""
    return int(checkpoint.name.split("-")[1])


def save(accelerator: Accelerator, folder: Path, step: int, losses: list[float], keep: int = 1) -> None:
    """All state at `step`, renamed when it is on the disk; only the newest `keep` stay. Called by every process.

    Raises ResourceError where it cannot be written (a full disk above all); the older ones are as they were.
    """
    target, partial = folder / "checkpoints" / f"step-{step}", folder / "checkpoints" / "partial"
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
    accelerator.wait_for_everyone()
    try:
        accelerator.save_state(str(partial))
        if accelerator.is_main_process:
            torch.save(losses, partial / "losses.pt")
            flush(partial)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise not_written(folder, step, error) from error
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        flush(target.parent, into=False)
        for old in in_order(folder)[:-keep]:
            old.rename(partial)  # half of one must not look like a whole one
            shutil.rmtree(partial)
    accelerator.wait_for_everyone()


def leave_out_frozen(accelerator: Accelerator, task: nn.Module) -> None:
    """Have checkpoints hold the weights that learn, and of those that do not their digest, which a resume must find
    again; checkpoints of older versions, which have them, are loaded whole."""
    frozen = {name: p for name, p in task.named_parameters() if not p.requires_grad}
    if not frozen:
        return
    digest = digest_of_tensors(frozen)

    def save_rest(models: list[nn.Module], states: list[dict[str, torch.Tensor]], folder: str) -> None:
        for state in states:
            for name in [name for name in state if plain(name) in frozen]:
                del state[name]
        if accelerator.is_main_process:
            (Path(folder) / FROZEN).write_text(json.dumps({"frozen": digest}))

    def load_rest(models: list[nn.Module], folder: str) -> None:
        if not models or not (Path(folder) / FROZEN).exists():
            return
        if read_json(Path(folder) / FROZEN).get("frozen") != digest:
            raise ValueError("it was made beside other frozen weights")
        state = {plain(name): value for name, value in load_file(Path(folder) / "model.safetensors").items()}
        left = set(task.load_state_dict(state, strict=False).missing_keys) - frozen.keys()
        if left:
            raise ValueError(f"it lacks {sorted(left)[0]}")
        models.clear()  # loaded

    accelerator.register_save_state_pre_hook(save_rest)
    accelerator.register_load_state_pre_hook(load_rest)


def plain(name: str) -> str:
    """A weight's name in the task, whatever wraps it for several processes."""
    return name.removeprefix("module.")


def flush(folder: Path, *, into: bool = True) -> None:
    """Wait until the names in `folder`, and `into` them the files below it, are on the disk: neither the renaming of a
    folder nor the removal of an older one may outrun what it stands for."""
    for path in (folder, *(folder.rglob("*") if into else ())):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def not_written(folder: Path, step: int, error: Exception) -> ResourceError:
    """The error of a checkpoint that could not be written, saying what is still there."""
    older = latest_checkpoint(folder)
    kept = f"that of step {step_of(older)} is kept" if older else "there is no older one"
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ResourceError(
        f"the checkpoint of step {step} could not be written ({reason}); {kept}",
        hint="free some space and run again: the training goes on from the newest checkpoint",
    )


def origin(folder: Path, steps: int, endless: bool, record: Mapping[str, Any] | None = None) -> Path | None:
    """The checkpoint that a training of so many steps goes on from: its own newest, or a newer one of a training beside
    it that differs in nothing but its length. None where there is neither.

    `endless` says that a step is the same whatever the number of steps, as it is at a constant rate: then the longer
    training is the shorter one and more of the same. `record` is what it will be started with, where it was not yet.
    """
    found = in_order(folder)
    if endless:
        mine = facts_but_length(record or read_json(folder / "started.json"))
        found += [path for other in of_another_length(folder, mine) for path in in_order(other)]
    return max((path for path in found if step_of(path) <= steps), key=step_of, default=None)


def of_another_length(folder: Path, mine: Mapping[str, Any]) -> Iterator[Path]:
    """The folders beside `folder` that were started with all that it is, but for `loop.steps`."""
    for path in sorted(folder.parent.glob("*/started.json")) if mine else ():
        if path.parent != folder and facts_but_length(read_json(path)) == mine:
            yield path.parent


def facts_but_length(started: Mapping[str, Any]) -> dict[str, Any]:
    """What a stage was started with by dotted keys; where what is behind a name was not known, the name counts."""
    record = flatten(json.loads(json.dumps(started)))
    facts = {key: value for key, value in record.items() if not key.startswith("sources.")}
    facts.pop("settings.loop.steps", None)
    names = {key: record.get(f"sources.{key.removeprefix('settings.')}") for key in facts if facts[key] == UNKNOWN}
    return {key: value for key, value in (facts | names).items() if key}


def resume(accelerator: Accelerator, latest: Path | None, losses: list[float]) -> int:
    """Load a checkpoint and return its step, 0 where there is none; `losses` gets those of its steps.

    Raises ModelError where the checkpoint does not fit the networks or is damaged.
    """
    if latest is None:
        return 0
    try:
        accelerator.load_state(str(latest))
        losses.extend(torch.load(latest / "losses.pt"))
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"the checkpoint {latest} cannot be read: {str(error).splitlines()[0]}",
            hint="move it away: the training then goes on from the one before it, or from the beginning",
        ) from error
    return step_of(latest)


def require_room(task: torch.nn.Module, folder: Path) -> None:
    """ResourceError before the first step where the disk has no room for a checkpoint beside the older one."""
    trained = sum(p.numel() for p in task.parameters() if p.requires_grad)
    needed = BYTES_A_WEIGHT * trained
    needed *= 1 if latest_checkpoint(folder) else 2
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "checkpoints" / "partial", ignore_errors=True)  # of a kill
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ResourceError(
            f"checkpoints need {needed / 1e9:.1f} GB in {folder}, which has {free / 1e9:.1f} GB free",
            hint="free some space, or choose another folder with --out",
        )
