"""Documents that can be generated are generated, and what they name exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

from ip2pbatch.plan.written.recipe import load_recipe
from ip2pbatch.show.ci import LINE

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
        re.findall(r"^\| \[([\w-]+)\]\(recipes/\1\.yaml\) \| \S", (ROOT / "README.md").read_text(), re.MULTILINE)
    )
    assert described == {path.stem for path in (ROOT / "recipes").glob("*.yaml")}


def test_links_in_documents_lead_somewhere() -> None:
    for document in (*ROOT.glob("*.md"), ROOT / "ip2pbatch/DESIGN.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "docs/ci.md").read_text(), re.MULTILINE | re.DOTALL)


def test_examples_for_workflows_are_well_formed_and_name_real_commands_and_flags() -> None:
    assert [bool(yaml.safe_load(text)) for text in blocks("yaml")] == [True] * 8
    reference = (ROOT / "docs/cli.md").read_text()
    text = (ROOT / "docs/ci.md").read_text()
    calls = re.findall(r"ip2pbatch (run|plan|lock|verify|validate)\b([^`'\n]*)", text)
    assert len(calls) >= 8
    for command, rest in calls:
        section = reference.split(f"## `ip2pbatch {command}`")[1].split("\n## ")[0]
        for flag in re.findall(r"--[a-z-]+", rest):
            assert f"`{flag}" in section or f" {flag}" in section, f"ip2pbatch {command} {flag}"


def test_what_the_examples_keep_is_where_the_recipe_writes() -> None:
    text = (ROOT / "docs/ci.md").read_text()
    (recipe,) = set(re.findall(r"run (recipes/\S+\.yaml)", text))
    folder = load_recipe(ROOT / recipe).output.folder.relative_to(ROOT)
    assert re.findall(r"path: (recipes/[^}]*)", text) == [str(folder / "sheets")]
    (kept,) = re.findall(r"paths: \[(.*)\]", text)
    assert folder.is_relative_to(kept)


def test_the_keys_of_every_json_line_are_documented() -> None:
    text = (ROOT / "docs/ci.md").read_text(encoding="utf-8")
    table = dict(
        re.findall(r"^\| `(\w+)` \| (.*) \|$", text.partition("| type | keys |")[2].partition("\n\n")[0], re.MULTILINE)
    )
    found = {kind: set(re.findall(r"`(\w+)`", re.sub(r"{.*?}", "", words))) for kind, words in table.items()}
    assert found == {
        line["properties"]["type"]["const"]: set(line["required"]) - {"type", "schema"} for line in LINE["oneOf"]
    }


def carried_out(script: str, folder: Path, *, code: int = 0, **environment: str) -> tuple[int, list[str]]:
    """The exit code of a shell script, and its calls of ip2pbatch, here and on hosts; each call ends with `code`."""
    (folder / "bin").mkdir(exist_ok=True)
    said = folder / "said"
    said.unlink(missing_ok=True)
    for name in ("ip2pbatch", "ssh"):
        stand_in = folder / "bin" / name
        stand_in.write_text(f'#!/bin/sh\necho "{name} $*" >> {said}\nexit {code}\n')
        stand_in.chmod(0o755)
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["sh", "-c", script], env=os.environ | environment | {"PATH": path}, check=False)
    return done.returncode, sorted(said.read_text().splitlines())


def test_the_examples_for_many_machines_run_every_shard_once(tmp_path: Path) -> None:
    whole = [[f"--shard {k}/{n}" for k in range(1, n + 1)] for n in (8, 3)]
    (slurm,) = (text for text in blocks("bash") if "SLURM" in text)
    assert slurm.startswith("#!"), "sbatch takes no script without its interpreter"
    first, last = re.findall(r"--array=(\d+)-(\d+)", slurm)[0]
    tasks = range(int(first), int(last) + 1)
    assert [carried_out(slurm, tmp_path, SLURM_ARRAY_TASK_ID=str(k))[1][0][-11:] for k in tasks] == whole[0]

    (job,) = (found for text in blocks("yaml") if (found := yaml.safe_load(text)).get("kind") == "Job")
    pod = job["spec"]["template"]["spec"]
    *shell, script = pod["containers"][0]["command"]
    assert shell == ["sh", "-c"]
    places = [str(place) for place in range(job["spec"]["completions"])]
    runs = [carried_out(script, tmp_path, JOB_COMPLETION_INDEX=place) for place in places]
    assert [said[0][-11:] for _, said in runs] == whole[0]
    codes = [carried_out(script, tmp_path, code=code, JOB_COMPLETION_INDEX="0")[0] != 0 for code in (0, 1, 3, 7)]
    assert codes == [False, True, False, True]  # restarted by the cluster where that helps
    assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == {one["name"] for one in pod["volumes"]}

    (hosts,) = (text for text in blocks("bash") if "ssh" in text)
    _, rest = carried_out(hosts, tmp_path)
    assert [line[-11:] for line in rest if line.startswith("ssh")] == whole[1]


def test_shell_examples_parse() -> None:
    for text in blocks("bash"):
        subprocess.run(["bash", "-n", "-c", text], check=True)


def test_what_runs_before_a_commit_is_what_make_check_runs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    # As from a shell: under `make test` a second make says which directory it enters, and obeys the first one's flags.
    shell = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    checks = subprocess.run(
        ["make", "-n", "-o", "install", "check"], cwd=ROOT, env=shell, capture_output=True, text=True, check=True
    )
    plain = {" ".join(w for w in hook["entry"].split() if not w.startswith("-")) for hook in hooks}
    assert plain == {re.sub(r"( --check)?( \.)?$", "", line) for line in checks.stdout.splitlines()}
