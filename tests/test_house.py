"""What is said of the house is so: the paths that documents name, the rooms of the tests, the hops of the main path."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType

import pytest
from command import CommandLine

HERE = Path(__file__).parent
ROOT = HERE.parent
PACKAGE = ROOT / "ip2pbatch"
DOCUMENTS = [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "ip2pbatch/DESIGN.md", "docs/decisions.md")
]
A_PROTOCOL_S = {"EditEngine.begin": "engine.fake.FakeEngine.begin"}
"""What carries out a hop that is a Protocol's, where this is run."""


def paths_in(text: str) -> list[tuple[str, str]]:
    """The paths of this repository between backticks, each with the name that follows it: `run/lock.py: Lock`."""
    found = re.findall(r"`(\.?[\w-][\w./-]*)(?:: (\w+))?`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    return [(path, name) for path, name in found if is_ours(path)]


def is_ours(path: str) -> bool:
    """Whether a text looks like a path of this repository: a module or page, or something in a folder that is there."""
    first, slash, _ = path.partition("/")
    return path.endswith((".py", ".md")) or bool(slash and any((root / first).is_dir() for root in (ROOT, PACKAGE)))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_paths_and_names_that_a_document_gives_are_there(document: Path) -> None:
    missing = []
    for path, name in paths_in(document.read_text(encoding="utf-8")):
        there = [root / path for root in (ROOT, PACKAGE) if (root / path).exists()]
        defined = rf"^\s*(class |def )?{name}\b"
        if not there or (name and not re.search(defined, there[0].read_text(encoding="utf-8"), re.M)):
            missing.append(f"{path}: {name}")
    assert missing == []


def test_a_path_that_is_not_there_would_be_noticed() -> None:
    text = "`run/gone.py`, `run/lock.py: Lock`, `docs/gone`, `vae/config.json`, `jobs.run`\n```\n`plan/`\n```\n"
    assert paths_in(text) == [("run/gone.py", ""), ("run/lock.py", "Lock"), ("docs/gone", "")]


def test_torch_s_devices_are_asked_in_one_place() -> None:
    """Whatever hangs on the kind of accelerator stands in one module; recording CUDA graphs is a matter of CUDA."""
    own = {"backends/pytorch/accelerators.py", "backends/pytorch/steps/cuda_graphs.py"}
    kinds = re.compile(r"torch\.(cuda|mps|xpu|accelerator|version|backends\.(cudnn|mps|cuda))\b|\.is_cuda\b")
    asking = [
        path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if kinds.search(path.read_text("utf-8"))
    ]
    assert sorted(asking) == sorted(own)


def rooms_of(root: Path, files: str = "*.py") -> set[str]:
    """The folders below `root` that hold such files."""
    return {path.parent.relative_to(root).as_posix() for path in root.rglob(files)} - {"."}


def test_the_tests_have_the_rooms_of_the_package() -> None:
    """A room's tests lie in the folder of its name; that of a small room may lie with its parent's."""
    tested, rooms = rooms_of(ROOT / "tests", "test_*.py"), rooms_of(PACKAGE)
    assert tested - rooms == set()
    assert {room.partition("/")[0] for room in rooms} - {room.partition("/")[0] for room in tested} == set()


def test_a_name_is_told_from_another_by_more_than_its_folder() -> None:
    """But a command and what it does may share one, and so may the backends' modules of one contract."""
    places: dict[str, list[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        if path.name != "__init__.py" and path.parent.name != "cli":
            places.setdefault(path.name, []).append(path.relative_to(PACKAGE).as_posix())
    twice = {name: sorted(found) for name, found in places.items() if len(found) > 1}
    backends = [f"backends/{name}/backend.py" for name in ("onnx", "openvino", "pytorch")]
    assert twice == {"backend.py": backends}


def test_a_room_of_more_than_16_files_has_its_reason_and_none_has_more_than_20() -> None:
    design = (PACKAGE / "DESIGN.md").read_text(encoding="utf-8")
    reasons = set(re.findall(r"^- `([\w/]+)/`: ", design, re.M))
    sizes = {room: len([*(PACKAGE / room).glob("[!_]*.py")]) for room in rooms_of(PACKAGE)}
    assert {room for room, size in sizes.items() if size > 20} == set()
    assert {room for room, size in sizes.items() if size > 16} == reasons


def test_every_page_is_found_from_the_readme() -> None:
    """The README names it, or a page that the README names."""
    pages, queue = set(), [ROOT / "README.md"]
    while queue:
        page = queue.pop()
        pages.add(page)
        links = re.findall(r"\]\(([^)#:]+\.md)", page.read_text(encoding="utf-8"))
        queue += [found for link in links if (found := (page.parent / link).resolve()) not in pages]
    assert {*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md"), PACKAGE / "DESIGN.md"} - pages == set()


def test_the_hops_are_the_calls_of_a_run_in_that_order(
    shoot: Path, command: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = (PACKAGE / "DESIGN.md").read_text(encoding="utf-8").split("ten hops\n")[1].split("\n## ")[0]
    hops = re.findall(r"^\d+\. `([\w.]+)`", part, re.M)
    assert len(hops) == 10
    called: dict[str, None] = {}

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and (module := frame.f_globals.get("__name__", "")).startswith("ip2pbatch."):
            called.setdefault(f"{module.removeprefix('ip2pbatch.')}.{frame.f_code.co_qualname}")

    monkeypatch.chdir(shoot)
    Path("recipe.yaml").write_text("photos: photos\nedits: [make it winter]\noutput: {folder: out}\n")
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        assert command("run", "recipe.yaml", "--backend", "fake").code == 0
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    calls = [A_PROTOCOL_S.get(hop, hop) for hop in hops]
    assert [call for call in called if call in calls] == calls


@pytest.mark.parametrize(("ci", "said"), [("", "3 skipped"), ("true", "1 skipped, 2 errors")])
def test_what_is_not_installed_is_passed_over_but_a_fault_under_ci(tmp_path: Path, ci: str, said: str) -> None:
    module = "import pytest\npytest.skip('it is not installed', allow_module_level=True)\n"
    (tmp_path / "test_a_module.py").write_text(module)
    absent = "@pytest.mark.skipif(True, reason='{}')\ndef test_{}(): ...\n"
    tests = absent.format("weights are not installed", "extra") + absent.format("there is no GPU here", "gpu")
    (tmp_path / "test_marks.py").write_text("import pytest\n" + tests)
    environment = os.environ | {"CI": ci, "PYTHONPATH": os.pathsep.join((str(HERE), str(HERE / "helpers")))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "--continue-on-collection-errors", "."]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert said in ended.stdout
