"""CLIP's vocabulary, which a file of weights does not hold: found in what this machine has already."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ip2pbatch.errors import ModelError

CLIP = "openai/clip-vit-large-patch14"
_HINT = f"fetch it once, it is small: `hf download {CLIP} vocab.json merges.txt`"
_PACKAGES = ("open_clip", "clip")  # both ship the list of merges that OpenAI published
_MERGES = "bpe_simple_vocab_16e6.txt.gz"
_COUNTED = 49152 - 256 - 2  # merges of that list that CLIP uses: it has 262,000
_MARKS = ("<|startoftext|>", "<|endoftext|>")
_LIMIT = 1 << 24  # bytes of a vocabulary's file: CLIP's has one million


@dataclass(frozen=True)
class Vocabulary:
    """Words by number, and the merges that make them of bytes."""

    words: dict[str, int]
    merges: list[tuple[str, str]] = field(repr=False)

    @property
    def digest(self) -> str:
        """sha256 over both, however they were stored."""
        return hashlib.sha256(json.dumps([self.words, self.merges], sort_keys=True).encode()).hexdigest()

    def tokenizer(self, length: int) -> Any:
        """transformers' tokenizer of it, which cuts after `length` tokens."""
        import transformers

        return transformers.CLIPTokenizer(vocab=self.words, merges=self.merges, model_max_length=length)

    def write(self, folder: Path, length: int) -> None:
        """The files of a tokenizer in `folder`."""
        marks = {"bos_token": _MARKS[0], "eos_token": _MARKS[1], "pad_token": _MARKS[1], "unk_token": _MARKS[1]}
        config = {"model_max_length": length, "tokenizer_class": "CLIPTokenizer", **marks}
        merges = "".join(f"{first} {second}\n" for first, second in self.merges)
        texts = {
            "vocab.json": json.dumps(self.words, ensure_ascii=False), "merges.txt": f"#version: 0.2\n{merges}",
            "tokenizer_config.json": json.dumps(config, indent=2),
            "special_tokens_map.json": json.dumps(marks, indent=2),
        }  # fmt: skip
        folder.mkdir(parents=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")


def find(size: int, file: Path) -> Vocabulary:
    """A vocabulary of `size` words on this machine, for the text encoder of `file`: from the hub's cache, or a package
    that ships it. ModelError where there is none.
    """
    for found in _candidates():
        if len(found.words) == size and all(mark in found.words for mark in _MARKS):
            return found
    raise ModelError(f"{file} needs CLIP's vocabulary of {size:,} words, which is not on this machine", hint=_HINT)


def _candidates() -> Iterator[Vocabulary]:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    for folder in (*_folders(cache, f"models--{CLIP.replace('/', '--')}"), *_folders(cache, "models--*")):
        with suppress(OSError, ValueError, AttributeError, TypeError):
            yield _read(folder)
    for package in _PACKAGES:
        spec = importlib.util.find_spec(package)
        for root in spec.submodule_search_locations or () if spec else ():
            with suppress(OSError, ValueError):
                yield _from_merges(Path(root) / _MERGES)


def _folders(cache: Path, repository: str) -> Iterator[Path]:
    """Where vocabularies may lie: beside a text encoder's weights, or in a model's folder of it."""
    for below in ("", "tokenizer/"):
        for file in sorted(cache.glob(f"{repository}/snapshots/*/{below}vocab.json")):
            yield file.parent


def _read(folder: Path) -> Vocabulary:
    words, merges = folder / "vocab.json", folder / "merges.txt"
    if max(words.stat().st_size, merges.stat().st_size) > _LIMIT:
        raise ValueError(f"{folder} holds no vocabulary")
    found = {str(word): int(number) for word, number in json.loads(words.read_text("utf-8")).items()}
    lines = (line.split() for line in merges.read_text("utf-8").splitlines() if not line.startswith("#version"))
    return Vocabulary(found, [(pair[0], pair[1]) for pair in lines if len(pair) == 2])


def _from_merges(file: Path) -> Vocabulary:
    """OpenAI's list → the vocabulary: the bytes, those that end a word, a word for each merge, the two marks."""
    from tokenizers.pre_tokenizers import ByteLevel

    with gzip.open(file, "rt", encoding="utf-8") as lines:
        text = lines.read(_LIMIT).split("\n")[1 : 1 + _COUNTED]
    merges = [(first, second) for first, second in (line.split() for line in text)]
    letters = _letters(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges), *_MARKS]
    return Vocabulary({word: number for number, word in enumerate(words)}, merges)


def _letters(alphabet: list[str]) -> list[str]:
    """The 256 letters that stand for bytes in CLIP's order: first those that are the byte itself."""
    return sorted(alphabet)  # the others were numbered from 256 on, so that by code point they come last
