"""The worked examples of CONTRIBUTING.md: each is a module and a line in a table, and works from the command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from command import Said
from PIL import Image

from ip2pbatch.jobs.backends import BackendModule

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """What CONTRIBUTING.md says below a heading."""
    return TEXT.split(f"### {title}\n")[1].split("\n### ")[0].split("\n## ")[0]


def block(title: str, language: str = "python") -> str:
    """The code of a section."""
    (code,) = re.findall(rf"^```{language}\n(.*?)^```", section(title), re.M | re.S)
    return str(code)


PROGRAM = """
import json, os, sys
{line}
from ip2pbatch.cli.app import main

for number, arguments in enumerate(json.loads(sys.argv[1])):
    if (child := os.fork()) == 0:
        for name, stream in (("out", 1), ("err", 2)):
            os.dup2(os.open(f"{{sys.argv[2]}}/{{number}}.{{name}}", os.O_CREAT | os.O_WRONLY), stream)
        sys.argv = ["ip2pbatch", *arguments]
        main()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def ip2pbatch(line: str, *commands: Sequence[str], folder: Path) -> list[Said]:
    """How commands end, one after another, of a program in which `line` was added to a table; modules are looked for in
    `folder` as well. Each has a process of its own, split off from one that has imported the command line.
    """
    path = os.pathsep.join((str(folder), str(ROOT)))
    wide = os.environ | {"PYTHONPATH": path, "COLUMNS": "200"}
    with TemporaryDirectory() as kept:
        call = [sys.executable, "-c", PROGRAM.format(line=line), json.dumps(commands), kept]
        codes = subprocess.run(call, cwd=folder, env=wide, capture_output=True, text=True, check=True).stdout.split()
        texts = [
            [(Path(kept) / f"{at}.{name}").read_text("utf-8") for name in ("out", "err")] for at in range(len(codes))
        ]
    return [Said(int(code), out, err) for code, (out, err) in zip(codes, texts, strict=True)]


def test_a_backend_is_a_module_and_a_line(shoot: Path) -> None:
    (shoot / "on_darkroom.py").write_text(block("A backend"), encoding="utf-8")
    assert '`"darkroom": "ip2pbatch.engine.on_darkroom"`' in section("A backend")
    line = "from ip2pbatch.jobs.backends import BACKENDS; BACKENDS['darkroom'] = 'on_darkroom'"
    edit = ("edit", "photos", "-i", "make it winter", "-o", "out", "--backend")
    offered = {name for name in vars(BackendModule) if not name.startswith("_")}
    assert offered <= set(re.findall(r"^def (\w+)", block("A backend"), re.M))
    (shoot / "recipe.yaml").write_text("photos: photos\nedits: [make it night]\nmodel: tiny\n", encoding="utf-8")
    helped, wrong, done, told, found, *others = ip2pbatch(
        line,
        ("run", "--help"),
        (*edit, "darkrooom"),
        (*edit, "darkroom"),
        ("status", "out"),
        ("doctor",),
        ("run", "recipe.yaml", "--backend", "darkroom"),
        ("lock", "recipe.yaml"),
        ("verify", "out"),
        folder=shoot,
    )
    assert "darkroom" in helped.out
    assert (wrong.code, "darkroom" in wrong.err) == (2, True)
    assert done.code == 0, done.err
    (kept, *_) = sorted((shoot / "out/.ip2pbatch/edits").rglob("*.png"))
    with Image.open(kept) as picture:
        red, green, blue = (channel.tobytes() for channel in picture.convert("RGB").split())
    assert red == green == blue
    assert told.code == 0
    assert "darkroom" in found.out
    for said in others:
        assert said.code == 0, said.err


def test_a_stage_is_a_module_and_a_line(tmp_path: Path) -> None:
    (tmp_path / "shouted.py").write_text(block("A training stage"), encoding="utf-8")
    (tmp_path / "loud.yaml").write_text(block("A training stage", "yaml"), encoding="utf-8")
    assert '`"shouted": "ip2pbatch.train.captions.shouted"`' in section("A training stage")
    line = "from ip2pbatch.train.configs import STAGES; STAGES['captions']['shouted'] = 'shouted'"
    line += "; import ip2pbatch.train.stages"  # for all of the commands
    (tmp_path / "quiet.yaml").write_text("stage: captions\nmaker: whispered\n")
    (tmp_path / "louder.yaml").write_text("stage: captions\nmaker: shouted\ninstructions: [a]\nvolume: 11\n")
    *asked, done, quiet, wrong = ip2pbatch(
        line,
        *(("train", command, "loud.yaml") for command in ("validate", "plan", "status")),
        ("train", "run", "loud.yaml", "--out", "work"),
        ("train", "validate", "quiet.yaml"),
        ("train", "status", "louder.yaml"),
        folder=tmp_path,
    )
    for said in asked:
        assert (said.code, "loud" in said.out + said.err) == (0, True), said
    assert done.code == 0, done.err
    (made,) = (tmp_path / "work/loud").glob("*/captions.jsonl")
    assert "MAKE IT NIGHT" in made.read_text(encoding="utf-8")
    assert "shouted" in quiet.err
    assert (wrong.code, "louder.yaml:4" in wrong.err) == (2, True)


def test_a_format_is_a_module_and_a_line(shoot: Path) -> None:
    codec, line = re.findall(r"^```python\n(.*?)^```", section("A picture format"), re.M | re.S)
    (shoot / "netpbm.py").write_text(codec, encoding="utf-8")
    entry = line.replace("ip2pbatch.pictures.codecs.netpbm", "netpbm").strip()
    with Image.open(shoot / "photos/one.jpg") as photo:
        photo.save(shoot / "photos/plain.ppm")
    added = f"from ip2pbatch.plan.formats import FORMATS, Format; FORMATS |= {{{entry}}}"
    edit = ("edit", "photos", "-i", "make it winter", "-o", "out", "--backend", "fake")
    (done,) = ip2pbatch(added, edit, folder=shoot)
    assert done.code == 0, done.err
    (made,) = (shoot / "out").glob("plain*.ppm")
    assert made.read_bytes().startswith(b"P6")


def test_a_metric_is_a_function_and_a_line(shoot: Path) -> None:
    function, entry = re.findall(r"^```python\n(.*?)^```", section("A metric"), re.M | re.S)
    (shoot / "warmth.py").write_text(function, encoding="utf-8")
    (shoot / "recipe.yaml").write_text(
        "{model: tiny, photos: photos, edits: [make it winter], size: 64, sheet: {metrics: [warmth]}}\n"
    )
    line = "from ip2pbatch.plan.metrics import METRICS, Metric; METRICS |= {" + entry.strip() + "}"
    line = line.replace("ip2pbatch.pictures.warmth", "warmth")
    (done,) = ip2pbatch(line, ("run", "recipe.yaml", "--backend", "fake"), folder=shoot)
    assert done.code == 0, done.err
    assert "Warmth" in (shoot / "out/report.html").read_text(encoding="utf-8")
