"""Without a network: what is here works and asks nobody, and what is not here says how to get it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import save_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"

# Runs each line of stdin as a command in one process, and writes down every attempt to reach anything: an audit hook
# sees what C code does as well.
PROGRAM = """
import json, shlex, sys
asked = []
def hear(event, about):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        asked.append(f"{event} {about[1:]}")
sys.addaudithook(hear)
from ip2pbatch.cli.app import main
for line in sys.stdin:
    asked.clear()
    sys.argv = ["ip2pbatch", *shlex.split(line)]
    code = None
    try:
        main()
    except SystemExit as stop:
        code = stop.code or 0
    print("RESULT " + json.dumps([code, asked]), flush=True)
"""


def results(commands: list[str], home: Path, **environment: str) -> tuple[list[tuple[int, list[str]]], str]:
    """(exit code, attempts to reach anything) of each command, and all that was said on stderr."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE"))}
    clean |= {"HF_HOME": str(home / "hf"), "XDG_CACHE_HOME": str(home / "cache")} | environment
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM], input="\n".join(commands) + "\n", env=clean, timeout=280,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    return [(code, asked) for code, asked in map(json.loads, rows)], done.stderr


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home whose hub cache holds owner/kl, as `models pull` leaves it."""
    repository = tmp_path / "home/hf/hub/models--owner--kl"
    model = save_model(tmp_path / "model", "taesd")
    shutil.copytree(model, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(COMMIT)
    return tmp_path / "home"


def test_what_is_cached_or_embedded_asks_nobody_although_nobody_said_that_there_is_no_network(
    home: Path, shoot: Path
) -> None:
    models = {"named": "owner/kl", "pinned": f"owner/kl@{COMMIT}", "embedded": "tiny"}
    commands = [f"run {recipe(shoot, m, out)} --device cpu --precision fp32 --limit 1" for out, m in models.items()]
    found, said = results([*commands, "models list"], home)
    assert found == [(0, [])] * 4, said[-3000:]
    assert len(list(shoot.rglob("*_make-it-snow.jpg"))) == len(models)


def test_a_cold_cache_offline_asks_nobody_and_names_the_command(home: Path, shoot: Path) -> None:
    found, said = results([f"run {recipe(shoot, 'owner/cold', 'cold')}"], home, HF_HUB_OFFLINE="1")
    assert found == [(6, [])], said[-3000:]
    assert "`ip2pbatch models pull owner/cold`" in " ".join(said.split())
    assert "Traceback" not in said


def recipe(shoot: Path, model: str, out: str) -> Path:
    path = shoot / f"{out}.yaml"
    path.write_text(
        f"model: {model}\nphotos: photos\nedits: [make it snow]\nsize: {{long_side: 64}}\nsteps: 1\n"
        f"output: {{folder: {out}, full_resolution: off}}\n"
    )
    return path
