"""The training loop that every network shares: accelerate and its trackers, tqdm, EMA, checkpoints, exact resume.

A task is a module whose `forward(**batch)` is the loss; `batch(part)` is a pure function of the part's number, so a
checkpoint holds everything (weights, optimizer, schedule, EMA, RNG) and a resumed run sees the batches that it would
have seen. A step is `accumulate` parts and one move of the optimizer and the average. SIGINT and SIGTERM end a training
between two steps, with a checkpoint (see `pace`).
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from ip2pbatch.backends.pytorch import accelerators
from ip2pbatch.errors import MissingError, TrainingError, UsageError
from ip2pbatch.run.stop import listening
from ip2pbatch.train.fit import checkpoints
from ip2pbatch.train.fit.average import Average, weights_of
from ip2pbatch.train.fit.interrupts import UNTIL, Every, Watch, agree, stopped
from ip2pbatch.train.fit.muon import Muon

Batch = dict[str, torch.Tensor]


class LoopSettings(BaseModel):
    """How long and how fast: the part of a config that all training stages share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int
    optimizer: Literal["adamw", "adamw8bit", "muon"] = "adamw"
    lr: float = 1e-3  # AdamW's, which all but convolutions keep under Muon
    muon_lr: float = 0.02  # of convolutions
    warm_up: int = 100
    lr_end: float = 0.05  # the last rate as a part of the first, on a cosine
    hold: float = 0.0  # part of the steps at the full rate, before the cosine begins
    weight_decay: float = 0.01
    beta2: float = 0.99
    clip: float = 1.0  # of the gradient's norm; 0 for none
    accumulate: int = Field(1, ge=1)  # parts of a step, whose gradients are averaged
    ema: float = 0.999
    ema_moves: int = Field(1, ge=1, exclude_if=lambda value: value == 1)  # a step; the original's is every micro-batch
    ema_warm_up: Literal["power", "original"] = "power"  # 1 − (1 + n)^−¾, or InstructPix2Pix's (1 + n) / (10 + n)
    precision: Literal["bf16", "fp16", "no"] = "bf16"  # what accelerate calls mixed precision
    seed: int = 0
    log_every: int = Field(20, ge=1)
    # Who gets the figures and the sheets.
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = Field(("tensorboard",), exclude=True)
    save_every: int = Field(500, ge=0)
    save_minutes: float = Field(30.0, ge=0, exclude=True)  # the longest between two checkpoints; 0: by steps alone
    keep: int = Field(1, ge=1, exclude=True)  # checkpoints that stay
    sample_every: int = Field(500, ge=0)
    sample_minutes: float = Field(0.0, ge=0, exclude=True)  # sample sheets by time as well; 0: by steps alone
    loaders: int = Field(0, ge=0, exclude=True)  # threads that make batches ahead of a GPU; on a CPU they would compete
    explode: float = Field(5.0, exclude=True)  # stop where 50 steps' mean loss is so many times the lowest; 0: never


class Turn(Protocol):
    """What changes in a training at certain steps, and is kept in its checkpoints."""

    def at(self, step: int, average: Average) -> None:
        """Called in every process before each step, counted from 0."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As it was when the checkpoint was written."""


@dataclass(frozen=True)
class Hooks:
    """What a stage adds to the loop: `batch(part)` makes the data, `sample(step)` looks at the EMA weights, and so do
    further `watches`.

    Part k of step s has the number s · accumulate + k; with `loaders`, several parts are made at once, in threads. A
    picture that `sample` returns is shown. Where `paced`, the batches hang on how many steps there will be, or the
    `turn` does.
    """

    batch: Callable[[int], Batch]
    sample: Callable[[int], Image.Image | None]
    watches: tuple[Watch, ...] = ()
    paced: bool = False
    turn: Turn | None = None


def lr_at(step: int, settings: LoopSettings) -> float:
    """Factor on the learning rate: linear warm-up, full rate, then half a cosine down to `lr_end`."""
    if step < settings.warm_up:
        return (step + 1) / settings.warm_up
    begin = max(settings.warm_up, settings.hold * settings.steps)
    part = min(1.0, max(0.0, (step - begin) / max(1.0, settings.steps - begin)))
    return settings.lr_end + (1 - settings.lr_end) * 0.5 * (1 + math.cos(math.pi * part))


