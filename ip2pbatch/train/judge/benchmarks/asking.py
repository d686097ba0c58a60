"""A model that looks at pictures is asked about them, through any endpoint that speaks OpenAI's chat completions.

What the endpoint as a whole refuses (no such key, no such model) or does not answer ends the stage, and what was
answered is kept. What it refuses or answers unusably to one question is that question's own: it is asked again, at most
`attempts` times in all, and then it has no scores and a reason.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import Field, field_validator
from tqdm import tqdm

from ip2pbatch.disk.digests import file_sha256
from ip2pbatch.errors import PhotoError, StoppedError
from ip2pbatch.pictures.images import load
from ip2pbatch.run.stop import Flag, Stop, listening
from ip2pbatch.train.captions.endpoint import Endpoint, RefusedError, post
from ip2pbatch.train.judge.benchmarks.answer_ledger import Answer, Ledger

OF_ONE_QUESTION = frozenset({400, 413, 415, 422})  # statuses that may be about the pictures or the words of one
MOST_REFUSED = 10  # questions that are refused before any is answered: then it is not about them
AS_THEY_ARE = frozenset({"PNG", "JPEG", "WEBP"})  # kinds of files that judges read
OURS = frozenset({"model", "messages", "n", "stream"})
log = logging.getLogger(__name__)

Scores = tuple[float, ...]
Parse = Callable[[str], Scores]
"""From an answer to its scores. Raises UnusableError."""


class UnusableError(ValueError):
    """An answer without the scores that were asked for; its text is the reason."""


class JudgeEndpoint(Endpoint):
    """The judge. `parameters` are sent along with every question, such as {temperature: 0}; without them the endpoint's
    own count.
    """

    parameters: dict[str, bool | int | float | str] = Field(default={})
    attempts: int = Field(3, ge=1)  # answers to one question that may be unusable

    @field_validator("parameters")
    @classmethod
    def _ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := OURS & value.keys():
            raise ValueError(f"{min(taken)} is set by the stage")
        return value


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture that the judge is shown: the file as it is, or resized to `size` (width, height), bicubic, as PNG."""

    path: Path
    size: tuple[int, int] | None = None

    @property
    def digest(self) -> str:
        """Of what is shown, without making it. Raises OSError."""
        return file_sha256(self.path) + (f" {self.size[0]}x{self.size[1]}" if self.size else "")

    def url(self) -> str:
        """A data URL. Raises OSError, and PhotoError where the file is no whole picture."""
        pixels = load(self.path).pixels
        with Image.open(self.path) as opened:
            kind, as_it_is = opened.format or "", self.size in (None, opened.size)
        if as_it_is and kind in AS_THEY_ARE:
            data = self.path.read_bytes()
        else:
            kind, stream = "PNG", io.BytesIO()
            picture = Image.fromarray(pixels)
            (picture if self.size is None else picture.resize(self.size, Image.Resampling.BICUBIC)).save(stream, kind)
            data = stream.getvalue()
        return f"data:{Image.MIME[kind]};base64,{base64.b64encode(data).decode()}"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and about which pictures; `name` is for people and tells questions apart."""

    name: str
    prompt: str
    pictures: tuple[Shown, ...]

    def key(self, judge: JudgeEndpoint) -> str:
        """sha256 over all that decides the answer. Raises OSError where a picture cannot be read."""
        parts = [judge.model, judge.parameters, self.prompt, [shown.digest for shown in self.pictures]]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def body(self, judge: JudgeEndpoint) -> dict[str, Any]:
        """The request: one message, the words first and then the pictures, as the published scripts send them."""
        content: list[dict[str, Any]] = [{"type": "text", "text": self.prompt}]
        content += [{"type": "image_url", "image_url": {"url": shown.url()}} for shown in self.pictures]
        return {"model": judge.model, "messages": [{"role": "user", "content": content}], **judge.parameters}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a question: scores and what the judge said, or a reason why there are none."""

    scores: Scores | None
    text: str = ""
    reason: str = ""


class _HaltedError(Exception):
    """The stage is to end, and this question is not asked any more."""


