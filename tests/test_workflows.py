"""The Make, Snakemake and DVC examples of docs/ci.md, run through what happens to a folder of photos.

Snakemake and DVC are looked for in environments of their own, `.venv-snakemake` and `.venv-dvc` (see .ci/run).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from command import CommandLine
from PIL import Image

ROOT = Path(__file__).parent.parent
RECIPE = """
name: workflow
model: tiny
photos: photos
edits: [make it winter]
size: {long_side: 64}
output: {folder: out}
"""
# The example's own command, with the engine that needs no model, and a line for each run.
COMMAND = """#!/bin/sh
if [ "$1" = run ]; then echo run >> "{calls}"; set -- "$@" --backend fake; fi
exec "{python}" -c "from ip2pbatch.cli.app import main; main()" "$@"
"""


def example(heading: str) -> str:
    """The code block under a heading of docs/ci.md."""
    section = (ROOT / "docs/ci.md").read_text("utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    (code,) = re.findall(r"^```\w+\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return str(code)


def tool(name: str) -> str:
    """A workflow tool's path. Skips where it is not there."""
    path = ROOT / f".venv-{name}" / "bin" / name
    found = str(path) if path.is_file() else shutil.which(name)
    return found or pytest.skip(
        f"{name} is not installed: `python -m venv .venv-{name}` and pip install {name} into it"
    )


@dataclass
class Workflow:
    """A folder of photos with a recipe and an example beside it, and the tool's command."""

    folder: Path
    build: list[str]
    environment: dict[str, str]
    command: CommandLine

    def call(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the folder."""
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=200, check=False
        )  # fmt: skip

    def photo(self, name: str, shade: int) -> None:
        """A photo of one shade with grain, most of whose bytes are its pixels."""
        picture = Image.merge("RGB", [Image.new("L", (192, 128), shade), *(Image.effect_noise((192, 128), 90),) * 2])
        picture.save(self.folder / "photos" / name, quality=95)

    def runs(self) -> int:
        """How often `run` was called until now."""
        calls = self.folder / "calls"
        return len(calls.read_text().splitlines()) if calls.exists() else 0

    def goes(self, *, well: bool, runs: bool) -> None:
        """Build, and hold it to what `plan` says then: success only where nothing is left."""
        before, made = self.runs(), self.call(*self.build)
        said = made.stdout + made.stderr
        assert (made.returncode == 0) == well, said
        assert (self.runs() > before) == runs, said
        assert self.planned() == (0 if well else 4)

    def planned(self) -> int:
        """How `plan --exit-code` ends."""
        return self.command("plan", self.folder / "recipe.yaml", "--exit-code").code


def workflow(tmp_path: Path, build: list[str], command: CommandLine) -> Workflow:
    bin_, folder = tmp_path / "bin", tmp_path / "work"
    bin_.mkdir()
    (folder / "photos").mkdir(parents=True)
    program = bin_ / "ip2pbatch"
    program.write_text(COMMAND.format(calls=folder / "calls", python=sys.executable))
    program.chmod(0o755)
    (folder / "recipe.yaml").write_text(RECIPE)
    # the make that may run these tests would hand on its own flags
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    environment = clean | {
        "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path),
        "DVC_NO_ANALYTICS": "1",
    }  # fmt: skip
    command.guarding = False  # its photos change
    found = Workflow(folder, build, environment, command)
    found.photo("a b.jpg", 200)
    found.photo("c.jpg", 100)
    return found


def goes_through_it(found: Workflow) -> None:
    """A first build, a new photo that fails, is mended and is changed in place, a file and a photo that go."""
    photos, out = found.folder / "photos", found.folder / "out"
    found.goes(well=True, runs=True)
    found.photo("new.jpg", 50)
    whole = (photos / "new.jpg").read_bytes()
    (photos / "new.jpg").write_bytes(whole[: len(whole) // 2])  # its header is there, so that it is planned, and fails
    found.goes(well=False, runs=True)
    found.goes(well=False, runs=True)
    (photos / "new.jpg").write_bytes(whole)
    found.goes(well=True, runs=True)
    (shown,) = out.glob("new*.jpg")
    before, times = shown.read_bytes(), (photos / "new.jpg").stat()
    found.photo("new.jpg", 250)
    os.utime(photos / "new.jpg", ns=(times.st_atime_ns, times.st_mtime_ns - 10**12))
    found.goes(well=True, runs=True)
    assert shown.read_bytes() != before
    shown.unlink()
    assert found.planned() == 4
    assert found.call(*found.build).returncode == 0
    assert shown.is_file()
    time.sleep(0.05)  # a tick of the file system's clock, within which the folder would be as old as the marker
    (photos / "c.jpg").unlink()
    found.goes(well=True, runs=True)
    assert "c.jpg" not in (out / "report.html").read_text("utf-8")
    found.goes(well=True, runs=False)


def test_the_make_example(tmp_path: Path, command: CommandLine) -> None:
    found = workflow(tmp_path, [tool("make")], command)
    (found.folder / "Makefile").write_text(example("Make"))
    goes_through_it(found)


def test_the_snakemake_example(tmp_path: Path, command: CommandLine) -> None:
    found = workflow(tmp_path, [tool("snakemake"), "--cores", "1", "edit"], command)
    (found.folder / "Snakefile").write_text(example("Snakemake"))
    goes_through_it(found)


def test_the_dvc_example(tmp_path: Path, command: CommandLine) -> None:
    found = workflow(tmp_path, [dvc := tool("dvc"), "repro"], command)
    (found.folder / "dvc.yaml").write_text(example("DVC"))
    assert found.call(dvc, "init", "--no-scm").returncode == 0
    goes_through_it(found)
