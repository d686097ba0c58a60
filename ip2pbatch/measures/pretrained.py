"""Models of transformers by name: a folder, or a hub id `owner/name`, pinned as `owner/name@revision`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ip2pbatch.backends.quiet import quiet
from ip2pbatch.errors import ModelError

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def load_pretrained(model: str, what: str, network: Any, others: Sequence[Any] = (), **settings: Any) -> list[Any]:
    """`network` with `settings`, and the `others` (its tokenizer), from one place; safetensors only, and no code of the
    model's. ModelError, saying that no `what` could be loaded."""
    name, _, revision = (model, "", "") if Path(model).exists() else model.partition("@")
    place = {"revision": revision} if revision else {}
    try:
        with quiet():
            first = network.from_pretrained(name, **place, **settings, use_safetensors=True)
            return [first, *(one.from_pretrained(name, **place) for one in others)]
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        hint = "give a folder with config.json, model.safetensors and the tokenizer's files, or owner/name@revision"
        raise ModelError(f"no {what} could be loaded from {model}: {reason}", hint=hint) from error
