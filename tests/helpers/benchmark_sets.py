"""Three benchmarks of other people in their published layouts, with pictures and words of ours."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tiny_models import make_picture

KINDS = ("adjust", "style", "add")
SCORES = (
    "Brief reasoning: it is there: half of it.\n**Prompt Compliance:** 4\nVisual Seamlessness: 3/5\nDetail Fidelity: 2"
)
VIE_PROMPTS = '''# generated
import nothing_that_is_installed

_context_no_delimit = """Judge it. {"score": [...]}"""
_prompts_0shot_two_image_edit_rule = "Two images."
_prompts_0shot_tie_rule_SC = """Editing instruction: <instruction>"""
_prompts_0shot_rule_PQ = """One image."""
'''


def save_imgedit(test: Path, edits: int = 6) -> Path:
    """Benchmark/singleturn with so many edits: of each kind in turn, two of a picture."""
    rows = {}
    for number in range(edits):
        name = f"tiere\u0308/{number // 2:05d}.jpg"  # as a Mac writes it
        (test / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_picture(number // 2, (96, 64))).save(test / name)
        rows[str(1000 + number)] = {"id": name, "prompt": f"make it {number}", "edit_type": KINDS[number % 3]}
    (test / "singleturn.json").write_text(json.dumps(rows))
    (test / "judge_prompt.json").write_text(json.dumps({kind: f"{kind}: did it <edit_prompt>?" for kind in KINDS}))
    return test


def save_gedit(test: Path) -> Path:
    """A snapshot of four edits in two languages; the second one is not of the intersection."""
    rows = [
        {"task_type": task, "key": f"k{number}", "instruction_language": language, "Intersection_exist": number != 1,
         "instruction": f"{language} {number}", "input_image": picture_cell(number), "input_image_raw": picture_cell(9)}
        for number, task in enumerate(("tone_transfer", "color_alter"))
        for language in ("en", "cn")
    ]  # fmt: skip
    return save_parquet(rows, test / "data" / "train-00000-of-00001.parquet", test)


def save_emu_edit(test: Path) -> Path:
    """A snapshot of three edits for the test and one for the validation."""
    rows = [
        {"instruction": f"make it {number}", "image": picture_cell(number // 2), "task": ("style", "add")[number % 2],
         "split": "test", "idx": number, "hash": f"{number}", "input_caption": "a house", "output_caption": "a boat"}
        for number in range(3)
    ]  # fmt: skip
    save_parquet([rows[0] | {"split": "validation"}], test / "data" / "validation-00000-of-00001-a.parquet", test)
    return save_parquet(rows, test / "data" / "test-00000-of-00001-b.parquet", test)


def picture_cell(number: int) -> dict[str, Any]:
    """A picture as `datasets` writes it."""
    stream = io.BytesIO()
    Image.fromarray(make_picture(number, (96, 64))).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": None}


def save_parquet(rows: list[dict[str, Any]], path: Path, test: Path) -> Path:
    """The set at `test`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return test


def words_of(body: dict[str, Any]) -> str:
    """What a judge was asked."""
    return str(body["messages"][0]["content"][0]["text"])
