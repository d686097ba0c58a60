"""Which word of an edited caption takes its attention from which of the caption: Prompt-to-Prompt's two alignments.

Replacement (as many words in both captions): a changed word's tokens share out the attention of the word that stood in
its place. Refinement (any other edit): the longest run of tokens in the same order that both captions have keeps its
attention, everything else is new. Formulas as in google/prompt-to-prompt `seq_aligner.py`, but for a defect of its
replacement: after the last changed word it mapped places, not words, and so shifted whatever followed a longer one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
MOSTLY = 0.5  # captions that share fewer of their words in place are no replacement, though they have as many


def align(tokenizer: Any, caption: str, edited: str) -> tuple[Floats, Floats]:
    """`carried` [tokens, tokens] and `own` [tokens] of `prompt_to_prompt.WordMaps` for one pair of captions."""
    before, after = caption.split(), edited.split()
    length = int(tokenizer.model_max_length)
    old, new = ([tokenizer(word, add_special_tokens=False).input_ids for word in words] for words in (before, after))
    same = sum(a.lower() == b.lower() for a, b in zip(before, after, strict=False))
    if len(before) == len(after) and same >= MOSTLY * len(before):
        return replaced(old, new, length)
    return refined(old, new, length)


def replaced(before: list[list[int]], after: list[list[int]], length: int) -> tuple[Floats, Floats]:
    """The alignment of captions with as many words: `before` and `after` are the tokens of each word.

    Every token of the caption hands on all its attention, so that the second's maps sum to one as well.
    """
    carried = np.zeros((length, length), np.float32)
    carried[0, 0] = 1.0  # the mark at the start
    i = j = 1
    for old, new in zip(before, after, strict=True):
        if len(old) == len(new):
            for step in range(len(new)):
                hand_on(carried, i + step, j + step, 1.0)
        else:
            for a in range(len(old)):
                for b in range(len(new)):
                    hand_on(carried, i + a, j + b, 1 / len(new))
        i, j = i + len(old), j + len(new)
    while i < length:  # the mark at the end and the padding
        hand_on(carried, i, j, 1.0)
        i, j = i + 1, j + 1
    return carried, np.zeros(length, np.float32)


def hand_on(carried: Floats, source: int, target: int, part: float) -> None:
    """Give `part` of a token's attention to another; what lies beyond the last token goes to the last."""
    length = len(carried)
    if source < length:
        carried[source, min(target, length - 1)] += part


def refined(before: list[list[int]], after: list[list[int]], length: int) -> tuple[Floats, Floats]:
    """The alignment of any two captions: common tokens in common order are carried, new ones keep their own."""
    old = [token for word in before for token in word][: length - 2]
    new = [token for word in after for token in word][: length - 2]
    carried, own = np.zeros((length, length), np.float32), np.zeros(length, np.float32)
    carried[0, 0] = 1.0
    own[1 : len(new) + 1] = 1.0
    for i, j in common_subsequence(old, new):
        carried[i + 1, j + 1], own[j + 1] = 1.0, 0.0
    for i, j in zip(range(len(old) + 1, length), range(len(new) + 1, length), strict=False):
        carried[i, j] = 1.0  # the mark at the end on the other's, padding on padding
    own[len(new) + 1 + length - (len(old) + 1) :] = 1.0  # padding that the caption has no like of
    return carried, own


def common_subsequence(old: list[int], new: list[int]) -> list[tuple[int, int]]:
    """The places of a longest common subsequence: Needleman-Wunsch with match 1, mismatch −1, gap 0."""
    best = np.zeros((len(old) + 1, len(new) + 1), np.int32)
    for i in range(len(old)):
        for j in range(len(new)):
            best[i + 1, j + 1] = best[i, j] + 1 if old[i] == new[j] else max(best[i, j + 1], best[i + 1, j])
    pairs, i, j = [], len(old), len(new)
    while i and j:
        if old[i - 1] == new[j - 1]:
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif best[i - 1, j] >= best[i, j - 1]:
            i -= 1
        else:
            j -= 1
    return pairs[::-1]
