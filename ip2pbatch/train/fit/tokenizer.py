"""The tokenizer stage: a CLIP-style byte-pair tokenizer of the instructions' own words, as a CLIPTokenizer folder.

Every byte is in the vocabulary, so nothing is unknown: a word that was never seen falls into pieces of words that were.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from ip2pbatch.plan.written.yaml_source import Mistake
from ip2pbatch.train.captions.wordings_stage import read_captions
from ip2pbatch.train.estimates import Estimate
from ip2pbatch.train.stage import Stage, misfits

VERSION = 1
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


class Config(BaseModel):
    """What decides the vocabulary."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = 2048
    max_tokens: int = 32
    words: str = ""  # general words beside the instructions', so that they stay whole


def train_tokenizer(texts: Iterable[str], size: int, max_tokens: int) -> CLIPTokenizer:
    """Learn merges from `texts` with CLIP's own splitting and lower case; `size` bounds the vocabulary."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = learned_merges(texts, size - 2 - len(letters), letters)
    # CLIP's order: bytes, bytes that end a word, merges, then the two marks.
    tokens = dict.fromkeys([*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)])
    vocabulary = {token: index for index, token in enumerate([*tokens, BEGIN, END])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=max_tokens)


def learned_merges(texts: Iterable[str], size: int, letters: list[str]) -> list[tuple[str, str]]:
    """The pairs of tokens that byte-pair encoding joins, in their order; `letters` are what it begins with."""
    blank = CLIPTokenizer()
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = blank.backend_tokenizer.normalizer
    learner.pre_tokenizer = blank.backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=1,
        initial_alphabet=letters,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    state = json.loads(learner.to_str())["model"]
    return [(left, right) for left, right in state["merges"]]


def run(config: Config, inputs: dict[str, Path], folder: Path, photos: Path) -> dict[str, float]:
    """Learn from the training wordings and captions, save `tokenizer/`; metrics: size and the longest instruction."""
    captions = [caption for caption in read_captions(inputs["captions"]) if caption.split == "train"]
    texts = [text for caption in captions for text in (caption.instruction, caption.before, caption.after)]
    tokenizer = train_tokenizer([*texts, *config.words.split()], config.size, config.max_tokens)
    tokenizer.save_pretrained(folder / "tokenizer")
    longest = max(len(tokenizer(caption.instruction).input_ids) for caption in captions)
    return {"size": float(len(tokenizer)), "longest_instruction": float(longest)}


def check(settings: Config, inputs: Mapping[str, str]) -> Iterable[Mistake]:
    """What does not fit together in a config."""
    return misfits(inputs, ("captions",), ("captions",))


def estimate(settings: Config, counts: Estimate) -> Estimate:
    """A vocabulary."""
    return replace(counts, makes=f"{settings.size:,} tokens at most")


STAGE = Stage(Config, run, VERSION, check=check, estimate=estimate)
