"""What machines read of runs, locks and comparisons: JSON lines, JUnit XML, GitHub's channels. Text in, text out.

`LINE` is the JSON Schema of a JSON line. New keys may be added at any time; a key's meaning changes only with SCHEMA.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from xml.etree import ElementTree

from ip2pbatch.plan.edits import Edit, Plan
from ip2pbatch.plan.unedited import Broken, Passed
from ip2pbatch.run.directory.lines import Record
from ip2pbatch.run.execute import Summary
from ip2pbatch.run.stale import Difference
from ip2pbatch.run.verify import Finding, titles
from ip2pbatch.show.cells import STATES, Cell, Gallery, totals

SCHEMA = 1
# GitHub drops what is above 10 annotations of a kind in a step, and the whole summary where it is above 1024 KiB.
MOST_ANNOTATIONS = 10
MOST_SUMMARY_BYTES = 900_000

_TEXT, _COUNT, _NUMBER = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "number"}
_MAYBE = {"type": ["number", "null"]}
_FILES = {"type": "array", "items": {"type": "object", "properties": {"file": _TEXT, "reason": _TEXT}}}
_PASSED = {"kind": _TEXT, "files": _COUNT, "reason": _TEXT, "hint": _TEXT, "example": _TEXT}
_KINDS = {"type": "array", "items": {"type": "object", "properties": _PASSED}}
_KEYS: dict[str, dict[str, Any]] = {
    "plan": {"name": _TEXT, "model": _TEXT, "photos": _COUNT, "edits": _COUNT, "done": _COUNT, "left": _COUNT},
    "item": {
        "key": _TEXT, "photo": _TEXT, "instruction": _TEXT, "text": _NUMBER, "image": _NUMBER, "seed": _COUNT,
        "steps": _COUNT, "sampler": _TEXT, "size": {"type": "array", "items": _COUNT, "minItems": 2, "maxItems": 2},
        "status": {"enum": ["done", "failed", "nan", "flagged", "skipped", "unmatched"]},
        "detail": _TEXT, "seconds": _NUMBER,
        "metrics": {"type": "object", "additionalProperties": {"type": ["number", "null"]}},
    },
    "measured": {"key": _TEXT, "metrics": {"type": "object", "additionalProperties": {"type": ["number", "null"]}}},
    "warning": {"message": _TEXT},
    "error": {"message": _TEXT, "hint": {"type": ["string", "null"]}, "exit_code": _COUNT},
    "stale": {"topic": {"enum": ["photos", "recipe", "model", "engine", "versions"]}, "message": _TEXT},
    "finding": {
        "key": _TEXT, "photo": _TEXT, "instruction": _TEXT, "id": _TEXT, "link": _COUNT,
        "state": {"enum": ["equal", "differs", "absent"]}, "why": _TEXT,
        "rms": _MAYBE, "most": _MAYBE, "ssim": _MAYBE,
    },
    "verdict": {
        "subject": _TEXT, "counts": {"type": "object", "additionalProperties": _COUNT}, "exit_code": _COUNT,
    },
    "summary": {
        "states": {"type": "object", "additionalProperties": _COUNT}, "made": _COUNT, "delivered": _COUNT,
        "undelivered": _FILES, "broken": _FILES, "damaged": _FILES, "passed": _KINDS, "seconds": _NUMBER,
        "exit_code": _COUNT,
    },
}  # fmt: skip
LINE: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "A line of `ip2pbatch --json`",
    "oneOf": [
        {
            "type": "object",
            "properties": {"type": {"const": kind}, "schema": {"const": SCHEMA}, **keys},
            "required": ["type", "schema", *keys],
        }
        for kind, keys in _KEYS.items()
    ],
}


# --- JSON lines --------------------------------------------------------------------------------------------------


def plan_line(plan: Plan, done: int) -> str:
    """The first line of a run: what it will make. `done` Edits are there from before."""
    return _line("plan", name=plan.name, model=plan.model, photos=len(plan.photos), edits=len(plan.edits), done=done,
                 left=len(plan.edits) - done)  # fmt: skip


def item_line(edit: Edit, record: Record, photo: str) -> str:
    """What became of one Edit of the photo of that name."""
    return _line(
        "item", key=edit.key, photo=photo, instruction=edit.instruction, text=edit.guidance.text,
        image=edit.guidance.image, seed=edit.seed, steps=edit.steps, sampler=edit.sampler, size=edit.size,
        status=record.status, detail=record.detail, seconds=round(record.seconds, 3), metrics=record.metrics,
    )  # fmt: skip


def measured_line(record: Record) -> str:
    """All numbers of a picture, whenever made, that got one it lacked."""
    return _line("measured", key=record.edit, metrics=record.metrics)


def warning_line(message: str) -> str:
    """Something a person should know that stops nothing."""
    return _line("warning", message=message)


def error_line(message: str, hint: str | None, exit_code: int) -> str:
    """Why a command ended early, and the exit code it ends with."""
    return _line("error", message=message, hint=hint, exit_code=exit_code)


def summary_line(
    summary: Summary, exit_code: int | None = None, broken: Sequence[Broken] = (), passed: Sequence[Passed] = (),
    damaged: Mapping[str, str] | None = None,
) -> str:  # fmt: skip
    """The last line of a run; `exit_code` is the command's, where more than the summary decides it, `broken` the photos
    that could not even be planned, `passed` what else lay in their folders, and `damaged` says of kept files of the
    run, by path, why they cannot be shown.
    """
    code = summary.exit_code if exit_code is None else exit_code
    undelivered = [{"file": file, "reason": reason} for file, reason in summary.undelivered]
    unread = [{"file": one.name, "reason": one.reason} for one in broken]
    rotten = [{"file": file, "reason": reason} for file, reason in (damaged or {}).items()]
    kinds = [kind.as_row() for kind in passed]
    return _line("summary", states=dict(summary.states), made=summary.made, delivered=summary.delivered,
                 undelivered=undelivered, broken=unread, damaged=rotten, passed=kinds,
                 seconds=round(summary.seconds, 3), exit_code=code)  # fmt: skip


def stale_line(difference: Difference) -> str:
    """One reason why a lock is stale, for `lock --check`."""
    return _line("stale", topic=difference.topic, message=difference.text)


def finding_line(finding: Finding) -> str:
    """What `verify` found of one picture, or of one file at bitwise. Without a distance its numbers are null."""
    case, distance = finding.case, finding.distance
    return _line(
        "finding", key=case.key, photo=case.photo, instruction=case.instruction, id=case.id, link=case.link,
        state=finding.state, why=finding.why, rms=distance and distance.rms, most=distance and distance.most,
        ssim=distance and distance.ssim,
    )  # fmt: skip


def verdict_line(subject: str, counts: Mapping[str, int], exit_code: int) -> str:
    """The last line of `lock` and `verify`, and of several models: `subject` is the lock, the run or the folder that
    holds their runs, `counts` what was counted of it.
    """
    return _line("verdict", subject=subject, counts=dict(counts), exit_code=exit_code)


def _line(kind: str, **values: object) -> str:
    """One line without its end; names that are no Unicode and numbers that JSON lacks are made fit."""
    return json.dumps({"type": kind, "schema": SCHEMA, **{key: _fit(value) for key, value in values.items()}})


def _fit(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _fit(item) for key, item in value.items()}
    return value


@dataclass(frozen=True, slots=True)
class Beside:
    """What made a run end with 3 and is no Edit: a photo that cannot be read, a file that could not be written; of
    several models one whose run could not go on.
    """

    kind: Literal["broken", "undelivered", "model"]
    file: str
    why: str


def beside(summary: Summary, broken: Sequence[Broken]) -> list[Beside]:
    """All of a session that machines must not take for success."""
    photos = [Beside("broken", one.name, one.reason) for one in broken]
    return photos + [Beside("undelivered", file, reason) for file, reason in summary.undelivered]


# --- JUnit -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Case:
    """One test case; `verdict` is its JUnit element, "" for a passed one, and `kind` and `why` what stands in it."""

    group: str
    name: str
    verdict: str
    kind: str
    why: str
    seconds: float = 0.0


def junit(gallery: Gallery, beside: Sequence[Beside] = (), passed: Sequence[Passed] = ()) -> str:
    """A test suite with a case an Edit: failed and damaged are errors, nan a failure, all that was not looked at is
    skipped. What is `beside` is an error each, what was `passed` over a skipped case a kind.
    """
    return _suite(gallery.name, [
        *(_Case(cell.photo, _name(cell), _verdict(cell), cell.state, cell.detail or cell.state, cell.seconds)
          for cell in _unique(gallery.cells)),
        *(_Case(one.file, one.kind, "error", one.kind, one.why) for one in beside),
        *(_Case("passed over", kind.kind, "skipped", "passed over", str(kind)) for kind in passed),
    ])  # fmt: skip


def junit_of_findings(name: str, findings: Sequence[Finding]) -> str:
    """A test suite of `verify`: a case a comparison, a failure where it differs, an error where there was nothing."""
    element = {"equal": "", "differs": "failure", "absent": "error"}
    return _suite(name, [
        _Case(f.case.photo, f"{f.case.title} ({f.case.key[:8]})", element[f.state], f.state, f.why) for f in findings
    ])  # fmt: skip


def junit_of_lock(name: str, found: Sequence[Difference]) -> str:
    """A test suite of `lock --check`: a case a topic, with a failure where there are reasons to call it stale."""
    reasons = {topic: [d.text for d in found if d.topic == topic] for topic in _KEYS["stale"]["topic"]["enum"]}
    return _suite(name, [
        _Case("lock", topic, "failure" if texts else "", "stale", "; ".join(texts)) for topic, texts in reasons.items()
    ])  # fmt: skip


def _suite(name: str, cases: Sequence[_Case]) -> str:
    counts = Counter(case.verdict for case in cases)
    suite = ElementTree.Element("testsuite", {
        "name": _xml(name), "tests": str(len(cases)), "errors": str(counts["error"]),
        "failures": str(counts["failure"]), "skipped": str(counts["skipped"]),
        "time": f"{sum(case.seconds for case in cases):.3f}",
    })  # fmt: skip
    for case in cases:
        element = ElementTree.SubElement(suite, "testcase", {
            "classname": _xml(case.group), "name": _xml(case.name), "time": f"{case.seconds:.3f}",
        })  # fmt: skip
        if case.verdict:
            ElementTree.SubElement(element, case.verdict, {"type": case.kind, "message": _xml(case.why)})
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=False) + "\n"


def _verdict(cell: Cell) -> str:
    """The JUnit element of a state; "" for a passed case."""
    return {"done": "", "failed": "error", "damaged": "error", "nan": "failure"}.get(cell.state, "skipped")


def _xml(text: str) -> str:
    """`text` without the characters that XML 1.0 does not have."""
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)


def _name(cell: Cell) -> str:
    settings = ", ".join(filter(None, (cell.told, f"seed {cell.seed}")))
    return f"{f'{cell.model}: ' * bool(cell.model)}{cell.edit}: {cell.instruction} ({settings})"


def _unique(cells: Iterable[Cell]) -> list[Cell]:
    """Every Edit once, though several strips may share it."""
    return list({(cell.model, cell.key): cell for cell in cells}.values())


# --- GitHub ------------------------------------------------------------------------------------------------------


def github_annotations(gallery: Gallery, file: str = "", beside: Sequence[Beside] = ()) -> list[str]:
    """Workflow commands for what went wrong: errors for failed, nan and damaged and what is `beside`, warnings for
    flagged and skipped pictures.

    Of each kind there are at most MOST_ANNOTATIONS, the last of which counts the rest. `file` is the recipe.
    """
    cells = _unique(gallery.cells)
    wrong = [(f"{one.kind}: {one.file}", one.why) for one in beside]
    wrong += [_said(cell) for cell in cells if cell.state in ("failed", "nan", "damaged")]
    doubtful = [_said(cell) for cell in cells if cell.state in ("flagged", "skipped")]
    return [*_commands("error", wrong, file), *_commands("warning", doubtful, file)]


def github_findings(findings: Sequence[Finding]) -> list[str]:
    """Workflow commands for what `verify` found to differ or to be absent, at most MOST_ANNOTATIONS."""
    said = titles([finding.case for finding in findings])
    rows = [(f"{f.state}: {f.case.photo}", f"{said[f.case]}: {f.why}") for f in findings if f.state != "equal"]
    return list(_commands("error", rows, "", "see the log"))


def github_stale(found: Sequence[Difference], file: str) -> list[str]:
    """Workflow commands for the reasons why the lock `file` is stale, at most MOST_ANNOTATIONS."""
    return list(_commands("error", [(f"stale: {one.topic}", one.text) for one in found], file, "see the log"))


def _said(cell: Cell) -> tuple[str, str]:
    return f"{cell.state}: {cell.photo}", f"{cell.instruction}: {cell.detail or cell.state}"


def _commands(
    kind: str, rows: Sequence[tuple[str, str]], file: str, where: str = "see the report"
) -> Iterator[str]:  # fmt: skip
    """A command for each (title, message); the last one counts what does not fit, and says where it stands."""
    shown = rows if len(rows) <= MOST_ANNOTATIONS else rows[: MOST_ANNOTATIONS - 1]
    for title, message in shown:
        yield _command(kind, title, message, file)
    if len(shown) < len(rows):
        yield _command(kind, "more", f"and {len(rows) - len(shown)} more: {where}", file)


def _command(kind: str, title: str, message: str, file: str) -> str:
    properties = {"file": file, "title": title} if file else {"title": title}
    given = ",".join(f"{key}={_escaped(value, ':,')}" for key, value in properties.items())
    return f"::{kind} {given}::{_escaped(message, '')}"


def _escaped(text: str, more: str) -> str:
    """As GitHub's own toolkit does it, so that no text can end its command and begin another."""
    for char in "%\r\n" + more:
        text = text.replace(char, f"%{ord(char):02X}")
    return text.encode("utf-8", "replace").decode()


