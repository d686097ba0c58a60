"""After `make dist`: the built distributions do what they promise in environments that have nothing else.

    check_dist.py DIST          the folder with both wheels

Run by `make check-dist`, with none of the project's own code. What is promised: no file is in two distributions; the
complete one edits with the embedded model, away from the sources; the light one checks recipes and looks at that run
after a download of at most 100 MB; both hold at either end of their ranges, torch as constraints.txt has it; the light
one on every other Python that is here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path

ROOT = Path(__file__).parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
MOST = 100_000_000  # bytes that the light half may download
RECIPE = "model: tiny\nphotos: photos\nedits: [make it winter]\nsize: {long_side: 128}\noutput: {folder: out}\n"
DRAW = (
    "from PIL import Image; import os; os.mkdir('photos');"
    "Image.radial_gradient('L').convert('RGB').resize((160, 120)).save('photos/one.jpg')"
)
LOOKS = (
    "validate recipe.yaml", "plan recipe.yaml --exit-code", "status out", "sheet out", "report out", "check out",
    "verify out --against out",
)  # fmt: skip
NEEDS_A_MODEL = (
    "edit photos -i x -o other --model tiny", "run recipe.yaml", "verify recipe.yaml", "export onnx tiny -o exported",
    "bench cpu-ladder", "models digest tiny",
)  # fmt: skip


class Environment:
    """A bare virtual environment of one Python, below `folder`, with nothing of the sources on its path."""

    def __init__(self, folder: Path, python: str = sys.executable) -> None:
        self.bin = folder / "bin"
        subprocess.run([python, "-m", "venv", folder], check=True)
        self.pip("install", "--upgrade", "pip")

    def pip(self, *arguments: str | Path) -> None:
        subprocess.run([self.bin / "python", "-m", "pip", "--quiet", *arguments], check=True, env=self.outside())

    def call(self, line: str, where: Path, expected: int = 0) -> str:
        """What a command line says; fails where it does not end with `expected`."""
        program, *arguments = line.split(" ", 1)
        words = [self.bin / program, *(arguments[0].split(" ") if program != "python" else ["-c", arguments[0]])]
        done = subprocess.run(
            words, cwd=where, env=self.outside(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert done.returncode == expected, f"{line}: ended with {done.returncode}\n{done.stdout}"
        return done.stdout

    @staticmethod
    def outside() -> dict[str, str]:
        """What a process is told, less the way to the sources."""
        return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def wheel(dist: Path, name: str) -> Path:
    """The one wheel of a distribution."""
    (found,) = dist.glob(f"{name}-*.whl")
    return found


def metadata(path: Path) -> HeaderParser:
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return HeaderParser().parsestr(archive.read(name).decode())


def files_in(path: Path) -> set[str]:
    """What a wheel installs, its scripts by their names."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        (points,) = (name for name in names if name.endswith(".dist-info/entry_points.txt"))
        scripts = re.findall(r"^([\w-]+) = ", archive.read(points).decode(), re.M)
    return {*names, *(f"bin/{script}" for script in scripts)}


def lowest(path: Path) -> Iterator[str]:
    """Every lower bound of a wheel's own dependencies as the one version that is allowed; torch as it is tested."""
    for line in metadata(path).get_all("Requires-Dist"):
        if "extra ==" not in line and (found := re.match(r"([\w-]+)[^;]*>=([\d.]+)", line)) and found[1] != "torch":
            yield f"{found[1]}=={found[2]}"
    yield from CONSTRAINTS.read_text().splitlines()


def check_contents(complete: Path, light: Path) -> None:
    """No file twice, nothing that belongs to the sources alone, and one version everywhere."""
    assert files_in(complete) & files_in(light) == set()
    (version,) = re.findall(r'^__version__ = "(.+)"$', (ROOT / "ip2pbatch/__init__.py").read_text(), re.M)
    for path, code, most in ((complete, "ip2pbatch/", 70e6), (light, "ip2pbatch_light/ip2pbatch/", 2e6)):
        names = files_in(path)
        assert metadata(path)["Version"] == version
        assert {f"{code}py.typed", f"{code}cli/starters/folder.yaml", f"{code}show/report.html"} <= names
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
        assert [name for name in names if re.match(r"(.*/)?(tests|training|recipes|docs)/", name)] == []
        assert path.stat().st_size < most, f"{path.name} has {path.stat().st_size / 1e6:.1f} MB"
    assert [name for name in files_in(light) if name.endswith(".safetensors")] == []


