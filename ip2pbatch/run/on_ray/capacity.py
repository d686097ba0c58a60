"""How many workers a cluster has room for, and what each of them asks for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Node:
    """What a node of a cluster offers."""

    cpus: int
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of a cluster: at least and at most so many workers (None: as it has room), of which each has a GPU
    or none (None: where there are any), and so many threads (None: what the nodes have).
    """

    bounds: tuple[int, int] | None = None
    gpu: bool | None = None
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class Room:
    """`least` to `most` workers, each with so many CPUs and GPUs; on no node are there more than `beside`."""

    least: int
    most: int
    cpus: int
    gpus: int
    beside: int


def room_for(wanted: Wanted, nodes: Sequence[Node]) -> Room:
    """A worker a GPU; without GPUs a worker a node, or as many as are wanted, with equal parts of the CPUs: Ray has an
    actor compute with as many threads as it has CPUs, and where bits count all need the same number.
    """
    gpu = any(node.gpus for node in nodes) if wanted.gpu is None else wanted.gpu
    if gpu:
        able = [node for node in nodes if node.gpus]
        most = sum(node.gpus for node in able)
        share = min((max(1, node.cpus // node.gpus) for node in able), default=1)
        cpus = wanted.threads or share
        beside = max((node.gpus for node in able), default=1)
    else:
        able = [node for node in nodes if node.cpus]
        most = wanted.bounds[1] if wanted.bounds else len(able)
        cpus = wanted.threads or _share(able, most)
        beside = max((node.cpus // cpus for node in able), default=1)
    least, most = wanted.bounds or (1, max(1, most))
    return Room(least, most, cpus, int(gpu), max(1, beside))


def threads_asked_for() -> int | None:
    """How many threads a person says that a worker is to have, by OMP_NUM_THREADS."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdecimal() and int(said) else None


def _share(nodes: Sequence[Node], workers: int) -> int:
    """The most CPUs that so many workers can all have, at least one."""
    for cpus in range(max((node.cpus for node in nodes), default=1), 1, -1):
        if sum(node.cpus // cpus for node in nodes) >= workers:
            return cpus
    return 1
