"""A causal language model that completes many prompts at once, each with randomness of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessor, StoppingCriteria

from ip2pbatch.backends.pytorch import accelerators
from ip2pbatch.backends.quiet import quiet
from ip2pbatch.errors import ResourceError
from ip2pbatch.measures.pretrained import PRECISIONS, load_pretrained
from ip2pbatch.train.captions.completion import STOP

TAIL = 12  # tokens that are looked at for the stop sequence


class Sampling(BaseModel):
    """How completions are drawn; the defaults are the authors'."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float = Field(0.7, ge=0)  # 0 takes the likeliest token
    frequency_penalty: float = 0.1  # off a token's logit for each time it was already said
    max_tokens: int = Field(256, ge=1)
    stop: str = STOP


@dataclass(frozen=True)
class Completion:
    """An answer without its stop sequence; `finished` is false where it ran into the limit."""

    text: str
    tokens: int
    finished: bool


class Source(Protocol):
    """Something that completes prompts: a model in this process, or an endpoint."""

    def complete(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Completion]:
        """An answer to each prompt, drawn with its own seed."""
        ...

    def flagged(self, texts: Sequence[str]) -> list[bool]:
        """Which texts moderation refuses, where this source has one."""
        ...


def load_language_model(model: str, precision: str, device: str) -> tuple[Any, Any]:
    """(model, tokenizer) of a folder or a hub id; ModelError where there is none. Nothing of it is executed."""
    kind = PRECISIONS[precision]
    network, tokenizer = load_pretrained(model, "language model", AutoModelForCausalLM, [AutoTokenizer], dtype=kind)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return network.to(device), tokenizer


class RowSampler(LogitsProcessor):
    """Leaves one token a row: the one that the row's own next uniform number picks (inverse of the distribution)."""

    def __init__(self, uniforms: torch.Tensor, sampling: Sampling) -> None:
        self.uniforms, self.sampling, self.step = uniforms, sampling, 0
        self.said: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """`scores` `[n, vocabulary]` → −∞ but for the drawn token."""
        scores = scores.float()
        if self.said is None:
            self.said = torch.zeros_like(scores)
        else:
            self.said.scatter_add_(1, input_ids[:, -1:], torch.ones_like(scores[:, :1]))
        scores = scores - self.sampling.frequency_penalty * self.said
        if self.sampling.temperature:
            whole = (scores / self.sampling.temperature).softmax(-1).double().cumsum(-1)
            place = self.uniforms[:, self.step, None].to(whole.device) * whole[:, -1:]
            chosen = (whole <= place).sum(-1).clamp(max=scores.shape[1] - 1)
        else:
            chosen = scores.argmax(-1)
        self.step += 1
        return torch.full_like(scores, -torch.inf).scatter(1, chosen[:, None], 0.0)


class StopsAt(StoppingCriteria):
    """A row is done when its text ends in the stop sequence."""

    def __init__(self, tokenizer: Any, stop: str, begin: int) -> None:
        self.tokenizer, self.stop, self.begin = tokenizer, stop, begin

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        """`[n]` bool."""
        tails = self.tokenizer.batch_decode(input_ids[:, max(self.begin, input_ids.shape[1] - TAIL) :])
        return torch.tensor([self.stop in tail for tail in tails], device=input_ids.device)


class LanguageModel:
    """A model of transformers as a Source. A row's tokens are drawn from its seed, whatever is completed beside it."""

    def __init__(self, model: Any, tokenizer: Any, sampling: Sampling) -> None:
        self.model, self.tokenizer, self.sampling = model.eval(), tokenizer, sampling
        self.tokenizer.padding_side = "left"

    @classmethod
    def load(cls, model: str, precision: str, sampling: Sampling) -> LanguageModel:
        """On the accelerator where there is one."""
        device = accelerators.default()
        return cls(*load_language_model(model, "fp32" if accelerators.on_host(device) else precision, device), sampling)

    @torch.inference_mode()
    def complete(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Completion]:
        """An answer to each prompt; a batch that does not fit into memory is halved."""
        try:
            return self._complete(prompts, seeds)
        except torch.OutOfMemoryError as error:
            if len(prompts) == 1:
                raise ResourceError("one prompt does not fit into memory", hint="take a smaller model") from error
        accelerators.let_go()
        middle = len(prompts) // 2
        return self.complete(prompts[:middle], seeds[:middle]) + self.complete(prompts[middle:], seeds[middle:])

    def _complete(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Completion]:
        tokens = self.tokenizer(list(prompts), padding=True, return_tensors="pt").to(self.model.device)
        begin, most = tokens.input_ids.shape[1], self.sampling.max_tokens
        uniforms = np.stack([np.random.default_rng(seed).random(most) for seed in seeds])
        with quiet():
            output = self.model.generate(
                input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, do_sample=False, max_new_tokens=most,
                logits_processor=[RowSampler(torch.from_numpy(uniforms), self.sampling)],
                stopping_criteria=[StopsAt(self.tokenizer, self.sampling.stop, begin)],
                pad_token_id=self.tokenizer.pad_token_id,
            )  # fmt: skip
        return [self._read(row) for row in output[:, begin:].tolist()]

    def _read(self, tokens: list[int]) -> Completion:
        ends = self.tokenizer.eos_token_id
        length = next((place for place, token in enumerate(tokens) if token == ends), None)
        text = self.tokenizer.decode(tokens if length is None else tokens[:length])
        answer, stop, _ = text.partition(self.sampling.stop)
        said = len(tokens) if length is None else length
        return Completion(answer, said, bool(stop) or length is not None)

    def flagged(self, texts: Sequence[str]) -> list[bool]:
        """A model has no moderation of its own."""
        return [False] * len(texts)
