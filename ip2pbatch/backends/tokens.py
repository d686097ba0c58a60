"""Instructions as the text encoder reads them, the same for every backend."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ip2pbatch.backends.single_file import ldm_file

_HALF = re.compile(r"(?<![^\W\d_a-zA-Z])[a-zA-Z]+\Z")  # of a word in Latin letters: other scripts may part none


def load_tokenizer(model: Path) -> Any:
    """The tokenizer of a model's folder or file. Raises ModelError where a file's vocabulary is not on this machine."""
    import transformers

    if model.is_file():
        single = ldm_file.check(model)
        return single.vocabulary.tokenizer(single.tokens)

    return transformers.CLIPTokenizer.from_pretrained(model / "tokenizer", local_files_only=True)


def tokenize(tokenizer: Any, instructions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask [n, tokens], padded and cut as diffusers' pipeline does."""
    words = tokenizer(
        list(instructions), padding="max_length", max_length=tokenizer.model_max_length, truncation=True,
        return_tensors="pt",
    )  # fmt: skip
    return words.input_ids, words.attention_mask


def words_read(tokenizer: Any, instruction: str, room: int | None = None) -> str:
    """`instruction`, or its beginning where it has more tokens than the text encoder reads, which are `room` where that
    is not what the tokenizer says; half a word is none.
    """
    read = tokenizer(instruction, add_special_tokens=False, verbose=False, return_offsets_mapping=True)
    room = room or tokenizer.model_max_length - 2  # its own marks for start and end
    if len(read.input_ids) <= room:
        return instruction
    begin = instruction[: read.offset_mapping[room - 1][1]]
    whole = _HALF.sub("", begin) if instruction[len(begin)].isalpha() else begin
    return whole or begin
