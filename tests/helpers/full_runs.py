"""Runs of very many pictures that nobody made: each a link to one file, with the record that a run would have left."""

from __future__ import annotations

import io
from contextlib import closing
from pathlib import Path

from PIL import Image
from scale import INVOCATION, Links, batched

from ip2pbatch.disk.journal import Journal, sealed_lines
from ip2pbatch.jobs import engines
from ip2pbatch.plan.defaults import model_defaults
from ip2pbatch.plan.expand import expand
from ip2pbatch.plan.photos import scan
from ip2pbatch.plan.written.recipe import Recipe
from ip2pbatch.run.directory.layout import Layout
from ip2pbatch.run.directory.ledger import open_run
from ip2pbatch.run.directory.lines import Record
from ip2pbatch.run.machine import Machine


def full_run(folder: Path, **recipe: object) -> Path:
    """The output folder of a run of all that a recipe asks for of the photos in `folder`/photos."""
    out = folder / "out"
    data = {"model": "tiny", "photos": folder / "photos", "size": 64, "output": {"folder": out}, **recipe}
    asked = Recipe.model_validate(data)
    plan = expand(asked, scan(asked.photos), model_defaults("tiny"))
    spec, _ = engines.choose("tiny", Machine(backend="fake"), safety=True, note=print)
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), (90, 120, 60)).save(buffer, "PNG")
    with open_run(out, spec, defaults=model_defaults("tiny")) as run:
        run.begin_session(plan, INVOCATION)
    layout, pictures = Layout(out / ".ip2pbatch"), Links(folder / "picture", buffer.getvalue())
    with closing(Journal(layout.results(None))) as results:
        for edits in batched(plan.edits, 1000):
            for edit in edits:
                pictures.appear(str(layout.picture(edit.key)))
            rows = (Record(edit.key, "done", 0.1, "", {}, len(buffer.getvalue())).as_row() for edit in edits)
            results.write(sealed_lines(rows), lasting=False)
    return out
