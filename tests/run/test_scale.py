"""Planning, resume, status and report of very many edits stay inside stated time and memory."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest
from runs import many
from scale import STAGES, Field, measure

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="stages are forked: POSIX only")

# Stage → at a million edits at most: seconds of processor time, GiB of memory.
LIMITS = {
    "planning": (150.0, 0.3), "opening": (60.0, 0.3), "resume": (350.0, 0.5), "status": (80.0, 0.3),
    "report": (250.0, 0.5),
}  # fmt: skip


def test_every_stage_of_a_large_run_keeps_its_limits(tmp_path: Path) -> None:
    """Full: a million edits. 4,000 here, in a share of the limits and what any command takes."""
    edits = many(4_000, 1_000_000)
    field = Field(tmp_path, edits, rest=many(10, 250))
    share = edits / 1_000_000
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # a fork begins with what this process has
    for name, stage in STAGES.items():
        cost = measure(lambda stage=stage: stage(field), many(100, 7200))
        if limits := LIMITS.get(name.split()[0].strip(":,")):
            assert cost.seconds < limits[0] * share + 5, name
            assert cost.peak < held + (limits[1] * share + 1.0) * (1 << 30), name
