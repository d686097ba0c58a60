"""Fixtures that many tests use."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Generator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from command import CommandLine
from hypothesis import HealthCheck, settings
from PIL import Image
from store_server import KEYS, Bucket, StoreServer, serving

_BUCKETS = count(1)

# How long an example takes says more of the machine than of the code; and the same examples come each time, so that a
# failure is the change's that brought it. `make soak` draws others.
settings.register_profile(
    "busy", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=os.environ.get("IP2P_SOAK") != "1"
)
settings.load_profile("busy")


def _fails_under_ci(report: pytest.TestReport | pytest.CollectReport) -> None:
    """What is not installed where machines look on (CI=true) is a fault of the set-up, no reason to pass over tests."""
    if os.environ.get("CI") == "true" and report.skipped and "not installed" in str(report.longrepr):
        report.outcome, report.longrepr = "failed", f"it may not be skipped under CI=true: {report.longrepr}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fails_under_ci(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fails_under_ci(report)
    return report


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> CommandLine:
    """The command line in this process."""
    return CommandLine(monkeypatch, capsys, tmp_path)


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Who draws without a seed of its own draws the same in every run, whichever tests came before."""
    random.seed(0)
    np.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes this user's caches of digests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def store_server() -> Generator[StoreServer]:
    """A store that speaks S3, on the loopback."""
    pytest.importorskip("moto", reason="moto is not installed")
    pytest.importorskip("obstore", reason="obstore is not installed")
    with serving() as server:
        yield server


@pytest.fixture
def store(store_server: StoreServer, monkeypatch: pytest.MonkeyPatch) -> StoreServer:
    """The store as this test alone knows it: the environment says where it is and who asks."""
    from ip2pbatch.disk.buckets import objects, stores

    store_server.reset()
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": store_server.address}.items():
        monkeypatch.setenv(name, value)
    stores.opened_store.cache_clear()
    objects.objects.cache_clear()
    return store_server


@pytest.fixture
def bucket(store: StoreServer) -> Bucket:
    """An empty bucket of its own."""
    return Bucket(store, f"bucket-{next(_BUCKETS)}")


@pytest.fixture
def shoot(tmp_path: Path) -> Path:
    """A folder `photos` with three photos: landscape, portrait in a folder below, and a square PNG."""
    down, across = np.mgrid[0:96, 0:128].astype(np.float32)
    waves = np.stack([np.sin(down / 7), np.cos(across / 11), np.sin((down + across) / 17)], axis=-1)
    pixels = (127 + 90 * waves).astype(np.uint8)
    folder = tmp_path / "photos"
    (folder / "day2").mkdir(parents=True)
    Image.fromarray(pixels).save(folder / "one.jpg", quality=95)
    Image.fromarray(pixels.transpose(1, 0, 2)).save(folder / "day2" / "two.jpg", quality=95)
    Image.fromarray(pixels[:, :96]).save(folder / "three.png")
    return tmp_path
