"""A tiny random GPT-2 with a byte-level tokenizer of its own, as a folder that transformers reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast


def make_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Byte-pair merges of `texts`, so that they are a few tokens long; every byte is known."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=letters, special_tokens=["<end>"], show_progress=False
    )
    learner.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=learner, eos_token="<end>", model_max_length=128)


def save_language_model(folder: Path, texts: Sequence[str], *, width: int = 64, seed: int = 0) -> Path:
    """Random weights of two layers."""
    tokenizer = make_tokenizer(texts)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=width, n_layer=2, n_head=4, n_positions=128, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