def edit_and_lock(env: Environment, where: Path) -> None:
    """With the embedded model, as a person would after `pip install ip2pbatch`."""
    assert "site-packages" in env.call("python import ip2pbatch; print(ip2pbatch.__file__)", where)
    shutil.rmtree(where / "out", ignore_errors=True)
    env.call("ip2pbatch run recipe.yaml", where)
    env.call("ip2pbatch lock recipe.yaml", where)
    env.call("ip2pbatch lock recipe.yaml --check", where)
    session = json.loads((where / "out/.ip2pbatch/sessions.jsonl").read_text().splitlines()[0])
    said = env.call("ip2pbatch --version", where)
    assert said == f"ip2pbatch {session['versions']['ip2pbatch']}\n"
    for line in LOOKS:
        env.call(f"ip2pbatch {line}", where)


def look(env: Environment, where: Path, *, is_locked: bool) -> None:
    """At a run that the complete half made; what needs a model says in one line what brings it."""
    for line in LOOKS:
        env.call(f"ip2pbatch-light {line}", where)
    said = env.call("ip2pbatch-light lock recipe.yaml --check", where, 0 if is_locked else 4)
    assert "torch, diffusers, transformers are not installed here" in said
    subprocess.run([env.bin / "python", ROOT / ".ci/light.py"], check=True, env=env.outside())
    for line in NEEDS_A_MODEL:
        said = env.call(f"ip2pbatch-light {line}", where, 6)
        assert re.search(r"^hint: pip install .*ip2pbatch", said, re.M), said


def pythons() -> Iterator[str]:
    """The other interpreters that we promise, as far as they are here and run."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for minor in (11, 12, 13):
        name = f"python3.{minor}"
        for found in (shutil.which(name), *map(str, sorted(pyenv.glob(f"3.{minor}.*/bin/{name}")))):
            if found and subprocess.run([found, "-c", ""], stderr=subprocess.DEVNULL).returncode == 0:
                if minor != sys.version_info.minor:
                    yield found
                break


def main(dist: Path) -> None:
    complete, light = wheel(dist, "ip2pbatch"), wheel(dist, "ip2pbatch_light")
    check_contents(complete, light)
    with tempfile.TemporaryDirectory(prefix="ip2pbatch-dist-") as folder:
        here, began = Path(folder), time.monotonic()

        def say(text: str) -> None:
            print(f"{time.monotonic() - began:4.0f} s  {text}", flush=True)

        (here / "recipe.yaml").write_text(RECIPE)
        whole = Environment(here / "whole")
        whole.pip("install", "-c", CONSTRAINTS, complete)
        whole.call(f"python {DRAW}", here)
        edit_and_lock(whole, here)
        say("complete, newest dependencies: edits with the embedded model, away from the sources")

        alone = Environment(here / "light")
        alone.pip("download", "--no-cache-dir", "--dest", here / "downloaded", light)
        size = sum(file.stat().st_size for file in (here / "downloaded").iterdir())
        assert size <= MOST, f"the light half downloads {size / 1e6:.1f} MB"
        alone.pip("install", "--no-index", "--find-links", here / "downloaded", light)
        look(alone, here, is_locked=True)
        say(f"light, newest dependencies: {size / 1e6:.1f} MB downloaded; looks at that run, and makes none")

        for python in pythons():
            other = Environment(here / Path(python).name, python)
            other.pip("install", light)
            look(other, here, is_locked=False)
            say(f"light on {Path(python).name}, newest dependencies")

        low = here / "lowest.txt"
        low.write_text("\n".join(lowest(light)))
        alone.pip("install", "-c", low, light)
        look(alone, here, is_locked=False)
        say("light, lowest dependencies")
        low.write_text("\n".join(lowest(complete)))
        whole.pip("install", "-c", low, complete)
        edit_and_lock(whole, here)
        say("complete, lowest dependencies but for torch")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
