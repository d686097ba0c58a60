"""While what came of a group is written out, the next one is made already."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from runs import LONG, SPEC, Wrapped, make_photos, make_plan

from ip2pbatch.disk.atomic import disk_error
from ip2pbatch.errors import ResourceError
from ip2pbatch.plan.edits import Edit
from ip2pbatch.plan.large.byte_marks import Marked
from ip2pbatch.run.devices.dealing import Dealer
from ip2pbatch.run.devices.overlap import Overlap
from ip2pbatch.run.devices.wire import Deal
from ip2pbatch.run.directory.kept import Pixels
from ip2pbatch.run.directory.ledger import open_run
from ip2pbatch.run.events import Quiet
from ip2pbatch.run.execute import Options, Summary, Workshop
from ip2pbatch.run.stop import Stop


@pytest.fixture
def deals(tmp_path: Path) -> list[Deal]:
    """Three groups of two photos."""
    plan = make_plan(make_photos(tmp_path / "in", 12))
    dealer = Dealer(
        plan, plan, {(at, 1): f"{at}.jpg" for at in range(12)}, Marked(len(plan.edits), range(12)), lambda _: ()
    )
    groups = [dealer.deal(3) for _ in range(3)]
    return [Deal(epoch, group, {}, {}, {}, {}) for epoch, group in enumerate(groups) if group is not None]


def test_a_group_is_made_while_the_last_one_is_written_out(tmp_path: Path, deals: list[Deal]) -> None:
    begun = {edit.key: threading.Event() for deal in deals for edit in deal.group.plan.edits}
    first, second = (deal.group.plan.edits[0].key for deal in deals[:2])
    waiting, over, waited = iter([*deals, None]), list[tuple[int, int]](), list[bool]()

    def begin(edits: Sequence[Edit]) -> None:
        for edit in edits:
            begun[edit.key].set()

    def score(edit: Edit, photo: Pixels, picture: Pixels) -> Mapping[str, float]:
        if edit.key == first:
            waited.append(begun[second].wait(LONG))
        return {}

    with open_run(tmp_path / "out", SPEC) as run:
        engine, stop = Wrapped(begin), Stop()

        def shop(deal: Deal) -> Workshop:
            return Workshop(deal.group.plan, run, engine, Options(score=score), Quiet(), stop)

        def ended(deal: Deal, summary: Summary) -> None:
            over.append((deal.epoch, summary.made))

        Overlap(shop, ended, stop).work(lambda: next(waiting))
        assert run.done == set(begun)
    assert waited == [True]
    assert over == [(deal.epoch, len(deal.group.plan.edits)) for deal in deals]


def test_what_ends_the_writing_of_a_group_ends_the_work(tmp_path: Path, deals: list[Deal]) -> None:
    def full(deal: Deal, summary: Summary) -> None:
        raise disk_error(OSError(28, "No space left on device"), tmp_path)

    dealt, forever = iter(deals[:1]), threading.Event()

    def next_deal() -> Deal | None:
        if (deal := next(dealt, None)) is None:
            forever.wait(LONG)
        return deal

    with open_run(tmp_path / "out", SPEC) as run:
        stop = Stop()
        overlap = Overlap(
            lambda deal: Workshop(deal.group.plan, run, Wrapped(), Options(), Quiet(), stop), full, stop
        )  # fmt: skip
        with pytest.raises(ResourceError, match="the disk is full"):
            overlap.work(next_deal)
    forever.set()