def is_endless(settings: LoopSettings, paced: bool = False) -> bool:
    """Whether a step is the same whatever their number: at a constant rate, of batches that are not `paced`."""
    return settings.lr_end == 1 and not paced


def begins_at(settings: LoopSettings, folder: Path, record: Mapping[str, Any], paced: bool = False) -> int:
    """The step that a training in `folder`, started with what `record` says, would go on from; 0 for the beginning."""
    found = checkpoints.origin(folder, settings.steps, is_endless(settings, paced), record)
    return checkpoints.step_of(found) if found else 0


def make_accelerator(settings: LoopSettings, folder: Path, *, cpu: bool = False) -> Accelerator:
    """accelerate with the trackers below `folder`; one CPU, one GPU or several by how the program was started.

    MissingError where wandb or bitsandbytes is asked for and not there; UsageError where accelerate is to share out the
    weights themselves.
    """
    refuse_shared_weights()
    if settings.optimizer == "adamw8bit":
        eight_bit_adamw()
    # Without a GPU, accelerate takes several processes for several trainings unless it is told that it is on a CPU.
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    return Accelerator(
        mixed_precision=settings.precision,
        cpu=cpu or (several and not accelerators.available()),
        log_with=list(installed(settings.trackers)) or None,
        project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder / "logs")),
        # The others wait while the main process draws samples, for longer than the ten minutes that are usual.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=2))],
    )


def refuse_shared_weights() -> None:
    """UsageError where FSDP, DeepSpeed or Megatron-LM is configured: weights would lie in pieces, and the average, the
    checkpoints and what the main process alone looks at take them to be whole."""
    kinds = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
             "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM"}  # fmt: skip
    asked = [kind for name, kind in kinds.items() if os.environ.get(name, "false").lower() in ("true", "1", "yes")]
    if asked:
        hint = "every GPU holds all weights: use `--multi_gpu` or torchrun; for memory, `gradient_checkpointing: true`"
        raise UsageError(
            f"{asked[0]} shares out the weights, which this training does not do",
            hint=f"{hint}, `optimizer: adamw8bit` or `lora`",
        )


def installed(trackers: Sequence[str]) -> Iterator[str]:
    """Those of the trackers that are here. Without TensorBoard, which nobody has to name, a training goes on and says
    so; MissingError where another one is not there."""
    for name in trackers:
        if find_spec(name):
            yield name
        elif name != "tensorboard":
            raise MissingError(f"{name} is not installed", hint=f"pip install 'ip2pbatch[{name}]'")
        elif int(os.environ.get("RANK", 0)) == 0:
            tqdm.write("no TensorBoard log: pip install tensorboard", file=sys.stderr)


def begin_tracking(accelerator: Accelerator, folder: Path) -> None:
    """A run of the stage's own in each tracker, which a resumed training goes on with."""
    run = {"name": folder.name, "id": folder.name, "resume": "allow", "dir": str(folder)}
    accelerator.init_trackers(folder.parent.name, init_kwargs={"wandb": run})


