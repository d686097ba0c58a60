"""The order of a run: parents first, one kind a batch, network calls well filled, the same every time."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from ip2pbatch.plan.edits import Edit, Guidance, Photo, Plan, Strip, make_edit
from ip2pbatch.plan.limits import Limits, cpu_limits, gpu_limits
from ip2pbatch.plan.rows import plan_rows
from ip2pbatch.plan.schedule import Schedule, fill_calls, padding


def photo(name: str) -> Photo:
    return Photo(name, Path(name), f"digest-{name}", (64, 64))


def link(source: str, instruction: str, *, image: float = 1.5, size: int = 64, child: bool = False) -> Edit:
    carry = "latent" if child else None
    return make_edit(
        source, instruction, Guidance(7.5, image), 1, steps=4, sampler="ddim", size=(size, size), carry=carry
    )


def plan_of(*chains: list[Edit]) -> Plan:
    edits = {edit.key: edit for chain in chains for edit in chain}
    strips = tuple(Strip(photo("a"), "x", Guidance(7.5, 1.5), 1, tuple(chain), (1,)) for chain in chains)
    return Plan("p", "tiny", (photo("a"),), strips, tuple(edits.values()))


def chain(name: str, links: int, size: int = 64) -> list[Edit]:
    edits = [link(name, "1", size=size)]
    for number in range(2, links + 1):
        edits.append(link(edits[-1].key, str(number), size=size, child=True))
    return edits


def run(schedule: Schedule) -> list[list[Edit]]:
    batches = []
    while batch := schedule.take():
        batches.append(batch)
        for edit in batch:
            schedule.finish(edit.key)
    return batches


def test_everything_runs_once_and_parents_before_children() -> None:
    plan = plan_of(*(chain(f"photo-{i}", 1 + i % 4, size=64 + 8 * (i % 3)) for i in range(20)))
    schedule = Schedule(plan, set(), set(), Limits(batch=4, default_rows=6))
    order = [edit for batch in run(schedule) for edit in batch]
    assert sorted(edit.key for edit in order) == sorted(edit.key for edit in plan.edits)
    made = set()
    for edit in order:
        assert edit.carry is None or edit.source in made
        made.add(edit.key)
    assert schedule.left == 0


def test_a_batch_is_of_one_kind_and_within_the_limit() -> None:
    plan = plan_of(*([link(f"p{i}", "x", size=64 + 8 * (i % 2))] for i in range(30)))
    batches = run(Schedule(plan, set(), set(), Limits(batch=5, default_rows=15)))
    assert all(len({edit.size for edit in batch}) == 1 for batch in batches)
    assert max(len(batch) for batch in batches) == 5


def test_the_order_does_not_depend_on_how_done_is_stored() -> None:
    plan = plan_of(*(chain(f"p{i}", 3) for i in range(10)))
    done = [plan.edits[i].key for i in (0, 3, 4, 12)]
    runs = [run(Schedule(plan, set(kind), set(), Limits(batch=4))) for kind in (done, done[::-1])]
    assert runs[0] == runs[1]
    assert not {edit.key for batch in runs[0] for edit in batch} & set(done)


def test_a_child_of_a_finished_parent_is_ready_at_once() -> None:
    links = chain("p", 3)
    schedule = Schedule(plan_of(links), {links[0].key}, set(), Limits())
    assert schedule.take() == [links[1]]


def test_a_failed_edit_names_its_descendants_and_nobody_waits_for_them() -> None:
    first, second, third = chain("p", 3)
    branch = link(first.key, "other", child=True)
    alone = link("q", "x")
    schedule = Schedule(plan_of([first, second, third], [first, branch], [alone]), set(), set(), Limits())
    assert schedule.take() == [first, alone]
    assert schedule.fail(first.key) == [second, branch, third]
    schedule.finish(alone.key)
    assert schedule.left == 0
    assert schedule.take() == []


def test_failures_of_an_earlier_session_are_not_handed_out() -> None:
    links, alone = chain("p", 3), link("q", "x")
    schedule = Schedule(plan_of(links, [alone]), set(), {links[0].key}, Limits())
    assert schedule.skipped == tuple(links[1:])
    assert run(schedule) == [[alone]]


def test_an_edit_may_fail_before_it_is_taken() -> None:
    edits = [link(f"p{i}", "x") for i in range(4)]
    schedule = Schedule(plan_of(*([edit] for edit in edits)), set(), set(), Limits())
    schedule.fail(edits[2].key)
    assert [edit for batch in run(schedule) for edit in batch] == [edits[0], edits[1], edits[3]]


def test_looking_ahead_changes_nothing() -> None:
    plan = plan_of(*([link(f"p{i}", "x", size=64 + 8 * (i % 2))] for i in range(10)))
    schedule = Schedule(plan, set(), set(), Limits(batch=4))
    assert schedule.ahead(5) == list(plan.edits[:5])
    assert schedule.peek() == schedule.peek() == schedule.take()


@pytest.mark.parametrize(("bucket", "batch"), [(12, 8), (8, 8), (6, 5), (12, 16)])
def test_batches_fill_the_row_bucket(bucket: int, batch: int) -> None:
    choose = random.Random(3)
    edits = [link(f"p{i}", "x", image=choose.choice([1.0, 1.5])) for i in range(60)]  # 2 or 3 rows each
    batches = run(
        Schedule(plan_of(*([edit] for edit in edits)), set(), set(), Limits(batch=batch, default_rows=bucket))
    )
    rows = [len(plan_rows(one, 1).rows) for one in batches]
    computed = sum(-(-count // bucket) * bucket for count in rows)
    assert sum(rows) / computed > 0.85


DEVICES = {"cpu": cpu_limits(), **{f"gpu of {gib} GiB": gpu_limits(gib << 30) for gib in (4, 8, 12, 24, 80)}}


@pytest.mark.parametrize("images", [(1.5,), (1.0,), (1.0, 1.5), (1.0, 1.5, 7.5)], ids=str)
@pytest.mark.parametrize("size", [(256, 256), (512, 512), (768, 512), (640, 384)], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_a_long_run_pads_little_whatever_its_edits_need(
    device: str, size: tuple[int, int], images: Sequence[float]
) -> None:
    edits = [
        make_edit(f"p{i}", "x", Guidance(7.5, images[i % len(images)]), i, steps=20, sampler="euler_a", size=size)
        for i in range(1000)
    ]
    plan = plan_of(*([edit] for edit in edits))
    share = padding(plan, DEVICES[device])
    assert share <= 0.03
    batches = run(Schedule(plan, set(), set(), DEVICES[device]))
    assert sorted(edit.key for batch in batches for edit in batch) == sorted(edit.key for edit in edits)
    bucket = DEVICES[device].row_bucket(size)
    steps = [(len(plan_rows(batch, step).rows), times) for batch in batches for step, times in ((0, 1), (1, 19))]
    computed = sum(-(-rows // bucket) * bucket * times for rows, times in steps)
    assert share == pytest.approx(1 - sum(rows * times for rows, times in steps) / computed)


def test_an_engine_that_overlaps_is_given_one_whole_call_at_a_time() -> None:
    limits = gpu_limits(80 << 30)
    plan = plan_of(*([link(f"p{i}", "x", size=512)] for i in range(20)))
    assert [len(batch) for batch in run(Schedule(plan, set(), set(), limits))] == [8, 8, 4]
    few = plan_of(*([link(f"p{i}", "x", image=1.0, size=512)] for i in range(30)))
    assert [len(batch) for batch in run(Schedule(few, set(), set(), limits))] == [12, 12, 6]


def test_edits_that_are_passed_over_come_next() -> None:
    edits = [link(f"p{i}", "x", image=image) for i, image in enumerate((1.5, 1.0, 1.5, 1.0, 1.5, 1.0, 1.0))]
    schedule = Schedule(plan_of(*([edit] for edit in edits)), set(), set(), Limits(batch=6, default_rows=6))
    first = schedule.take()
    assert first == [edits[0], edits[1], edits[2], edits[3], edits[5]]  # 12 rows; all six would be 15
    for edit in first:
        schedule.finish(edit.key)
    assert schedule.take() == [edits[4], edits[6]]


def test_a_child_waits_until_its_parent_is_reported() -> None:
    links = chain("p", 2)
    schedule = Schedule(plan_of(links), set(), set(), Limits())
    assert schedule.take() == [links[0]]
    assert schedule.take() == []
    assert schedule.left == 2


def test_only_what_is_left_is_made_and_again_what_it_starts_from_where_that_is_gone() -> None:
    chains = [chain(name, 4) for name in "abc"]
    plan = plan_of(*chains)
    done = {edit.key for edit in plan.edits} - {chains[1][2].key, chains[1][3].key}
    schedule = Schedule(plan, done, (), Limits(batch=4))
    assert [*schedule.waiting] == [chains[1][2].key, chains[1][3].key]
    assert schedule.take() == [chains[1][2]]
    schedule.begin_again(chains[1][2])  # what it starts from is gone, and what that starts from, too
    assert schedule.take() == [chains[1][1]]
    schedule.begin_again(chains[1][1])
    order = []
    while batch := schedule.take():
        order += batch
        for edit in batch:
            schedule.finish(edit.key)
    assert order == chains[1]


@pytest.mark.parametrize("seed", range(8))
def test_batches_are_the_first_that_are_ready_whatever_is_done_failed_or_gone(seed: int) -> None:
    """As if all Edits that are ready stood in a list."""
    chance = random.Random(seed)
    plan = plan_of(*(chain(f"{n}", chance.randrange(1, 4), size=chance.choice((64, 64, 64, 128))) for n in range(60)))
    edits = {edit.key: edit for edit in plan.edits}
    done = {
        key for key, edit in edits.items() if (edit.carry is None or chance.random() < 0.5) and chance.random() < 0.3
    }
    waiting, running, limits = {*edits} - done, set[str](), Limits(batch=5, default_rows=6)
    schedule = Schedule(plan, {*done}, (), limits)

    def below(key: str) -> set[str]:
        children = {child.key for child in plan.edits if child.carry and child.source == key} & waiting
        return children.union(*map(below, children))

    while waiting:
        made = {None} | edits.keys() - waiting
        ready = [e for e in plan.edits if e.key in waiting - running and (e.source if e.carry else None) in made]
        alike = [edit for edit in ready if edit.size == ready[0].size] if ready else []
        few = alike[: limits.batch]
        assert schedule.ahead(7) == ready[:7]
        batch = schedule.take()
        assert batch == (few if len(few) == len(alike) else fill_calls(few, limits.row_bucket(few[0].size)))
        running |= {edit.key for edit in batch}
        for key in chance.sample(sorted(running), chance.randrange(len(running) + 1)):
            running.discard(key)
            gone, edit = chance.random() < 0.1, edits[key]
            if gone and edit.carry is not None and edit.source not in running:
                schedule.begin_again(edit)
                waiting.add(edit.source)
            elif chance.random() < 0.1:
                assert {one.key for one in schedule.fail(key)} == below(key) - {key}
                waiting -= below(key) | {key}
            else:
                schedule.finish(key)
                waiting.discard(key)
        assert schedule.left == len(waiting)
