"""Documents that can be generated are generated, and what they name exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
GENERATE = [
    sys.executable,
    "-m",
    "typer",
    "ip2pbatch.cli.app",
    "utils",
    "docs",
    "--name",
    "ip2pbatch",
    "--title",
    "Commands",
]


def test_the_command_reference_is_what_the_commands_say() -> None:
    done = subprocess.run(GENERATE, cwd=ROOT, capture_output=True, text=True, check=True)
    hint = "run: " + " ".join(["python", *GENERATE[1:-1], '"Commands"', "--output", "docs/cli.md"])
    assert done.stdout.strip() == (ROOT / "docs/cli.md").read_text(encoding="utf-8").strip(), hint


def test_the_readme_describes_every_recipe_in_a_line() -> None:
    described = set(
        re.findall(r"^\| \[(\w+)\]\(recipes/\1\.yaml\) \| \S", (ROOT / "README.md").read_text(), re.MULTILINE)
    )
    assert described == {path.stem for path in (ROOT / "recipes").glob("*.yaml")}


def test_links_in_documents_lead_somewhere() -> None:
    for document in (ROOT / "README.md", ROOT / "ip2pbatch/DESIGN.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "docs/ci.md").read_text(), re.MULTILINE | re.DOTALL)


def test_examples_for_workflows_are_well_formed_and_name_real_commands_and_flags() -> None:
    assert [bool(yaml.safe_load(text)) for text in blocks("yaml")] == [True] * 4
    reference = (ROOT / "docs/cli.md").read_text()
    text = (ROOT / "docs/ci.md").read_text()
    calls = re.findall(r"ip2pbatch (run|plan|lock|verify|validate)\b([^`'\n]*)", text)
    assert len(calls) >= 8
    for command, rest in calls:
        section = reference.split(f"## `ip2pbatch {command}`")[1].split("\n## ")[0]
        for flag in re.findall(r"--[a-z-]+", rest):
            assert f"`{flag}" in section or f" {flag}" in section, f"ip2pbatch {command} {flag}"


def test_shell_examples_parse() -> None:
    for text in blocks("bash"):
        subprocess.run(["bash", "-n", "-c", text], check=True)
