"""The text that a language model is taught and asked: the authors' format of caption, instruction and edited caption.

    a house by the sea
    ##
    make it snow
    %%
    a house by the sea in snow
    END

Everything up to and with the line of ## is the prompt; the rest, after which the model stops, is the completion.
"""

from __future__ import annotations

from collections.abc import Sequence

from ip2pbatch.train.data.released import Prompt

ASK, BETWEEN, STOP = "\n##\n", "\n%%\n", "\nEND"


class RejectedError(ValueError):
    """A completion that is no usable edit; its text is the reason, one word that is counted."""


def prompt_text(caption: str, examples: Sequence[Prompt] = ()) -> str:
    """What the model is given; `examples` go before it where the model was not taught the format."""
    shown = "".join(f"{one.input}{ASK}{completion_text(one)}\n\n" for one in examples)
    return f"{shown}{caption}{ASK}"


def completion_text(triplet: Prompt) -> str:
    """What the model should answer."""
    return f"{triplet.edit}{BETWEEN}{triplet.output}{STOP}"


def parse(caption: str, completion: str) -> tuple[str, str]:
    """(instruction, edited caption) of an answer. RejectedError: `unparsable`, `empty` or `unchanged`."""
    parts = completion.partition(STOP)[0].rstrip("\n").split(BETWEEN.rstrip("\n"))
    if len(parts) != 2:
        raise RejectedError("unparsable")
    edit, output = (part.strip() for part in parts)
    if not edit or not output:
        raise RejectedError("empty")
    if "\n" in edit or "\n" in output:
        raise RejectedError("unparsable")
    if plain(output) == plain(caption):
        raise RejectedError("unchanged")
    return edit, output


def plain(caption: str) -> str:
    """A caption without what makes two of them differ only on paper."""
    return caption.strip().strip(".!?").lower()
