"""What the command line does after one line was added to one of the program's tables, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from command import Said

_PROGRAM = """
import contextlib, io, json, sys
{line}
from ip2pbatch.cli import app, console
from ip2pbatch.jobs.backends import BACKENDS
for name in {{*BACKENDS}} - {{*{backends!r}}}:
    del BACKENDS[name]  # `doctor` asks every backend about itself, which is not what is looked at
said = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["ip2pbatch", *arguments]
    console.out.cache_clear()
    console.talk.cache_clear()
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            app.main()
        except SystemExit as stop:
            said.append((int(stop.code or 0), out.getvalue(), err.getvalue()))
print(json.dumps(said))
"""


def with_line(
    line: str, commands: Sequence[Sequence[str]], folder: Path, backends: Sequence[str] = ("fake",)
) -> list[Said]:
    """What each command of a process in `folder`, whose own modules can be imported, said after `line`. It has these
    `backends` alone.
    """
    program = "import sys\nsys.path.insert(0, '.')\n" + _PROGRAM.format(line=line, backends=tuple(backends))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, json.dumps(commands)], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [Said(*one) for one in json.loads(done.stdout)]
