"""`ip2pbatch studio`: what it refuses before it answers, each with its exit code, and that ^C ends it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import pytest
from command import CommandLine
from runs import LONG, make_photos

from ip2pbatch import errors, jobs
from ip2pbatch.cli.exploring import studio as command_of


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_photos(tmp_path / "photos", 1)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--host", "0.0.0.0"], errors.USAGE, "--token"),
        (["--host", "0.0.0.0", "--token", "short"], errors.USAGE, "shorter than 16"),
        (["--host", "192.0.2.77", "--token", "a-secret-of-my-own"], errors.USAGE, "cannot listen"),
        (["--devices", "cpu:2"], errors.USAGE, "one device"),
        (["-o", "photos/out"], errors.USAGE, "inside the photos' folder"),
    ],
)
def test_what_cannot_be_is_refused(
    photos: Path, command: CommandLine, flags: Sequence[str], code: int, said: str
) -> None:
    ended = command("studio", photos, "--backend", "fake", "--no-browser", *flags)
    assert (ended.code, said in ended.err) == (code, True), ended.err


def test_what_is_not_there_is_refused(photos: Path, command: CommandLine) -> None:
    assert command("studio", "nothing", "--no-browser").code == errors.USAGE
    Path("recipe.yaml").write_text("photos: photos\nedit: [a]\n")
    assert command("studio", "recipe.yaml", "--no-browser").code == errors.USAGE
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = command("studio", photos, "--no-browser", "--port", str(taken.getsockname()[1]))
    assert (ended.code, "cannot listen" in ended.err) == (errors.USAGE, True)


@pytest.mark.parametrize(
    ("flags", "said"), [(["--model", "another/one"], "--model says another/one"), (["-o", "other"], "leave --out out")]
)
def test_a_run_has_its_own_model_and_place(photos: Path, command: CommandLine, flags: Sequence[str], said: str) -> None:
    jobs.edit(photos, "make it winter", "out", model="tiny", machine=jobs.Machine(backend="fake"))
    ended = command("studio", "out", "--no-browser", *flags)
    assert (ended.code, said in ended.err) == (errors.USAGE, True), ended.err


def test_a_recipe_has_its_own_model(photos: Path, command: CommandLine) -> None:
    Path("recipe.yaml").write_text("model: tiny\nphotos: photos\nedits: [a]\noutput: {folder: out}\n")
    ended = command("studio", "recipe.yaml", "--no-browser", "--model", "another/one")
    assert ended.code == errors.USAGE
    assert "for the model tiny, and --model says another/one" in ended.err
    assert "hint: leave --model out" in ended.err


def test_a_comparison_is_no_place_for_a_studio(photos: Path, command: CommandLine) -> None:
    Path("recipe.yaml").write_text("photos: photos\ncompare: [tiny]\nedits: [a]\noutput: {folder: out}\n")
    assert command("studio", "recipe.yaml", "--no-browser").code == errors.USAGE


def test_without_its_libraries_it_says_what_to_install(
    photos: Path, command: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_of, "find_spec", lambda name: None)
    ended = command("studio", photos, "--no-browser")
    assert ended.code == errors.ENVIRONMENT
    assert "pip install 'ip2pbatch[studio]'" in ended.err


@pytest.mark.skipif(os.name == "nt", reason="signals of Windows are other ones")
def test_it_says_its_address_and_ends_at_a_signal_with_what_was_made(photos: Path) -> None:
    arguments = ["studio", str(photos), "--backend", "fake", "--no-browser", "--port", str(free_port())]
    process = subprocess.Popen(
        [sys.executable, "-m", "ip2pbatch", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:")
        assert "?token=" in address
        place, _, token = address.partition("?token=")
        asked = urllib.request.Request(f"{place}api/events", headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(asked, timeout=LONG) as listening:  # a page that listens holds up nobody
            assert listening.readline().startswith(b"retry")
            process.send_signal(signal.SIGTERM)  # ^C is ignored where the tests themselves run in the background
            _, said = process.communicate(timeout=LONG)
    finally:
        process.kill()
    assert process.returncode == errors.TERMINATED, said
    assert "Traceback" not in said


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_a_run_is_opened_with_the_machine_that_it_was_made_with(photos: Path) -> None:
    from ip2pbatch.jobs.exploring.setting import setting_of

    jobs.edit(photos, "make it winter", "out", model="tiny", machine=jobs.Machine(backend="fake"))
    setting = setting_of(Path("out"), None, None, jobs.Machine())
    assert (setting.machine.backend, setting.ground.model, setting.watches) == ("fake", "tiny", True)
