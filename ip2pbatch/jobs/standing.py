"""How a run stands: found by its folder or its recipe, shown to a person or a program."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

from ip2pbatch.cli import console
from ip2pbatch.cli.console import count, plain
from ip2pbatch.errors import UsageError
from ip2pbatch.run.renamed import leftovers
from ip2pbatch.run.view import RunView, read_run

_SHOWN = 20  # pictures and photos without a file that are listed before the rest is only counted
_COLOURS = {"done": "green", "left": "cyan", "failed": "red", "nan": "red", "flagged": "yellow", "skipped": "yellow"}


def find(run: Path) -> RunView:
    """The run in an output folder, or of a recipe file. Raises UsageError, RecipeError."""
    if run.is_dir():
        return read_run(run)
    if run.is_file():
        from ip2pbatch.plan.recipe import load_recipe

        return read_run(load_recipe(run).output.folder)
    raise UsageError(f"there is no run at {run}", hint="give the output folder of a run, or its recipe")


def unfinished(view: RunView) -> list[dict[str, Any]]:
    """The pictures of the plan that were tried and are not there, with photo, instruction, state and reason."""
    rows = {}
    for strip in view.strips:
        for edit in strip.edits:
            record = view.record(edit.key)
            if record is not None and record.status != "done":
                rows[edit.key] = {
                    "photo": strip.photo.name, "instruction": edit.instruction, "state": record.status,
                    "reason": record.detail,
                }  # fmt: skip
    return list(rows.values())


def detail_kept(view: RunView) -> dict[str, Any] | None:
    """How much of the photos' own fine detail is in the delivered files, 0 to 1: median, least, and where that is."""
    kept = {
        delivery.path: delivery.gate
        for strip in view.strips for _, edit in view.kept(strip)
        if (delivery := view.delivery(strip, edit)) is not None and delivery.gate is not None
    }  # fmt: skip
    if not kept:
        return None
    least = min(kept, key=lambda path: (kept[path], path))
    return {"median": round(median(kept.values()), 3), "least": kept[least], "least_in": least}


def as_json(view: RunView) -> dict[str, Any]:
    """All of it for `status --json`."""
    last = view.sessions[-1] if view.sessions else None
    return {
        "run": str(view.root), "name": view.plan.name, "model": view.spec.model, "backend": view.spec.backend,
        "precision": view.spec.precision, "photos": len(view.photos), "edits": view.counts(),
        "delivered": len(view.deliveries), "detail_kept": detail_kept(view),
        "leftovers": leftovers(view), "unfinished": unfinished(view),
        "broken": [{"file": name, "reason": reason} for name, reason in view.broken.items()],
        "sessions": len(view.sessions), "last": last.started if last else None, "complaints": list(view.complaints),
    }  # fmt: skip


def show(view: RunView) -> None:
    """The same for a person."""
    from rich.markup import escape

    out, facts = console.out(), as_json(view)
    out.print(f"[bold]{escape(facts['name'])}[/] in {escape(facts['run'])}")
    out.print(f"{facts['model']} on {facts['backend']} in {facts['precision']}, {count(facts['sessions'], 'session')}")
    states = [f"[{_COLOURS[state]}]{count} {state}[/]" for state, count in facts["edits"].items() if count]
    delivered = count(facts["delivered"], "file")
    out.print(f"{count(facts['photos'], 'photo')}, edits: {', '.join(states) or 'none'}; {delivered} delivered")
    if kept := facts["detail_kept"]:
        out.print(
            f"the photos' own fine detail in these files: {kept['median']:.0%} (median), "
            f"least {kept['least']:.0%} in {escape(kept['least_in'])}"
        )
    if earlier := facts["leftovers"]:
        out.print(f"still there under older names: {count(len(earlier), 'file')}, such as {escape(earlier[0])}")
    for line in [*_failures(facts["unfinished"]), *_unread(facts["broken"])]:
        out.print(escape(plain(line)))


def _unread(rows: list[dict[str, str]]) -> list[str]:
    """A line for a photo that cannot be read."""
    lines = [f"  not edited: {row['file']}: {row['reason']}" for row in rows[:_SHOWN]]
    return lines + ([f"  and {len(rows) - _SHOWN} more that cannot be read"] if len(rows) > _SHOWN else [])


def _failures(rows: list[dict[str, Any]]) -> list[str]:
    """A line for what a photo's instruction came to: it fails alike with every seed and every scale."""
    alike = Counter((row["state"], row["photo"], row["instruction"], row["reason"]) for row in rows)
    shown = list(alike.items())[:_SHOWN]
    lines = []
    for (state, photo, instruction, reason), times in shown:
        why = reason.removeprefix(f"{photo.rpartition('/')[2]}: ")
        lines.append(f"  {state}: {photo}: {instruction}: {why}" + (f" ({times} times)" if times > 1 else ""))
    rest = Counter(row["state"] for row in rows)
    rest.subtract({state: sum(n for (own, *_), n in shown if own == state) for state in rest})
    if left := {state: number for state, number in rest.items() if number}:
        lines.append("  and " + ", ".join(f"{number} more {state}" for state, number in left.items()))
    return lines
