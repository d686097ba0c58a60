"""What a judge has answered, for ever: an append-only journal beside the stage's results, which all of them share.

    answers/answers.jsonl   a sealed line an answer, or a refusal: key, model, text, why there is none, tokens

A key is the digest of what was asked: the pictures' bytes, the prompt, the judge's model and its parameters. An answer
is on the disk before the next question takes its place, so that a kill loses what is under way and nothing else, and
no other setting of the stage has it paid for again. Where the judge answers and the key to it stand nowhere in it.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from ip2pbatch.disk.atomic import disk_error
from ip2pbatch.disk.journal import Damage, Journal, read_rows, set_aside
from ip2pbatch.disk.one_writer import WriterLock
from ip2pbatch.disk.shapes import STRICT, Shape

FILE = "answers.jsonl"
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """One line. `text` is what the model said as it said it, `reason` why it said nothing; tokens are 0 where the
    endpoint does not count them.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    model: str
    text: str
    reason: str = ""
    tokens_read: Annotated[int, Field(ge=0)] = 0
    tokens_written: Annotated[int, Field(ge=0)] = 0


class Ledger:
    """The journal in `folder`, with this process as its one writer; `add` may be called from several threads."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, folder) from error
        self._lock = WriterLock(folder)
        with self._lock.gate():
            self._lock.acquire()
        self._answers: dict[str, list[Answer]] = defaultdict(list)
        damage: list[Damage] = []
        for answer in read_rows(folder / FILE, Shape(Answer), damage):
            self._answers[answer.key].append(answer)
        for bad in damage:
            log.warning("%s; moved to %s, and what they answered is asked again", bad, set_aside(bad).name)
        self._journal = Journal(folder / FILE, sealed=True)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._journal.close()
        self._lock.release()

    def of(self, key: str) -> Sequence[Answer]:
        """What was answered to a question, oldest first."""
        return self._answers.get(key, ())

    def add(self, answer: Answer) -> None:
        """Keep an answer; it is on the disk when this returns. Raises ResourceError."""
        self._journal.append(asdict(answer))
        self._answers[answer.key].append(answer)