def github_summary(gallery: Gallery, beside: Sequence[Beside] = (), *, room: int = MOST_SUMMARY_BYTES) -> str:
    """Markdown for GITHUB_STEP_SUMMARY: the totals, then what is `beside` and every picture that is not done, within
    `room` bytes; nothing where not even the totals fit.
    """
    cells = _unique(gallery.cells)
    more = "".join(f", {number} {kind}" for kind, number in Counter(one.kind for one in beside).items())
    text = f"### {_markdown(gallery.name)}\n\n{totals(cells)}{more}, by {_markdown(gallery.model)}\n"
    undone = sorted((c for c in cells if c.state != "done"), key=lambda cell: STATES.index(cell.state))
    wrong: list[tuple[str, str, str, str]] = [(one.file, "", one.kind, one.why) for one in beside]
    wrong += [(cell.photo, cell.instruction, cell.state, cell.detail) for cell in undone]
    if wrong:
        text += "\n| photo | instruction | state | why |\n| --- | --- | --- | --- |\n"
    parts, size = [text], len(text.encode())
    if size > room:
        return ""
    for at, words in enumerate(wrong):
        row = " | ".join(map(_markdown, words))
        size += len(row.encode()) + 5
        if size > room:
            parts.append(f"\nand {len(wrong) - at} more of {len(cells) + len(beside)}: see the report\n")
            break
        parts.append(f"| {row} |\n")
    return "".join(parts)


def _markdown(text: str) -> str:
    """`text` as nothing but text, on one line of at most 300 characters."""
    line = " ".join(text.encode("utf-8", "replace").decode().split())
    line = line if len(line) <= 300 else line[:299] + "…"
    return re.sub(r"([\\`*_\[\]|#~!@$:])", r"\\\1", html.escape(line))
