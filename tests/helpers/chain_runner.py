"""Runs a training chain again and again in processes that cost no import, each killed in the middle of a stage.

python chain_runner.py CONFIG     then a line of JSON a run on stdin, {"out": FOLDER, "stage": NAME, "after": SECONDS};
                                  the exit code on stdout, -9 where it was killed
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import matplotlib.pyplot  # noqa: F401
import torch

from ip2pbatch.train import stages
from ip2pbatch.train.configs import STAGES


def carry_out(config: Path, out: Path, stage: str, after: float) -> None:
    """The chain, with a SIGKILL so many seconds after `stage` has begun."""
    torch.set_num_threads(1)
    run_stage = stages.run_stage

    def killed(one: stages.StageStatus, *rest: Any) -> bool:
        if one.config.name == stage:
            timer = threading.Timer(after, os.kill, (os.getpid(), signal.SIGKILL))
            timer.daemon = True
            timer.start()
        return run_stage(one, *rest)

    stages.run_stage = killed
    stages.run(config, out=out)


def main() -> None:
    for module in {name for makers in STAGES.values() for name in makers.values()}:
        importlib.import_module(module)
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                carry_out(Path(sys.argv[1]), Path(asked["out"]), asked["stage"], asked["after"])
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


main()
