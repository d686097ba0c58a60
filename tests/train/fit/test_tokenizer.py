"""The tokenizer of the instructions' own words, and the captions it is learnt from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import CLIPTokenizer

from ip2pbatch.train.captions.wordings_stage import Config, make_captions, vary
from ip2pbatch.train.fit.tokenizer import train_tokenizer
from ip2pbatch.train.pairs.families import FAMILIES
from ip2pbatch.train.pairs.families.wordings import load

WORDINGS = Path(__file__).parents[3] / "training" / "tiny" / "instructions.yaml"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    """A small tokenizer, saved and loaded again."""
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["make it winter", "turn this photo into a pencil sketch"] * 3, 600, 16).save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def words(tokenizer: CLIPTokenizer, text: str) -> list[str]:
    return tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids)


def test_known_words_stay_whole_whatever_their_case(tokenizer: CLIPTokenizer) -> None:
    expected = ["<|startoftext|>", "make</w>", "it</w>", "winter</w>", "<|endoftext|>"]
    assert words(tokenizer, "Make  IT winter") == expected


@pytest.mark.parametrize("text", ["a psychedelic aquarium", "fais-en l'été", "冬にする", "🏔️ 50% more!", "\t\n"])
def test_nothing_is_unknown(tokenizer: CLIPTokenizer, text: str) -> None:
    pieces = words(tokenizer, text)[1:-1]
    assert "<|endoftext|>" not in pieces
    assert bool(pieces) == bool(text.strip())


def test_an_unseen_word_falls_into_pieces_of_seen_ones(tokenizer: CLIPTokenizer) -> None:
    assert words(tokenizer, "sketch") == ["<|startoftext|>", "sketch</w>", "<|endoftext|>"]
    pieces = words(tokenizer, "winterphoto")[1:-1]
    assert "".join(pieces).removesuffix("</w>") == "winterphoto"
    assert len(pieces) < len("winterphoto")


def test_long_instructions_are_cut_and_short_ones_padded_to_one_length(tokenizer: CLIPTokenizer) -> None:
    for text in ("winter " * 50, "winter", ""):
        assert len(tokenizer(text, padding="max_length", max_length=16, truncation=True).input_ids) == 16


def test_captions_cover_every_family_and_leak_no_held_out_wording() -> None:
    lines = make_captions(load(WORDINGS), Config(maker="template", wordings=WORDINGS))
    trained = {line.instruction for line in lines if line.split == "train"}
    held = {line.instruction for line in lines if line.split == "held_out"}
    assert not trained & held
    assert {line.family for line in lines if line.split == "train"} == set(FAMILIES)
    assert all("{" not in line.instruction + line.before + line.after for line in lines)
    assert all(line.before != line.after for line in lines)


def test_variations_are_drawn_from_the_seed_and_keep_what_matters() -> None:
    said = {vary("turn this photo into a pencil sketch", np.random.default_rng(seed)) for seed in range(30)}
    assert len(said) > 15
    assert all("pencil" in text and "sketch" in text for text in said)
    assert vary("add snow", np.random.default_rng(4)) == vary("add snow", np.random.default_rng(4))
