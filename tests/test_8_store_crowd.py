"""Many clients come and go over many artifacts while collections run all the time."""

import os
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from csi_oras.demo.distribution import Distribution
from tests.support.access_log import AccessLog
from tests.support.artifacts import Layer, Pusher, files, sha256
from tests.support.driver import Driver
from tests.support.kinds_archives import oras_directory
from tests.support.outside import Outside, contents
from tests.support.pods import wait_for
from tests.support.tars import tar

pytestmark = pytest.mark.timeout(600)
_TIMES = int(os.environ.get("CROWD_TIMES", "1"))
_VOLUMES = 250 * _TIMES
_CLIENTS = 32
_ARTIFACTS = 50
_SHARED = b"in all of them" * 1000


@dataclass(frozen=True)
class Artifact:
    """A reference, and what a volume of it shows."""

    reference: str
    layers: list[Layer]
    shown: dict[str, bytes]


def _artifact(pusher: Pusher, repository: str, number: int) -> Artifact:
    own = {"name": b"artifact %d" % number, "shared": _SHARED}
    members = {"packed/name": b"member of %d" % number, "packed/shared": b"the same in each"}
    described = [{"name": name, "content": content.decode()} for name, content in members.items()]
    packed = [oras_directory("packed", tar(described))] if number % 5 == 0 else []
    layers = [*packed, *files(**own)]
    reference = pusher.artifact(repository, layers, tag=f"v{number}")
    return Artifact(reference, layers, {**own, **(members if packed else {})})


@pytest.fixture
def artifacts(pusher: Pusher, repository: str) -> list[Artifact]:
    return [_artifact(pusher, repository, number) for number in range(_ARTIFACTS)]


class Crowd:
    """Clients of a driver, whose volumes are of all artifacts in the order of chance."""

    def __init__(self, driver: Driver, artifacts: list[Artifact]) -> None:
        self._driver = driver
        self._picked = [artifacts[number % _ARTIFACTS] for number in range(_VOLUMES)]
        random.Random(0).shuffle(self._picked)  # noqa: S311 (any order)

    def everybody(self, *actions: Callable[[int], None]) -> None:
        """Have the clients do something with each volume."""

        def act(number: int) -> None:
            for action in actions:
                action(number)

        with ThreadPoolExecutor(_CLIENTS) as pool:
            list(pool.map(act, range(_VOLUMES)))

    def publish(self, number: int) -> None:
        reference = self._picked[number].reference
        self._driver.publish(self._target(number), volume_id=f"volume-{number}", reference=reference)

    def check(self, number: int) -> None:
        assert contents(self._target(number)) == self._picked[number].shown

    def unpublish(self, number: int) -> None:
        self._driver.unpublish(self._target(number), volume_id=f"volume-{number}")
        assert not self._target(number).exists()

    def _target(self, number: int) -> Path:
        return self._driver.target(pod=f"pod-{number}")


@pytest.fixture
def crowd(driver: Driver, artifacts: list[Artifact]) -> Crowd:
    return Crowd(driver, artifacts)


def collect(driver: Driver, min_age: str) -> str:
    policy = driver.directory / "policy.yaml"
    policy.write_text(f"store: {{minAge: {min_age}}}\n")
    command = [sys.executable, "-m", "csi_oras", "store", "gc", "--all", "--state-dir", str(driver.state)]
    ended = subprocess.run([*command, "--config", str(policy)], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@contextmanager
def collecting(driver: Driver, min_age: str) -> Iterator[Counter[str]]:
    """Collect again and again; gives how often that ended, and how often it took something."""
    ended, counts = threading.Event(), Counter[str]()

    def work() -> None:
        while not ended.is_set():
            counts["goes" if "goes" in collect(driver, min_age) else "nothing"] += 1

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        try:
            yield counts
        finally:
            ended.set()
            working.result(60)


def test_each_blob_is_fetched_once_however_many_come_at_once(
    driver: Driver, crowd: Crowd, artifacts: list[Artifact], registry: Distribution, repository: str
) -> None:
    with collecting(driver, "1h") as counts:  # so that it looks at everything, and takes nothing
        crowd.everybody(crowd.publish)
        crowd.everybody(crowd.check)
        crowd.everybody(crowd.unpublish)
        crowd.everybody(crowd.publish, crowd.check, crowd.unpublish)
    assert counts["nothing"] > 0
    assert counts["goes"] == 0
    wanted = {sha256(layer.content) for artifact in artifacts for layer in artifact.layers}
    log = AccessLog(registry, repository)
    assert all(log.gets(digest) for digest in wanted)
    fetched = Counter(request.path.rpartition("/")[2] for request in log.requests() if request.method == "GET")
    assert {digest: fetched[digest] for digest in wanted} == dict.fromkeys(wanted, 1)
    assert driver.mounts() == []


def test_volumes_show_the_right_bytes_while_what_nobody_uses_is_taken_away(driver: Driver, crowd: Crowd) -> None:
    with collecting(driver, "0s") as counts:
        crowd.everybody(crowd.publish, crowd.check, crowd.unpublish)
        crowd.everybody(crowd.publish, crowd.check)
        wait_for(lambda: counts["goes"] > 1)
        crowd.everybody(crowd.check)
        crowd.everybody(crowd.unpublish)
    assert driver.mounts() == []
    driver.stop()
    collect(driver, "0s")
    outside = Outside(driver.state)
    assert outside.files() == []
    for table in ("volumes", "leases", "holders", "artifacts", "plans", "contents", "tags", "grants"):
        assert outside.rows(table) == []
