"""What libraries warn of stands in a run's log, and not on the terminal."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from ip2pbatch.backends.quiet import quiet

WARNING = """
import logging, sys, warnings
from ip2pbatch.cli import app
from ip2pbatch.engine import fake

whole = fake._fake
def warned(edit, source):
    warnings.warn("a library is to change")
    logging.getLogger("PIL.Image").warning("an odd file")
    return whole(edit, source)
fake._fake = warned
sys.argv = ["ip2pbatch", "edit", "photos", "-i", "make it winter", "-o", "out", "--backend", "fake", "--model", "tiny"]
app.main()
"""


def test_a_run_has_the_libraries_warnings_in_its_log_alone(shoot: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-c", WARNING], cwd=shoot, capture_output=True, text=True, check=True, timeout=120
    )
    written = (shoot / "out/.ip2pbatch/log.txt").read_text("utf-8")
    for text in ("a library is to change", "an odd file"):
        assert text not in said.stdout + said.stderr
        assert text in written
    assert written.count("an odd file") == 3


def test_what_diffusers_and_transformers_say_while_they_are_called_goes_to_our_log(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, "ip2pbatch")
    with quiet():
        logging.getLogger("transformers.modeling").warning("some advice")
        warnings.warn("it will go", FutureWarning, stacklevel=1)
    assert capfd.readouterr().err == ""
    ours = [record.getMessage() for record in caplog.records if record.name == "ip2pbatch.libraries"]
    assert ours[0] == "transformers.modeling: some advice"
    assert ours[1].endswith("FutureWarning: it will go")
    with pytest.warns(FutureWarning):
        warnings.warn("as it was before", FutureWarning, stacklevel=1)


C_CODE = """
import ctypes, os, signal, sys
from ip2pbatch.cli import app
from ip2pbatch.engine import fake

whole, end = fake._fake, sys.argv.pop()
def written(edit, source):
    os.write(2, b"libtiff: odd\\n")
    print("our own", file=sys.stderr)
    if end == "abort":
        os.write(2, b"what(): std::bad_alloc\\n")
        ctypes.CDLL(None).abort()
    if end == "exit":
        ctypes.CDLL(None)._exit(1)
    if end == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
    return whole(edit, source)
fake._fake = written
app.main()
"""


def edited(shoot: Path, end: str) -> tuple[subprocess.CompletedProcess[str], str]:
    arguments = ("edit", "photos/one.jpg", "-i", "snow", "-o", "out", "--backend", "fake", "--model", "tiny", end)
    said = subprocess.run(
        [sys.executable, "-c", C_CODE, *arguments], cwd=shoot, capture_output=True, text=True, timeout=120, check=False
    )
    return said, (shoot / "out/.ip2pbatch/log.txt").read_text("utf-8")


@pytest.mark.parametrize("end", ["order", "interrupt"])
def test_what_c_code_writes_stands_in_the_log_alone(shoot: Path, end: str) -> None:
    said, log = edited(shoot, end)
    assert said.returncode in (0, 130)
    assert "our own" in said.stderr
    assert ("stopping when" in said.stderr) == (end == "interrupt")
    assert "libtiff" not in said.stderr + said.stdout
    assert " INFO libtiff: odd\n" in log
    assert "our own" not in log


@pytest.mark.parametrize(("end", "code", "last"), [
    ("abort", -6, ["libtiff: odd", "what(): std::bad_alloc", "Fatal Python error: Aborted", "in written"]),
    ("exit", 1, ["libtiff: odd"]),
])  # fmt: skip
def test_the_last_words_of_a_crash_are_shown(shoot: Path, end: str, code: int, last: list[str]) -> None:
    said, _ = edited(shoot, end)
    assert said.returncode == code
    crash = said.stderr.partition("What libraries wrote last:\n")[2]
    for words in last:
        assert words in crash
    assert "run again to go on" in said.stderr
