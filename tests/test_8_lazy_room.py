"""Lazy volumes of a driver that starts while its file system has no room: served as soon as there is some."""

import os
import random
from pathlib import Path

import pytest

from tests.support.artifacts import Layer, files
from tests.support.fake_registry import FakeRegistry
from tests.support.lazy_node import MIB, LazyNode
from tests.support.pods import wait_for
from tests.support.small_disk import small_disk

pytestmark = [pytest.mark.needs("root", "fuse"), pytest.mark.timeout(120)]
pytest_plugins = ["tests.support.fake_fixtures"]
CONTENT = random.Random(17).randbytes(4 * MIB + 5)  # noqa: S311 (any bytes)


def test_driver_that_starts_without_inodes_serves_lazy_volumes_when_it_has_some(
    short_path: Path, fake: FakeRegistry
) -> None:
    reference = fake.artifact("t/x", [Layer(content=CONTENT, title="model"), *files(small=b"small")])
    with small_disk(short_path / "state", "64m") as disk, LazyNode(short_path) as node:
        target = node.show(reference)
        assert (target / "small").read_bytes() == b"small"
        node.wait_until_held()
        node.kill()
        counts = os.statvfs(disk.directory)
        disk.limit_inodes(counts.f_files - counts.f_ffree)
        node.start()
        wait_for(lambda: "lazy volumes are not served" in node.log)
        disk.limit_inodes(counts.f_files)
        assert (target / "model").read_bytes() == CONTENT
        node.wait_until_held()
        node.kill_mounter()
        node.wait_until_held()
        assert (target / "model").read_bytes() == CONTENT
        another = node.show(fake.artifact("t/y", [Layer(content=CONTENT[1:], title="model")]))
        assert {one.target for one in node.connections()} == {str(another), str(target)}
        assert node.log.count("lazy volumes are not served") == node.log.count("lazy volumes are served again") == 1
        node.hide(another, target)
        node.check_nothing_is_left()
