"""Several processes make one run: the same files, nothing lost or twice, whatever ends a worker."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import pytest
from crews import Fault, by_crew
from runs import SPEC, carry_out, digests, lines_of, make_photos, make_plan, strays

from ip2pbatch.engine.fake import FakeEngine
from ip2pbatch.plan.edits import Plan
from ip2pbatch.run.directory.ledger import open_run

pytestmark = pytest.mark.skipif(os.name == "nt", reason="workers are given a line as POSIX passes descriptors")
CHAIN = ["make it winter", "make it night"]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(make_photos(tmp_path / "in", 12), CHAIN, keep=(1, 2))


@pytest.fixture
def alone(tmp_path: Path, plan: Plan) -> dict[str, str]:
    """The delivered files of one process."""
    assert carry_out(tmp_path / "alone", plan, FakeEngine()) == 0
    return digests(tmp_path / "alone")


def assert_whole(out: Path, plan: Plan, files: dict[str, str]) -> None:
    """All is there as one process makes it, each row once, and nothing besides."""
    assert digests(out) == files
    assert strays(out) == []
    assert Counter(lines_of(out / ".ip2pbatch/results.jsonl", "edit")) == {edit.key: 1 for edit in plan.edits}
    with open_run(out, SPEC) as run:
        assert run.done == {edit.key for edit in plan.edits}
        assert run.complaints == []


def test_two_workers_make_what_one_process_makes(tmp_path: Path, plan: Plan, alone: dict[str, str]) -> None:
    diary = tmp_path / "diary"
    summary = by_crew(tmp_path / "out", plan, fault=Fault(diary=diary, wait=0.02))
    assert (summary.exit_code, summary.made, summary.delivered) == (0, 24, 24)
    assert_whole(tmp_path / "out", plan, alone)
    assert len(set(re.findall(r" (\d+)$", diary.read_text(), re.M))) == 2
    again = by_crew(tmp_path / "out", plan)
    assert (again.exit_code, again.made, again.delivered) == (0, 0, 0)