@dataclass
class Hearing:
    """Questions to one judge, several at a time; `ledger` keeps the answers."""

    judge: JudgeEndpoint
    ledger: Ledger
    parse: Parse
    halt: Flag = field(default_factory=Flag)
    failures: dict[str, list[str]] = field(default_factory=dict)  # by key: what cost nothing and gave no answer
    answered: int = 0
    _counting: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, questions: Sequence[Question]) -> dict[str, Verdict]:
        """The verdict on each question by its name, after asking those that the ledger has no usable answer to.

        MissingError or RefusedError where the endpoint fails, StoppedError where a signal asked for an end: what was
        answered until then is kept.
        """
        keys, unread = self._keys(questions)
        open_ = {key: one for one in questions if (key := keys.get(one.name)) and self._is_open(key)}
        if open_:
            with listening("the questions under way are answered") as stop:
                self._ask_all(open_, stop)
        return unread | {name: self.verdict(key) for name, key in keys.items()}

    def _keys(self, questions: Iterable[Question]) -> tuple[dict[str, str], dict[str, Verdict]]:
        keys, unread = {}, {}
        for one in questions:
            try:
                keys[one.name] = one.key(self.judge)
            except OSError as error:
                unread[one.name] = Verdict(None, reason=f"a picture cannot be read: {error}")
        return keys, unread

    def _is_open(self, key: str) -> bool:
        tried = len(self.ledger.of(key)) + len(self.failures.get(key, ()))
        return self.verdict(key).scores is None and tried < self.judge.attempts

    def verdict(self, key: str) -> Verdict:
        """The first usable answer, or why the last one is not."""
        found = [self._of(answer) for answer in self.ledger.of(key)]
        usable = next((one for one in found if one.scores is not None), None)
        failures = [Verdict(None, reason=why) for why in self.failures.get(key, ())]
        return usable or [Verdict(None, reason="was not asked"), *found, *failures][-1]

    def _of(self, answer: Answer) -> Verdict:
        if answer.reason:
            return Verdict(None, answer.text, answer.reason)
        try:
            return Verdict(self.parse(answer.text), answer.text)
        except UnusableError as error:
            return Verdict(None, answer.text, str(error))

    def _ask_all(self, questions: Mapping[str, Question], stop: Stop) -> None:
        trouble: BaseException | None = None
        with (
            ThreadPoolExecutor(self.judge.at_once) as pool,
            tqdm(total=len(questions), desc=f"asking {self.judge.model}", mininterval=5) as bar,
        ):
            futures = [pool.submit(self._settle, key, one, stop) for key, one in questions.items()]
            tally = {"judged": 0, "failed": 0}
            for future in as_completed(futures):
                error = future.exception()
                if error is None:
                    tally["judged" if future.result() else "failed"] += 1
                    bar.set_postfix(tally, refresh=False)
                    bar.update()
                elif not isinstance(error, _HaltedError):
                    trouble = trouble or error
                    self.halt.set()
        if trouble:
            raise trouble
        if stop.signal:
            left = len(questions) - sum(tally.values())
            raise StoppedError(f"{left:,} questions are left; run again to go on", stop.exit_code)

    def _settle(self, key: str, question: Question, stop: Stop) -> bool:
        """Ask until there is a usable answer or enough that are none; whether there is one."""
        while self._is_open(key):
            if stop.asked.is_set() or self.halt.is_set():
                raise _HaltedError
            self._ask(key, question, stop)
        return self.verdict(key).scores is not None

    def _ask(self, key: str, question: Question, stop: Stop) -> None:
        """Once more: an answer goes into the ledger, and why there is none among the failures."""

        def pause(seconds: float) -> None:
            stop.asked.wait(seconds)
            if stop.asked.is_set() or self.halt.is_set():
                raise _HaltedError

        try:
            found = post(self.judge, "chat/completions", question.body(self.judge), pause)
        except (OSError, PhotoError) as error:
            self._fail(key, f"a picture cannot be read: {error}")
        except RefusedError as error:
            self._fail(key, f"refused: {error}")
            if error.status not in OF_ONE_QUESTION or (not self.answered and len(self.failures) >= MOST_REFUSED):
                raise
        else:
            self.ledger.add(read_answer(key, self.judge.model, found))
            self.answered += 1

    def _fail(self, key: str, reason: str) -> None:
        log.warning("%s", reason)
        with self._counting:
            self.failures.setdefault(key, []).append(reason)

    def tokens(self, questions: Iterable[Question]) -> int:
        """How many the judge has read and written for all answers to these questions, where it counts them."""
        keys = self._keys(questions)[0].values()
        return sum(one.tokens_read + one.tokens_written for key in set(keys) for one in self.ledger.of(key))


def read_answer(key: str, model: str, found: Mapping[str, Any]) -> Answer:
    """An endpoint's answer as a line of the ledger; one without words has a reason."""
    usage = found.get("usage")
    tokens = [count_of(usage, name) for name in ("prompt_tokens", "completion_tokens")]
    try:
        choice = found["choices"][0]
        message = choice["message"]
        text = message.get("content")
        why = message.get("refusal") or f"finished with {choice.get('finish_reason')}"
    except (KeyError, IndexError, TypeError, AttributeError):
        return Answer(key, model, "", f"no answer in {json.dumps(found)[:200]}", *tokens)
    if not isinstance(text, str) or not text.strip():
        return Answer(key, model, "", f"the judge said nothing: {str(why)[:200]}", *tokens)
    return Answer(key, model, text, "", *tokens)


def count_of(usage: object, name: str) -> int:
    """A count of tokens that an endpoint gives; 0 where it gives none."""
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if isinstance(value, int) and value >= 0 else 0
