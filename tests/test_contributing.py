"""The worked examples of CONTRIBUTING.md: each is a module and a line in a table, and works from the command line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

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


def ip2pbatch(line: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command line of a program in which `line` was added to a table; modules are looked for in `folder` as well."""
    program = f"import sys\n{line}\nfrom ip2pbatch.cli.app import main\nsys.argv = ['ip2pbatch', *sys.argv[1:]]\nmain()"
    path = os.pathsep.join((str(folder), str(ROOT)))
    wide = os.environ | {"PYTHONPATH": path, "COLUMNS": "200"}
    call = [sys.executable, "-c", program, *arguments]
    return subprocess.run(call, cwd=folder, env=wide, capture_output=True, text=True)


def test_a_backend_is_a_module_and_a_line(shoot: Path) -> None:
    (shoot / "on_darkroom.py").write_text(block("A backend"), encoding="utf-8")
    assert '`"darkroom": "ip2pbatch.engine.on_darkroom"`' in section("A backend")
    line = "from ip2pbatch.jobs.backends import BACKENDS; BACKENDS['darkroom'] = 'on_darkroom'"
    edit = ("edit", "photos", "-i", "make it winter", "-o", "out", "--backend")
    offered = {name for name in vars(BackendModule) if not name.startswith("_")}
    assert offered <= set(re.findall(r"^def (\w+)", block("A backend"), re.M))
    assert "darkroom" in ip2pbatch(line, "run", "--help", folder=shoot).stdout
    wrong = ip2pbatch(line, *edit, "darkrooom", folder=shoot)
    assert (wrong.returncode, "darkroom" in wrong.stderr) == (2, True)
    done = ip2pbatch(line, *edit, "darkroom", folder=shoot)
    assert done.returncode == 0, done.stderr
    (kept, *_) = sorted((shoot / "out/.ip2pbatch/edits").rglob("*.png"))
    with Image.open(kept) as picture:
        red, green, blue = (channel.tobytes() for channel in picture.convert("RGB").split())
    assert red == green == blue
    assert ip2pbatch(line, "status", "out", folder=shoot).returncode == 0
    assert "darkroom" in ip2pbatch(line, "doctor", folder=shoot).stdout
    (shoot / "recipe.yaml").write_text("photos: photos\nedits: [make it night]\nmodel: tiny\n", encoding="utf-8")
    for command in (("run", "recipe.yaml", "--backend", "darkroom"), ("lock", "recipe.yaml"), ("verify", "out")):
        said = ip2pbatch(line, *command, folder=shoot)
        assert said.returncode == 0, (command, said.stderr)


def test_a_stage_is_a_module_and_a_line(tmp_path: Path) -> None:
    (tmp_path / "shouted.py").write_text(block("A training stage"), encoding="utf-8")
    (tmp_path / "loud.yaml").write_text(block("A training stage", "yaml"), encoding="utf-8")
    assert '`"shouted": "ip2pbatch.train.captions.shouted"`' in section("A training stage")
    line = "from ip2pbatch.train.configs import STAGES; STAGES['captions']['shouted'] = 'shouted'"
    for command in ("validate", "plan", "status"):
        said = ip2pbatch(line, "train", command, "loud.yaml", folder=tmp_path)
        assert (said.returncode, "loud" in said.stdout + said.stderr) == (0, True), (command, said.stdout)
    done = ip2pbatch(line, "train", "run", "loud.yaml", "--out", "work", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (made,) = (tmp_path / "work/loud").glob("*/captions.jsonl")
    assert "MAKE IT NIGHT" in made.read_text(encoding="utf-8")
    (tmp_path / "quiet.yaml").write_text("stage: captions\nmaker: whispered\n")
    assert "shouted" in ip2pbatch(line, "train", "validate", "quiet.yaml", folder=tmp_path).stderr
    (tmp_path / "loud.yaml").write_text("stage: captions\nmaker: shouted\ninstructions: [a]\nvolume: 11\n")
    wrong = ip2pbatch(line, "train", "status", "loud.yaml", folder=tmp_path)
    assert (wrong.returncode, "loud.yaml:4" in wrong.stderr) == (2, True)


def test_a_format_is_a_module_and_a_line(shoot: Path) -> None:
    codec, line = re.findall(r"^```python\n(.*?)^```", section("A picture format"), re.M | re.S)
    (shoot / "netpbm.py").write_text(codec, encoding="utf-8")
    entry = line.replace("ip2pbatch.pictures.codecs.netpbm", "netpbm").strip()
    with Image.open(shoot / "photos/one.jpg") as photo:
        photo.save(shoot / "photos/plain.ppm")
    added = f"from ip2pbatch.plan.formats import FORMATS, Format; FORMATS |= {{{entry}}}"
    done = ip2pbatch(added, "edit", "photos", "-i", "make it winter", "-o", "out", "--backend", "fake", folder=shoot)
    assert done.returncode == 0, done.stderr
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
    done = ip2pbatch(line, "run", "recipe.yaml", "--backend", "fake", folder=shoot)
    assert done.returncode == 0, done.stderr
    assert "Warmth" in (shoot / "out/report.html").read_text(encoding="utf-8")
