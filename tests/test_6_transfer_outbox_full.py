"""An outbox on a full disk: what a pod wrote leaves by the network, and needs no room to do so."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_oras.errors import NoSpaceError
from tests.support.fake_registry import FakeRegistry
from tests.support.outboxes import Outboxing
from tests.support.small_disk import SmallDisk, small_disk

pytest_plugins = ["tests.support.fake_fixtures"]
pytestmark = pytest.mark.needs("root")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", "40m") as found:
        yield found


@pytest.fixture
def at(disk: SmallDisk) -> Iterator[Outboxing]:
    running = Outboxing(disk.directory / "node")
    yield running
    running.close()


def test_what_a_pod_filled_the_disk_with_is_pushed(at: Outboxing, fake: FakeRegistry, disk: SmallDisk) -> None:
    entry = at.capture(f"{fake.address}/t/out:v1", {"a": b"12345", "b/c": bytes(1 << 20)})
    disk.fill()
    at.push(entry)
    assert "v1" in fake.manifests["t/out"]
    assert at.app.captured.all() == []


def test_what_a_pod_used_all_inodes_for_is_pushed(at: Outboxing, fake: FakeRegistry, disk: SmallDisk) -> None:
    entry = at.capture(f"{fake.address}/t/out:v1", {"a": b"12345", "b/c": b"deep"})
    found = os.statvfs(disk.directory)
    disk.limit_inodes(found.f_files - found.f_ffree)
    at.push(entry)
    assert "v1" in fake.manifests["t/out"]
    assert at.app.captured.all() == []


def test_what_has_to_be_packed_waits_for_room(at: Outboxing, fake: FakeRegistry, disk: SmallDisk) -> None:
    entry = at.capture(f"{fake.address}/t/out:v1", {"d/a": b"12345"})
    (entry.writing.upper / "d/link").symlink_to("a")
    disk.fill()
    with pytest.raises(NoSpaceError, match="packing"):
        at.outbox.attempt(entry)
    disk.clear()
    at.outbox.attempt(entry)
    assert "v1" in fake.manifests["t/out"]
