"""One run by actors of Ray on a cluster of several nodes, all of which are this machine."""

from __future__ import annotations

import importlib.util
import os
import random
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from crews import Fault, by_crew
from runs import LONG, SPEC, carry_out, digests, lines_of, make_photos, make_plan, many, strays

from ip2pbatch.engine.fake import FakeEngine
from ip2pbatch.errors import WorkerError
from ip2pbatch.plan.edits import Plan
from ip2pbatch.run.devices.crew import Crew
from ip2pbatch.run.devices.member import Member
from ip2pbatch.run.directory.ledger import open_run
from ip2pbatch.run.execute import Summary
from ip2pbatch.run.on_ray.actors import ActorLink
from ip2pbatch.run.on_ray.capacity import Wanted
from ip2pbatch.run.on_ray.cluster import connected

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install ray"),
    pytest.mark.skipif(sys.platform != "linux", reason="a cluster of several nodes on one machine is a thing of Linux"),
]
soaked = pytest.mark.skipif(many(1, 0) == 1, reason="of the soak: Ray's tests are to take a minute at most")
CHAIN = ["make it winter", "make it night"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with a CPU each."""
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled", PYTHONPATH=os.pathsep.join(sys.path))
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 80 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **small})
    try:
        cluster.add_node(num_cpus=1, **small)
        yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(make_photos(tmp_path / "in", 12), CHAIN, keep=(1, 2))


@pytest.fixture
def alone(tmp_path: Path, plan: Plan) -> dict[str, str]:
    """The delivered files of one process."""
    assert carry_out(tmp_path / "alone", plan, FakeEngine()) == 0
    return digests(tmp_path / "alone")


def on_cluster(
    cluster: Any, out: Path, plan: Plan, bounds: tuple[int, int] = (1, 2), versions: Mapping[str, str] | None = None,
    **given: Any,
) -> Summary:  # fmt: skip
    """`by_crew` on the cluster's nodes."""
    if not cluster.worker_nodes:
        cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
    os.environ["RAY_ADDRESS"] = cluster.address
    try:
        with connected(Wanted(bounds, gpu=False, threads=1), versions or {}) as (launcher, room):
            return by_crew(out, plan, ["cpu"] * room.most, launcher=launcher, **given)
    finally:
        del os.environ["RAY_ADDRESS"]


def meanwhile(work: Any) -> Any:
    return lambda crew: threading.Thread(target=work, args=(crew,), daemon=True).start()


def process_of(member: Member) -> int:
    assert isinstance(member.link, ActorLink)
    return member.link.process


def assert_whole(out: Path, plan: Plan, files: dict[str, str]) -> None:
    """All is there as one process makes it, each row once, and nothing besides."""
    assert digests(out) == files
    assert strays(out) == []
    assert Counter(lines_of(out / ".ip2pbatch/results.jsonl", "edit")) == {edit.key: 1 for edit in plan.edits}
    with open_run(out, SPEC) as run:
        assert run.done == {edit.key for edit in plan.edits}
        assert run.complaints == []


def until(state: Any) -> None:
    end = time.monotonic() + LONG
    while not state():
        assert time.monotonic() < end, "what was waited for did not come"
        time.sleep(0.01)


def test_a_worker_and_a_node_are_lost_and_nothing_with_them(
    cluster: Any, tmp_path: Path, plan: Plan, alone: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    """Who takes the place of the node's waits for room, and the other goes on."""
    out, notes = tmp_path / "out", list[str]()
    node = next(iter(cluster.worker_nodes))

    def lose(crew: Crew) -> None:
        until(lambda: sum(member.state == "busy" for member in crew.members) == 2)
        os.kill(process_of(crew.members[0]), signal.SIGKILL)
        until(lambda: any("another worker takes its place" in note for note in notes))
        until(lambda: sum(member.state == "busy" for member in crew.members) == 2)
        cluster.remove_node(node, allow_graceful=False)

    fault = Fault(wait=0.4)
    summary = on_cluster(cluster, out, plan, (2, 3), fault=fault, notes=notes, watching=meanwhile(lose))
    assert (summary.exit_code, summary.states["done"]) == (0, 24)
    assert_whole(out, plan, alone)
    assert {re.sub(r"worker-\d on \S+", "", note) for note in notes if "takes its place" in note} == {
        " has ended without a word, as where it is killed or memory runs out: another worker takes its place",
        " is not reached any more, as where its node is lost: another worker takes its place",
    }
    assert capfd.readouterr().out == ""


@soaked
def test_who_waits_for_room_has_it_when_a_node_comes(
    cluster: Any, tmp_path: Path, plan: Plan, alone: dict[str, str]
) -> None:
    crews = list[Crew]()
    with ThreadPoolExecutor(1) as beside:  # Ray's own helper starts nodes in the main thread alone
        fault = Fault(wait=1.5)
        going = beside.submit(
            on_cluster, cluster, tmp_path / "out", plan, (1, 3), fault=fault, watching=crews.append
        )  # fmt: skip
        until(lambda: crews)
        node = cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
        until(lambda: going.done() or sum(member.state == "busy" for member in crews[0].members) == 3)
        assert not going.done()
        assert going.result().exit_code == 0
    cluster.remove_node(node)
    assert_whole(tmp_path / "out", plan, alone)


@soaked
def test_a_photo_that_three_workers_end_over_is_a_failed_row(cluster: Any, tmp_path: Path, plan: Plan) -> None:
    fault = Fault(kills=frozenset({plan.strips[4].edits[0].key}))
    summary = on_cluster(cluster, tmp_path / "out", plan, (1, 1), fault=fault)
    assert dict(summary.states) == {"done": 22, "failed": 1, "skipped": 1}
    with open_run(tmp_path / "out", SPEC) as run:
        detail = run.failed[plan.strips[4].edits[0].key].detail
    assert detail.startswith("3 workers ended over this photo: worker-1 on ")


@soaked
def test_random_kills_cost_no_more_than_what_was_at_hand(cluster: Any, tmp_path: Path) -> None:
    """Twenty of 1,200 edits."""
    kills, chance, killed = 20, random.Random(22), list[int]()
    plan = make_plan(make_photos(tmp_path / "in", 600), CHAIN, keep=(1, 2))
    assert carry_out(tmp_path / "alone", plan, FakeEngine()) == 0
    out, diary = tmp_path / "out", tmp_path / "diary"
    journal = out / ".ip2pbatch/results.jsonl"

    def kill(crew: Crew) -> None:
        for number in range(kills):
            enough = (number + chance.random() * 0.8) * len(plan.edits) / (kills + 1)
            until(lambda least=enough: journal.exists() and journal.read_bytes().count(b"\n") >= least)
            at_work = [member for member in crew.members if member.state == "busy"]
            for member in chance.sample(at_work, min(1, len(at_work))):
                killed.append(process_of(member))
                os.kill(killed[-1], signal.SIGKILL)

    summary = on_cluster(cluster, out, plan, fault=Fault(diary=diary, wait=0.02), watching=meanwhile(kill))
    assert (summary.exit_code, summary.states["done"]) == (0, len(plan.edits))
    assert_whole(out, plan, digests(tmp_path / "alone"))
    again = len(diary.read_text().splitlines()) - len(plan.edits)
    print(f"{len(killed)} kills, {again} edits made again")
    assert killed
    assert again <= len(killed) * (32 + 4)


@soaked
def test_a_worker_that_is_silent_is_named_and_what_it_says_later_is_not_heard(
    cluster: Any, tmp_path: Path, plan: Plan, alone: dict[str, str]
) -> None:
    notes = list[str]()
    frozen = list[int]()

    def freeze(crew: Crew) -> None:
        until(lambda: sum(member.state == "busy" for member in crew.members) == 2)
        frozen.append(process_of(crew.members[1]))
        os.kill(frozen[0], signal.SIGSTOP)
        until(lambda: any("was silent" in note for note in notes))
        with suppress(ProcessLookupError):
            os.kill(frozen[0], signal.SIGCONT)

    summary = on_cluster(
        cluster, tmp_path / "out", plan, fault=Fault(wait=0.1), notes=notes, quiet=3.0, lost=6.0,
        watching=meanwhile(freeze),
    )  # fmt: skip
    assert (summary.exit_code, len(frozen)) == (0, 1)
    assert any(re.search(r"^worker-2 on \S+ was silent for \d+ s and was ended: another", note) for note in notes)
    assert_whole(tmp_path / "out", plan, alone)


@soaked
def test_a_worker_that_does_not_see_the_disk_is_refused_by_name(cluster: Any, tmp_path: Path, plan: Plan) -> None:
    """What lies below /proc/self is each process's own."""
    unseen = Path(f"/proc/self/task/{os.getpid()}/comm")
    with pytest.raises(WorkerError, match=rf"^worker-\d on \S+: it does not see {unseen}, which is there") as caught:
        on_cluster(cluster, tmp_path / "out", plan, photos=[unseen])
    assert caught.value.exit_code == 6
    assert caught.value.hint == "photos and output lie on a disk that all nodes see under the same path"
    assert list((tmp_path / "out/.ip2pbatch").glob(".ip2p-*")) == []


@soaked
def test_a_node_with_another_version_is_refused_by_name_and_the_others_go_on(
    cluster: Any, tmp_path: Path, plan: Plan, alone: dict[str, str]
) -> None:
    for name, version in (("here", "2.0"), ("there", "1.0")):
        metadata = tmp_path / name / f"lift-{version}.dist-info/METADATA"
        metadata.parent.mkdir(parents=True)
        metadata.write_text(f"Name: lift\nVersion: {version}\n")
    paths = [os.pathsep.join([str(tmp_path / name), *sys.path]) for name in ("here", "there")]
    small = {"num_cpus": 1, "object_store_memory": 80 << 20}
    nodes = [cluster.add_node(**small, env_vars={"PYTHONPATH": path}) for path in paths]
    notes = list[str]()
    try:
        summary = on_cluster(
            cluster, tmp_path / "out", plan, (1, 4), {"lift": "2.0"}, fault=Fault(wait=0.2), notes=notes
        )
    finally:
        for node in nodes:
            cluster.remove_node(node)
    assert summary.exit_code == 0
    assert_whole(tmp_path / "out", plan, alone)
    refused = re.compile(r"^worker-\d on \S+: it has lift 1\.0, and this process 2\.0; the others go on without it$")
    assert any(map(refused.search, notes))


@soaked
def test_a_cluster_without_room_is_told_and_not_waited_for_for_ever(cluster: Any, tmp_path: Path, plan: Plan) -> None:
    notes = list[str]()
    with pytest.raises(
        WorkerError, match=r"^\d of at least 9 workers are there, and the cluster had no room in"
    ) as caught:
        on_cluster(cluster, tmp_path / "out", plan, (9, 9), notes=notes, quiet=3.0, room=6.0)
    assert caught.value.exit_code == 6
    assert notes[-1].endswith("of at least 9 workers are there; the cluster has no room for more, which is waited for")
