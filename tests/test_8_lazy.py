"""Lazy volumes through a real driver, with real FUSE mounts: there at once, right in every byte, whoever is killed."""

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from csi_oras.demo.distribution import Distribution
from csi_oras.mount import fuse
from tests.support.artifacts import Layer, Pusher, files, sha256
from tests.support.calls import refused
from tests.support.driver import Driver
from tests.support.gate import Gate
from tests.support.outside import Outside
from tests.support.pods import wait_for

pytestmark = pytest.mark.needs("root", "registry", "fuse")
MIB = 1 << 20
LARGE = os.urandom(48 * MIB)


@pytest.fixture
def node(short_path: Path) -> Iterator[Driver]:
    with Driver(short_path) as running:
        yield running


def mounted(node: Driver) -> list[str]:
    """Where the node has lazy volumes; other tests have theirs beside it."""
    return [mount.target for mount in fuse.mounts() if mount.target.startswith(f"{node.kubelet}/")]


def test_lazy_volume_is_there_before_its_bytes(
    node: Driver, registry: Distribution, pusher: Pusher, repository: str
) -> None:
    pusher.artifact(repository, [Layer(content=LARGE, title="model"), *files(config=b"{}")])
    with Gate(registry.address) as gate:
        target, begun = node.target(), time.time()
        node.publish(target, reference=f"{gate.address}/{repository}:v1", mode="lazy")
        assert gate.passed < MIB
        assert mounted(node) == [str(target)]
        assert sorted(path.name for path in target.iterdir()) == ["config", "model"]
        status = (target / "model").stat()
        assert status.st_size == len(LARGE)
        assert begun - 1 < status.st_mtime < time.time()
        with (target / "model").open("rb") as file:
            file.seek(40 * MIB)
            assert file.read(1000) == LARGE[40 * MIB : 40 * MIB + 1000]
        assert (target / "config").read_bytes() == b"{}"
        assert hashlib.sha256((target / "model").read_bytes()).digest() == hashlib.sha256(LARGE).digest()
        node.unpublish(target)
        assert mounted(node) == []
        assert not target.exists()


def test_volume_of_what_is_local_by_then_is_a_plain_bind(node: Driver, pusher: Pusher, repository: str) -> None:
    reference = pusher.artifact(repository, [Layer(content=LARGE, title="model")])
    first, second = node.target("first"), node.target("second")
    node.publish(first, volume_id="first", reference=reference, mode="lazy")
    assert (first / "model").read_bytes() == LARGE
    wait_for(lambda: sha256(LARGE) in Outside(node.state).blobs())
    node.publish(second, volume_id="second", reference=reference, mode="lazy")
    assert mounted(node) == [str(first)]
    assert subprocess.run(["diff", "-r", first, second], check=False).returncode == 0
    for target, name in ((first, "first"), (second, "second")):
        node.unpublish(target, volume_id=name)


def test_target_that_holds_a_lazy_volume_is_no_other_volumes(node: Driver, pusher: Pusher, repository: str) -> None:
    reference, target = pusher.artifact(repository, [Layer(content=LARGE, title="model")]), node.target()
    node.publish(target, volume_id="first", reference=reference, mode="lazy")
    with refused(grpc.StatusCode.ALREADY_EXISTS, "holds volume first"):
        node.publish(target, volume_id="second", reference=reference, mode="lazy")
    assert (target / "model").read_bytes() == LARGE
    node.unpublish(target, volume_id="first")


def test_nothing_is_held_for_lazy_volumes_that_are_no_more(node: Driver, pusher: Pusher, repository: str) -> None:
    reference, target = pusher.artifact(repository, [Layer(content=LARGE, title="model")]), node.target()
    node.publish(target, reference=reference, mode="lazy")
    held = {holder for holder, _ in Outside(node.state).rows("leases") if holder.startswith("lazy ")}
    assert len(held) == 1
    node.kill()
    node.unmount_all()
    for directory in (path for path in (node.state / "lazy").iterdir() if path.is_dir()):
        shutil.rmtree(directory)
    node.start()
    wait_for(lambda: not held & {holder for holder, _ in Outside(node.state).rows("leases")})