def train(
    task: torch.nn.Module, settings: LoopSettings, hooks: Hooks, accelerator: Accelerator, folder: Path
) -> dict[str, float]:
    """Train `task` for `settings.steps`, from the latest checkpoint below `folder` where there is one, or from that of
    a training that differs in nothing but its length.

    Leaves the EMA weights in `task`. Returns the mean loss of the first and the last tenth, the seconds taken
    and the steps a second. Raises TrainingError where the loss is not finite or explodes, ResourceError where a
    checkpoint has no room, and StoppedError where SIGINT or SIGTERM ended it between two steps, its checkpoint written.
    """
    checkpoints.require_room(task, folder)
    task.to(accelerator.device)
    optimizer = make_optimizer(task, settings)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_at(step, settings))
    on_gpu = accelerators.is_nvidia(accelerator.device)
    ema = Average(task, settings.ema, power=settings.ema_warm_up == "power", foreach=on_gpu)
    model, optimizer = accelerator.prepare(task, optimizer)
    turn = hooks.turn
    accelerator.register_for_checkpointing(ema, schedule, *([turn] if turn else []))
    checkpoints.leave_out_frozen(accelerator, task)
    begin_tracking(accelerator, folder)
    losses: list[float] = []
    found = checkpoints.origin(folder, settings.steps, is_endless(settings, hooks.paced))
    start = checkpoints.resume(accelerator, found, losses)
    health = Health(settings, losses)
    saving = Every(settings.save_every, settings.save_minutes)
    watches = (*hooks.watches, Watch(Every(settings.sample_every, settings.sample_minutes), hooks.sample))
    began = time.monotonic()
    progress = tqdm(range(start, settings.steps), initial=start, total=settings.steps, mininterval=10, smoothing=0.05)
    parts = range(start * settings.accumulate, settings.steps * settings.accumulate)
    with listening(UNTIL) as stop, closing(ahead(hooks.batch, parts, settings.loaders)) as batches:
        for step in progress:
            if turn:
                turn.at(step, ema)
            loss = accumulate(model, batches, settings, accelerator)
            seen = [stop.asked.is_set(), saving.overdue, *(one.every.overdue for one in watches)]
            mean, (asked, late, *lates) = agree(accelerator, loss, seen)
            losses.append(mean)
            norm = accelerator.clip_grad_norm_(weights_of(task), settings.clip or math.inf)
            health.check(step, norm)
            move(optimizer, schedule, ema, settings, accelerator)
            report(accelerator, progress, step, losses, settings, float(schedule.get_last_lr()[0]))
            done = step + 1
            due = [one for one, overdue in zip(watches, lates, strict=True) if one.every.due(done, overdue)]
            look(accelerator, ema, [one for one in due if one.kept], folder, done)
            if saving.due(done, late) or asked or done == settings.steps:
                checkpoints.save(accelerator, folder, done, losses, settings.keep)
            if asked:
                accelerator.end_training()
                raise stopped(stop, done, settings.steps)
            look(accelerator, ema, [one for one in due if not one.kept], folder, done)
    accelerator.end_training()
    ema.copy()
    seconds = time.monotonic() - began
    return summary(losses, seconds) | {"rate": (settings.steps - start) / seconds}


def move(
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    ema: Average,
    settings: LoopSettings,
    accelerator: Accelerator,
) -> None:
    """One move of the weights by their gradients, and of their average."""
    for _ in range(settings.ema_moves - 1):  # after each micro-batch but the last the weights are as they were
        ema.step()
    optimizer.step()
    optimizer.zero_grad()
    schedule.step()
    if not accelerator.optimizer_step_was_skipped:  # fp16's scaler skips a step whose gradient overflowed
        ema.step()


def ahead(batch: Callable[[int], Batch], parts: range, loaders: int) -> Generator[Batch]:
    """`batch(part)` of each part in order, made in `loaders` threads while others are used; in this one where none."""
    if not loaders:
        yield from map(batch, parts)
        return
    waiting: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(loaders, thread_name_prefix="batch") as pool:
        for part in parts:
            waiting.append(pool.submit(batch, part))
            if len(waiting) > 2 * loaders:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def accumulate(
    model: torch.nn.Module, batches: Iterator[Batch], settings: LoopSettings, accelerator: Accelerator
) -> torch.Tensor:
    """The gradients of one step, averaged over its parts and all processes; this process's mean loss over its parts."""
    total = torch.zeros((), device=accelerator.device)
    for part in range(settings.accumulate):
        batch = {name: value.to(accelerator.device, non_blocking=True) for name, value in next(batches).items()}
        last = part == settings.accumulate - 1
        with nullcontext() if last else accelerator.no_sync(model):  # gradients travel once a step
            loss = model(**batch)
            accelerator.backward(loss / settings.accumulate)
        total += loss.detach().float() / settings.accumulate
    return total


@dataclass
class Health:
    """Stops a training that goes wrong while its last checkpoint is still good: TrainingError, saying what to do."""

    settings: LoopSettings
    losses: list[float]
    lowest: float = field(default=math.inf, init=False)
    skipped: int = field(default=0, init=False)
    window: int = field(default=50, init=False)

    def __post_init__(self) -> None:
        """Whatever went before a resume counts."""
        for end in range(self.window, len(self.losses) + 1, self.window):
            self.lowest = min(self.lowest, sum(self.losses[end - self.window : end]) / self.window)

    def check(self, step: int, norm: torch.Tensor | float | None) -> None:
        """After the gradients of `step`, before they move a weight."""
        loss = self.losses[-1]
        finite = norm is None or math.isfinite(float(norm))
        if not math.isfinite(loss):
            raise self.error(step, f"the loss is {loss}")
        self.skipped = 0 if finite else self.skipped + 1
        if not finite and (self.settings.precision != "fp16" or self.skipped > self.window):
            raise self.error(step, "the gradient is not finite")
        if (step + 1) % self.window or not self.settings.explode:
            return
        mean = sum(self.losses[-self.window :]) / self.window
        if mean > self.settings.explode * self.lowest:
            raise self.error(step, f"the mean loss of {self.window} steps is {mean:.3g}, and was {self.lowest:.3g}")
        self.lowest = min(self.lowest, mean)

    def error(self, step: int, what: str) -> TrainingError:
        """Said with the step and with what usually helps."""
        return TrainingError(
            f"the training went wrong at step {step + 1}: {what}",
            hint="lower `loop.lr`, clip the gradient with `loop.clip: 1.0`, or look at the data; the newest checkpoint "
            "is from before this, and a run with other settings begins anew",
        )


