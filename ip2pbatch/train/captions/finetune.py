"""The captions stage, `maker: finetune`: a language model learns from people's triplets to write edits of captions.

    model/    the model and its tokenizer as transformers reads them, LoRA weights merged in: `maker: generate` and any
              inference server take it from here
    learning.pt   what an interrupted training goes on from

The paper taught a completion model 700 triplets for one epoch (arXiv 2211.09800, section 3.1.1), the text in the format
of `completion`.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch.nn import functional
from tqdm import tqdm

from ip2pbatch.backends.pytorch import accelerators
from ip2pbatch.backends.quiet import quiet
from ip2pbatch.errors import MissingError, ModelError, RecipeError, ResourceError, StoppedError, TrainingError
from ip2pbatch.run.stop import listening
from ip2pbatch.train.captions.completion import completion_text, prompt_text
from ip2pbatch.train.captions.language_model import load_language_model
from ip2pbatch.train.data.crops import step_rng
from ip2pbatch.train.data.released import Prompt, read_prompts
from ip2pbatch.train.estimates import Estimate, count_rows
from ip2pbatch.train.model_names import ModelName, count_weights, folder_of
from ip2pbatch.train.stage import Stage

VERSION = 1
MODEL = "model"
LEARNING = "learning.pt"


class Lora(BaseModel):
    """Low-rank adapters on a frozen model: a tenth of the memory of a full fine-tuning."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(16, ge=1)
    alpha: float = 32.0  # the update is scaled by alpha / rank
    dropout: float = Field(0.05, ge=0, lt=1)
    layers: tuple[str, ...] | Literal["all-linear"] = "all-linear"


class Config(BaseModel):
    """What decides the language model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    maker: Literal["finetune"]
    triplets: Path  # JSONL: input, edit, output
    model: ModelName
    lora: Lora | None = Lora()  # null: every weight learns
    epochs: int = Field(1, ge=1)
    batch: int = Field(4, ge=1)
    lr: float = 2e-4
    prompt_weight: float = Field(0.01, ge=0)  # what a token of the prompt counts beside one of the completion
    held_out: float = Field(0.0, ge=0, lt=1)  # part of the triplets that only measures
    max_tokens: int = Field(512, ge=8)
    precision: Literal["fp32", "bf16"] = "bf16"  # on a GPU; a CPU computes in fp32
    checkpointing: bool = False  # less memory for a third more time
    save_minutes: float = Field(5.0, ge=0, exclude=True)  # between two states that an interrupted training goes on from
    seed: int = 0


@dataclass(frozen=True)
class Example:
    """One triplet's tokens, and what each counts in the loss."""

    tokens: list[int]
    weights: list[float]


def tokenize(triplets: Sequence[Prompt], tokenizer: Any, config: Config) -> list[Example]:
    """Prompts and completions apart, as generation will see them. RecipeError where one is longer than max_tokens."""
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    examples = []
    for one in triplets:
        asked = tokenizer(prompt_text(one.input)).input_ids
        if end and asked[-1:] == end:  # some tokenizers end every text
            asked = asked[:-1]
        answer = tokenizer(completion_text(one), add_special_tokens=False).input_ids + end
        if len(asked) + len(answer) > config.max_tokens:
            said = f"has {len(asked) + len(answer)} tokens, more than max_tokens"
            raise RecipeError(said, file=config.triplets, line=one.number + 1, hint="shorten it or raise max_tokens")
        examples.append(Example(asked + answer, [config.prompt_weight] * len(asked) + [1.0] * len(answer)))
    return examples


