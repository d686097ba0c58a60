"""Whole photos are dealt, equal ones together, in groups that shrink; what comes back is dealt again, each alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from runs import make_photos, make_plan

from ip2pbatch.plan.edits import ManyStrips, Plan, Strip
from ip2pbatch.plan.large.byte_marks import Marked
from ip2pbatch.plan.large.expansion import Expansion
from ip2pbatch.plan.names import output_names
from ip2pbatch.plan.written.outputs import Output
from ip2pbatch.run.deliveries import Errand
from ip2pbatch.run.devices import dealing
from ip2pbatch.run.devices.dealing import Dealer, Group

CHAIN = ["make it winter", "make it night"]


@pytest.fixture(params=["held", "expanded"])
def plan(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Forty photos through a chain: the strips held, and made when they are asked for, as those of millions are."""
    plan = make_plan(make_photos(tmp_path / "in", 40), CHAIN)
    if request.param == "held":
        return plan
    monkeypatch.setattr("ip2pbatch.plan.large.expansion.MOST_HELD", 0)
    strips, edits = Expansion(plan.photos, lambda photo, make=None: [*make_plan((photo,), CHAIN).strips]).parts()
    assert isinstance(strips, ManyStrips)
    return replace(plan, strips=strips, edits=edits)


def dealer_of(plan: Plan, *, todo: set[str] | None = None, due: bool = False) -> Dealer:
    names = output_names(plan, Output(folder=Path("out")), numbers={p.name: n for n, p in enumerate(plan.photos)})
    left = Marked(len(plan.edits), (at for at, key in enumerate(plan.keys) if todo is None or key in todo))

    def owed(strips: Iterable[tuple[int, Strip]]) -> Iterator[Errand]:
        return (Errand(strip, link, names[at, link]) for at, strip in strips for link in strip.keep if due)

    return Dealer(plan, plan, names, left, owed)


def make(dealer: Dealer, group: Group) -> int:
    """All of a group is made; how many Edits that were."""
    return sum(dealer.settle(edit.key) for edit in group.plan.edits)


def test_every_edit_is_dealt_once_with_its_whole_photo_in_groups_that_shrink(plan: Plan) -> None:
    dealer, sizes, seen = dealer_of(plan), [], list[str]()
    while group := dealer.deal(2):
        assert {edit.source for edit in group.plan.edits if edit.carry is None} == set(group.digests)
        assert len(group.targets) == sum(len(strip.keep) for strip in group.plan.strips)
        assert all(group.targets[at, 2].endswith(".jpg") for at in range(len(group.plan.strips)))
        seen += [edit.key for edit in group.plan.edits]
        sizes.append(len(group.plan.edits))
        make(dealer, group)
    assert sorted(seen) == sorted(edit.key for edit in plan.edits)
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[0], sizes[-1]) == (20, 2)
    assert dealer.left == 0
    assert dealer.is_empty


def test_names_stay_with_their_files(plan: Plan) -> None:
    names = output_names(plan, Output(folder=Path("out")), numbers={p.name: n for n, p in enumerate(plan.photos)})
    whole = {(plan.strips[at].photo.name, link): name for (at, link), name in names.items()}
    dealer, found = dealer_of(plan), {}
    while group := dealer.deal(3):
        found |= {(group.plan.strips[at].photo.name, link): name for (at, link), name in group.targets.items()}
    assert found == whole


def test_photos_of_equal_bytes_go_to_one_worker(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "in", 8)
    twin = replace(photos[0], name="again.jpg")
    dealer = dealer_of(make_plan((*photos, twin), CHAIN))
    groups = []
    while group := dealer.deal(4):
        groups.append([photo.name for photo in group.plan.photos])
    assert [twin.name in names for names in groups if photos[0].name in names] == [True]
    assert sum(map(len, groups)) == 9


def test_what_is_done_is_not_dealt_unless_a_file_is_due(plan: Plan) -> None:
    assert dealer_of(plan, todo=set()).deal(2) is None
    dealer = dealer_of(plan, todo=set(), due=True)
    photos = []
    while group := dealer.deal(2):
        photos += [photo.name for photo in group.plan.photos]
    assert len(photos) == 40


def test_photos_with_nothing_left_are_passed_over_without_keeping_workers_waiting(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dealing, "_TOGETHER", 4)
    monkeypatch.setattr(dealing, "_LOOKS", 8)
    last = plan.photos[-1].digest
    dealer = dealer_of(plan, todo={edit.key for edit in plan.edits[-2:]})
    dealt = []
    while not dealer.is_empty:
        dealt.append(dealer.deal(2))
    assert [group.digests for group in dealt if group] == [(last,)]
    assert 3 <= len(dealt) <= 6  # in between, workers are heard


def test_the_next_group_is_dealt_past_the_half_of_one_but_not_near_the_end(plan: Plan) -> None:
    dealer = dealer_of(plan)
    first = dealer.deal(2)
    assert first is not None
    assert dealer.deal_ahead(2, first) is None
    for edit in first.plan.edits[: len(first.plan.edits) // 2]:
        dealer.settle(edit.key)
    assert dealer.deal_ahead(2, first) is None  # a group would be of 15 edits: who is idle first gets those
    ahead = dealer.deal_ahead(1, first)
    assert ahead is not None
    assert len(ahead.plan.edits) == 30
    assert not set(ahead.digests) & set(first.digests)


def test_nothing_is_dealt_beside_a_photo_that_a_worker_ended_over(tmp_path: Path) -> None:
    dealer = dealer_of(make_plan(make_photos(tmp_path / "in", 40), CHAIN))
    lost = dealer.deal(1)
    assert lost is not None
    dealer.take_back(lost, "cuda:1 was killed")
    while (group := dealer.deal(1)) is not None and set(group.digests) != {lost.digests[0]}:
        make(dealer, group)
    assert group is not None
    make(dealer, group)
    assert dealer.left > 32
    assert dealer.deal_ahead(1, group) is None


def test_a_group_that_comes_back_is_dealt_last_and_each_photo_alone(plan: Plan) -> None:
    dealer = dealer_of(plan)
    group = dealer.deal(2)
    assert group is not None
    first = group.plan.edits[0]
    dealer.settle(first.key)
    assert dealer.take_back(group, "cuda:1 was killed") == []
    later = []
    while (again := dealer.deal(2)) is not None:
        later.append(again)
        make(dealer, again)
    alone = later[-len(group.digests) :]
    assert [one.digests for one in alone] == [(digest,) for digest in group.digests]
    assert {edit.key for one in later for edit in one.plan.edits} == {edit.key for edit in plan.edits}
    assert dealer.left == 0


def test_a_photo_that_three_workers_end_over_comes_back_with_the_reasons(plan: Plan) -> None:
    dealer = dealer_of(plan)
    bad = plan.photos[3].digest
    deaths, victims = 0, []
    while group := dealer.deal(2):
        if bad in group.digests:
            deaths += 1
            victims += dealer.take_back(group, f"worker {deaths} died")
        else:
            make(dealer, group)
    assert deaths == 3
    assert [(len(one.edits), one.reason) for one in victims] == [
        (2, "3 workers ended over this photo: worker 1 died; worker 2 died; worker 3 died")
    ]
    assert dealer.left == 2


def test_a_worker_that_goes_for_its_own_reason_is_no_photos_fault(plan: Plan) -> None:
    dealer = dealer_of(plan)
    for _ in range(5):
        group = dealer.deal(1)
        assert group is not None
        assert dealer.take_back(group, "") == []
    assert dealer.left == 80