def make_optimizer(task: torch.nn.Module, settings: LoopSettings) -> torch.optim.Optimizer:
    """AdamW, its moments in 8 bits where asked; or Muon for the convolutions, which are most of the work, and AdamW for
    the rest."""
    weights, betas = weights_of(task), (0.9, settings.beta2)
    if settings.optimizer == "adamw8bit":
        return eight_bit_adamw()(weights, settings.lr, betas, weight_decay=settings.weight_decay)
    if settings.optimizer == "adamw":
        fused = accelerators.is_nvidia(weights[0].device)  # one kernel a step instead of hundreds
        return torch.optim.AdamW(weights, settings.lr, betas, weight_decay=settings.weight_decay, fused=fused)
    matrices, others = [p for p in weights if p.ndim == 4], [p for p in weights if p.ndim != 4]
    groups = [
        {"params": matrices, "lr": settings.muon_lr, "muon": True},
        {"params": others, "lr": settings.lr, "muon": False},
    ]
    return Muon(groups, beta2=settings.beta2, weight_decay=settings.weight_decay)


def eight_bit_adamw() -> Callable[..., torch.optim.Optimizer]:
    """bitsandbytes' AdamW (arXiv 2110.02861): the moments of 4,096 weights or more are in 8 bits, each block of 256
    with a scale of its own. MissingError where it is not installed."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells of kernels for other things
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        hint = "pip install 'ip2pbatch[bitsandbytes]', or `optimizer: adamw`"
        raise MissingError("AdamW in 8 bits needs bitsandbytes", hint=hint) from error
    return cast("Callable[..., torch.optim.Optimizer]", AdamW8bit)


def report(
    accelerator: Accelerator, progress: tqdm[int], step: int, losses: list[float], settings: LoopSettings, lr: float
) -> None:
    """The mean loss of the last steps, to the trackers and beside the bar."""
    if (step + 1) % settings.log_every:
        return
    mean = sum(losses[-settings.log_every :]) / settings.log_every
    accelerator.log({"loss": mean, "lr": lr}, step=step + 1)
    progress.set_postfix(loss=f"{mean:.4f}", refresh=False)


def look(accelerator: Accelerator, ema: Average, due: Sequence[Watch], folder: Path, step: int) -> None:
    """What is due with the averaged weights, by the main process; no randomness of the training is used up by it."""
    if not due or not accelerator.is_main_process:
        return
    devices = [] if accelerators.on_host(accelerator.device) else [accelerator.device]
    with torch.random.fork_rng(devices, device_type=accelerator.device.type), ema.in_place():
        for one in due:
            show(accelerator, one.look(step), folder, step)


def show(accelerator: Accelerator, found: Image.Image | Mapping[str, float] | None, folder: Path, step: int) -> None:
    """A sample grid, where there is one, to samples/ and to the trackers; figures to the latter alone."""
    if found is None:
        return
    if not isinstance(found, Image.Image):
        accelerator.log(dict(found), step=step)
        return
    path = folder / "samples" / f"step-{step:06d}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    found.save(path, quality=92)
    pixels = np.asarray(found.convert("RGB"))[None]
    for tracker in accelerator.trackers:
        layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
        tracker.log_images({"samples": pixels}, step, **layout)


def summary(losses: list[float], seconds: float) -> dict[str, float]:
    """First and last tenth's mean loss, steps and seconds."""
    tenth = max(1, len(losses) // 10)
    return {
        "loss_first": sum(losses[:tenth]) / tenth,
        "loss_last": sum(losses[-tenth:]) / tenth,
        "steps": float(len(losses)),
        "seconds": seconds,
    }