def collate(examples: Sequence[Example], pad: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    """tokens, mask and weights `[n, length]`, padded on the right."""
    length = max(len(one.tokens) for one in examples)
    tokens = [one.tokens + [pad] * (length - len(one.tokens)) for one in examples]
    mask = [[1] * len(one.tokens) + [0] * (length - len(one.tokens)) for one in examples]
    weights = [one.weights + [0.0] * (length - len(one.tokens)) for one in examples]
    return torch.tensor(tokens, device=device), torch.tensor(mask, device=device), torch.tensor(weights, device=device)


def loss_of(model: Any, examples: Sequence[Example], pad: int) -> torch.Tensor:
    """Mean cross-entropy of the next token, weighted."""
    tokens, mask, weights = collate(examples, pad, model.device)
    logits = model(input_ids=tokens, attention_mask=mask).logits[:, :-1].float()
    each = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    weights = weights[:, 1:].flatten()
    return (each * weights).sum() / weights.sum()


def with_adapters(model: Any, lora: Lora) -> Any:
    """The model frozen, with LoRA adapters that learn in float32. MissingError without peft."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        hint = "pip install 'ip2pbatch[train]', or set lora: null to train every weight"
        raise MissingError("LoRA needs peft", hint=hint) from error
    layers = lora.layers if isinstance(lora.layers, str) else list(lora.layers)
    # GPT-2 keeps its weights transposed, and peft wants to be told
    transposed = any(type(module).__name__ == "Conv1D" for module in model.modules())
    settings = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=layers, task_type="CAUSAL_LM",
        fan_in_fan_out=transposed,
    )  # fmt: skip
    with quiet():
        return get_peft_model(model, settings)


@torch.no_grad()
def measure(model: Any, examples: Sequence[Example], pad: int, batch: int) -> float:
    """Mean loss over examples that are not trained on."""
    model.eval()
    parts = [examples[begin : begin + batch] for begin in range(0, len(examples), batch)]
    losses = [float(loss_of(model, part, pad)) * len(part) for part in parts]
    model.train()
    return sum(losses) / len(examples)


def batches(examples: Sequence[Example], config: Config) -> Iterator[list[Example]]:
    """Every example once an epoch, in an order drawn from the seed."""
    for epoch in range(config.epochs):
        order = step_rng(config.seed, epoch).permutation(len(examples))
        for begin in range(0, len(order), config.batch):
            yield [examples[index] for index in order[begin : begin + config.batch]]


def teach(model: Any, examples: Sequence[Example], pad: int, config: Config, folder: Path) -> list[float]:
    """AdamW with a linear warm-up over a tenth and a linear decay; the loss of every step. TrainingError where it is
    not finite, StoppedError where SIGINT or SIGTERM ended it between two steps. Goes on from the state in `folder`,
    where there is one, with the steps of an uninterrupted training.
    """
    learned = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    weights = list(learned.values())
    optimizer = torch.optim.AdamW(weights, config.lr, weight_decay=0.0)
    steps = config.epochs * -(-len(examples) // config.batch)
    warm = max(1, steps // 10)
    losses = resume(folder, learned, optimizer)
    left = islice(batches(examples, config), len(losses), None)
    bar = tqdm(left, initial=len(losses), total=steps, desc="captions", mininterval=5)
    saved = time.monotonic()
    with listening("this step is done and its state is written") as stop:
        for step, part in enumerate(bar, start=len(losses)):
            for group in optimizer.param_groups:
                group["lr"] = config.lr * min((step + 1) / warm, (steps - step) / max(1, steps - warm))
            losses.append(take(step + 1, model, optimizer, part, pad))
            asked = stop.asked.is_set()
            if asked or (time.monotonic() - saved >= 60 * config.save_minutes and step + 1 < steps):
                keep(folder, learned, optimizer, losses)
                saved = time.monotonic()
            if asked:
                said = f"the state after step {step + 1:,} of {steps:,} is written; run again to go on"
                raise StoppedError(said, stop.exit_code)
    return losses


def take(step: int, model: Any, optimizer: torch.optim.Optimizer, part: Sequence[Example], pad: int) -> float:
    """One step, and its loss. TrainingError where that is not finite."""
    with torch.autocast(model.device.type, torch.bfloat16, enabled=not accelerators.on_host(model.device)):
        loss = loss_of(model, part, pad)
    found = float(loss.detach())
    if not np.isfinite(found):
        raise TrainingError(f"the loss of step {step} is {found}", hint="lower lr, or set precision: fp32")
    loss.backward()
    torch.nn.utils.clip_grad_norm_([one for group in optimizer.param_groups for one in group["params"]], 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return found


def keep(
    folder: Path, weights: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer, losses: Sequence[float]
) -> None:
    """The training as it stands, in the place of an older state once it is on the disk. ResourceError where it is not
    written; the older one is as it was."""
    state = {
        "weights": {name: weight.detach() for name, weight in weights.items()}, "optimizer": optimizer.state_dict(),
        "losses": list(losses), "rng": torch.get_rng_state(),
        "cuda": accelerators.random_state(),  # of any accelerator
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{LEARNING}.partial"
    try:
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(folder / LEARNING)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise ResourceError(
            f"the state after step {len(losses)} could not be written: {str(error).splitlines()[0]}",
            hint="free some space and run again: the training goes on from the state before it",
        ) from error


def resume(folder: Path, weights: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer) -> list[float]:
    """Take up the state in `folder` and return the losses of its steps; none where there is no state.

    ModelError where it is damaged or does not fit.
    """
    path = folder / LEARNING
    if not path.exists():
        return []
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(state["weights"][name])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        accelerators.take_random_state(state["cuda"])
        return list(state["losses"])
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        hint = "remove it: the training then begins again"
        raise ModelError(f"the state {path} cannot be read: {reason}", hint=hint) from error


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's own randomness (adapters' first weights, dropout) from `seed`, and as it was afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def run(config: Config, inputs: dict[str, Path], folder: Path, photos: Path | None) -> dict[str, float]:
    """Teach the model and save it; metrics: triplets, steps, first and last loss, and the loss of what was held out."""
    device = accelerators.default()
    frozen = config.lora is not None and not accelerators.on_host(device)
    model, tokenizer = load_language_model(config.model, config.precision if frozen else "fp32", device)
    examples = tokenize(read_prompts(config.triplets), tokenizer, config)
    order = step_rng(config.seed, config.epochs).permutation(len(examples))
    measured = [examples[index] for index in order[: int(config.held_out * len(examples))]]
    taught = [examples[index] for index in order[len(measured) :]]
    began = time.monotonic()
    with seeded(config.seed):
        model = with_adapters(model, config.lora) if config.lora else model
        if config.checkpointing:
            with quiet():  # newer transformers call it otherwise, and all of 5.x know this name
                model.gradient_checkpointing_enable()
            model.enable_input_require_grads()  # without it nothing before the first adapter is recomputed
        before = measure(model, measured, tokenizer.pad_token_id, config.batch) if measured else None
        losses = teach(model.train(), taught, tokenizer.pad_token_id, config, folder)
    metrics = {"triplets": float(len(taught)), "steps": float(len(losses)), **ends(losses)}
    if before is not None:
        after = measure(model, measured, tokenizer.pad_token_id, config.batch)
        metrics |= {"held_out_before": before, "held_out_after": after}
    save(model.merge_and_unload() if config.lora else model, tokenizer, folder / MODEL)
    (folder / LEARNING).unlink(missing_ok=True)
    return metrics | {"seconds": time.monotonic() - began}


def ends(losses: Sequence[float]) -> dict[str, float]:
    """Mean loss of the first and of the last tenth."""
    tenth = max(1, len(losses) // 10)
    return {"loss_first": sum(losses[:tenth]) / tenth, "loss_last": sum(losses[-tenth:]) / tenth}


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """The model's folder."""
    with quiet():
        model.eval().save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def estimate(settings: Config, counts: Estimate) -> Estimate:
    """A step a batch of triplets; the model in float32 in the end."""
    steps = settings.epochs * -(-count_rows(settings.triplets) // settings.batch)
    folder = folder_of(settings.model)
    return replace(counts, makes=f"{steps:,} steps", bytes=4.0 * count_weights(folder) if folder else 0.0)


STAGE = Stage(Config, run, VERSION, estimate=estimate)
