"""A driver that is killed at random moments of publishes and unpublishes, and what is left on the node."""

import os
import random
import signal
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from csi_oras.csi.pb import csi_pb2
from tests.support.artifacts import Pusher, files
from tests.support.driver import Driver
from tests.support.dying_driver import dying

pytestmark = [pytest.mark.needs("root", "registry"), pytest.mark.timeout(300)]  # many starts, on a busy machine
_ROUNDS = 10
_MOST_STEPS = 24
"""A volume that comes and goes takes six or seven."""


class Pod:
    """One volume, of which the kubelet remembers what it was last told: True for there, False for gone."""

    def __init__(self, driver: Driver, number: int, **attributes: Any) -> None:
        self._driver = driver
        self._volume_id = f"volume-{number}"
        self._attributes = attributes
        self.target = driver.target(pod=f"pod-{number}")
        self.told: bool | None = False

    def live(self) -> None:
        """Publish and unpublish until the driver dies."""
        wanted = not self.told
        with suppress(grpc.RpcError):
            while True:
                self.told = None  # unknown until it is answered
                self.publish() if wanted else self.unpublish()
                self.told, wanted = wanted, not wanted

    def publish(self) -> None:
        self._driver.publish(self.target, volume_id=self._volume_id, **self._attributes)

    def unpublish(self) -> None:
        self._driver.unpublish(self.target, volume_id=self._volume_id)

    def check(self) -> None:
        """Hold what the kernel shows against what the kubelet was told."""
        mounts = self._driver.mounts().count(str(self.target))
        assert mounts in ((0, 1) if self.told is None else (int(self.told),))
        if mounts:
            file = self.target if self.target.is_file() else self.target / "x"
            assert file.read_bytes() == b"right"
            assert os.statvfs(self.target).f_flag & os.ST_RDONLY
        elif self.told is False:
            assert not self.target.exists()
        elif self.target.is_dir():
            assert list(self.target.iterdir()) == []

    def check_record(self) -> None:
        """See to it that the driver knows the volume if it is mounted, and only then."""
        request = csi_pb2.NodeGetVolumeStatsRequest(volume_id=self._volume_id, volume_path=str(self.target))
        code = self._driver.node.NodeGetVolumeStats.future(request, timeout=30).code()
        is_mounted = str(self.target) in self._driver.mounts()
        assert code is (grpc.StatusCode.OK if is_mounted else grpc.StatusCode.NOT_FOUND)


@pytest.fixture
def driver(short_path: Path) -> Iterator[Driver]:
    driver = Driver(short_path)
    yield driver
    driver.stop()
    driver.unmount_all()


@pytest.fixture
def pods(driver: Driver, pusher: Pusher, repository: str) -> list[Pod]:
    reference = pusher.artifact(repository, files(x=b"right", y=b"other"))
    return [
        Pod(driver, 1, reference=reference),
        Pod(driver, 2, reference=reference, path="x"),
        Pod(driver, 3, reference=reference, pullPolicy="Always"),  # asks the registry, so there is an intent
    ]


@pytest.mark.parametrize("seed", range(3))
def test_driver_that_is_killed_leaks_no_mount_and_loses_no_record(driver: Driver, pods: list[Pod], seed: int) -> None:
    moments = random.Random(seed)  # noqa: S311 (moments, no secrets)
    for _ in range(_ROUNDS):
        driver.runner = dying("any step", moments.randint(1, _MOST_STEPS))
        driver.start()
        for pod in pods:
            pod.check_record()
        with ThreadPoolExecutor(len(pods)) as kubelet:
            for life in [kubelet.submit(pod.live) for pod in pods]:
                life.result(60)
        assert driver.process
        assert driver.process.wait(30) == -signal.SIGKILL  # and no call failed before
        driver.stop()
        for pod in pods:
            pod.check()
    driver.runner = ()
    driver.start()
    for pod in pods:
        pod.check_record()
        pod.unpublish()
        assert not pod.target.exists()
    assert driver.mounts() == []
    driver.stop()
    with closing(sqlite3.connect(driver.state / "state.db")) as database:
        for table in ("volumes", "leases"):
            assert database.execute(f"SELECT * FROM {table}").fetchall() == []  # noqa: S608 (names of ours)
