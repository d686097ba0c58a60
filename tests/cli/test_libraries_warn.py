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
