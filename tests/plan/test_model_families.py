"""A family of models that a line adds: its folder is recognised, planned, opened, run, and named in files and lists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from one_line import with_line

from ip2pbatch.plan.families import FAMILIES, family_of

DARKROOM = """
import importlib.metadata
from ip2pbatch.backends.model_folder import Layout
from ip2pbatch.engine.fake import FakeEngine
from ip2pbatch.errors import ModelError


def check(path, kind="edit", *, checker=True):
    if not (path / "paper.json").is_file():
        raise ModelError(f"{path} has no paper.json", hint="fetch the model again")
    return Layout(path, {}, ("model_index.json", "paper.json"), {})


def precision(folder, device):
    return "fp32"


def refuse(folder, edits):
    pass


def speedups(layout, device, dtype):
    return {}


def open_engine(folder, device, precision, machine, *, safety, edits, note):
    note(f"developing on {device} in {precision}")
    return FakeEngine()
"""
LINE = """
from ip2pbatch.plan.families import FAMILIES, Family, ModelDefaults
FAMILIES["darkroom"] = Family("Darkroom", ("DarkroomPipeline",), ModelDefaults(3, 2, 96, 4, "ddim"), "darkroom:check", "darkroom")
"""  # noqa: E501 (a line, as it would be written)


def model(folder: Path, pipeline: str) -> Path:
    folder.mkdir()
    (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    (folder / "paper.json").write_text("{}")
    return folder


def test_a_family_that_a_line_adds(shoot: Path) -> None:
    (shoot / "darkroom.py").write_text(DARKROOM)
    ours, other = model(shoot / "ours", "DarkroomPipeline"), model(shoot / "other", "OtherPipeline")
    torn = model(shoot / "torn", "DarkroomPipeline")
    (torn / "paper.json").unlink()
    for folder in (ours, other, torn):
        text = f"model: {folder}\nphotos: photos\nedits: [make it winter]\noutput: {{folder: out}}\n"
        (shoot / f"{folder.name}.yaml").write_text(text)
    cpu = ("--device", "cpu")
    help_, valid, planned, ran, again, digest, refused, broken, doctor = with_line(
        LINE,
        [
            ["models", "--help"], ["validate", "ours.yaml"], ["plan", "ours.yaml", "--json"],
            ["run", "ours.yaml", *cpu], ["run", "ours.yaml", *cpu], ["models", "digest", "ours"],
            ["run", "other.yaml", *cpu, "-o", "o"], ["run", "torn.yaml", *cpu, "-o", "o"], ["doctor", "--json"],
        ],
        shoot, backends=("torch",),
    )  # fmt: skip
    assert "or Darkroom in" in " ".join(help_.out.split())
    assert valid.code == 0
    assert set(json.loads(planned.out)["sizes"]) == {"96 × 72", "72 × 96", "96 × 96"}
    assert ran.code == 0, ran.err
    assert "developing on cpu in fp32" in ran.err
    assert "3 edits made, 3 files delivered" in ran.out
    assert "0 edits made" in again.out
    assert len(digest.out.strip()) == 64
    header = json.loads((shoot / "out/.ip2pbatch/run.json").read_text())
    assert header["engine"]["model_digest"] == digest.out.strip()
    assert (header["defaults"]["text"], header["defaults"]["sampler"]) == (3, "ddim")
    assert b"Darkroom (ours)" in (shoot / "out/one_make-it-winter.jpg").read_bytes()
    assert refused.code == 6
    assert "is a OtherPipeline, not an InstructPix2Pix" in " ".join(refused.err.split())
    assert broken.code == 6
    assert "has no paper.json" in " ".join(broken.err.split())
    assert {"InstructPix2Pix", "Darkroom"} <= {row["topic"].removeprefix("family ") for row in json.loads(doctor.out)}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"_class_name": 7}', "[" * 100_000, '{"_class_name": ["a", "B"]}'])
def test_an_index_that_says_nothing_is_the_first_familys_to_refuse(tmp_path: Path, text: str) -> None:
    (tmp_path / "model_index.json").write_text(text)
    assert family_of(tmp_path) is next(iter(FAMILIES.values()))
    assert family_of(tmp_path / "nowhere") is family_of(None)
