"""The outbox on disk: entries that say by themselves how far they are, one process at a time, and none half removed."""

import os
import stat
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from csi_oras.errors import NoSpaceError, VolumeBusyError, VolumeNotFoundError
from csi_oras.oci.digest import Digest
from csi_oras.oci.glob import Glob
from csi_oras.oci.name import Name
from csi_oras.oci.platform import Platform
from csi_oras.oci.reference import Reference
from csi_oras.oci.selection import Selection
from csi_oras.store.outbox import EntryState, OutboxEntries, OutboxEntry, OutboxState
from csi_oras.store.paths import StatePaths
from csi_oras.store.writable import Base, WritableVolume, WritableVolumes
from csi_oras.telemetry.secrets import Secret
from tests.support.planted import planted
from tests.support.small_disk import small_disk

BASE = Base(
    reference=Reference.parse(f"reg.example/t/base:v1@{Digest.of(b'root')}"),
    artifact=Digest.of(b"artifact"),
    plan=Digest.of(b"plan"),
    platform=Platform("linux", "arm64", "v8"),
    selection=Selection(
        media_types=frozenset({"text/plain"}),
        include=(Glob.parse("a/**"),),
        exclude=(Glob.parse("*.tmp"),),
        path=Name(("a",)),
        unpack=False,
    ),
)


class Captured:
    """A state directory in which volumes are captured."""

    def __init__(self, root: Path) -> None:
        self.volumes = WritableVolumes(StatePaths.create(root))
        self.entries = OutboxEntries(self.volumes)
        self.outbox = root / "outbox"

    def volume(self, number: int = 0) -> WritableVolume:
        return WritableVolume(
            volume_id=f"volume-{number}",
            target="/target",
            reference=Reference.parse("reg.example/t/x:v1"),
            tag_meant=Digest.of(b"meant"),
            base=BASE,
        )

    def capture(self, number: int = 0, **files: bytes) -> OutboxEntry:
        writing = self.volumes.make(self.volume(number), Secret(planted("kept")))
        for name, content in files.items():
            (writing.upper / name).write_bytes(content)
        return OutboxEntry(self.volumes.capture(writing))


@pytest.fixture
def captured(tmp_path: Path) -> Captured:
    return Captured(tmp_path / "state")


def test_volume_comes_back_with_its_base_as_it_was_captured(captured: Captured) -> None:
    entry = captured.capture()
    read = entry.writing.volume()
    assert read.base == BASE
    assert (read.tag_meant, read.reference) == (Digest.of(b"meant"), Reference.parse("reg.example/t/x:v1"))
    assert entry.writing.credential().reveal() == planted("kept")


def test_new_entry_waits_and_keeps_what_is_saved(captured: Captured) -> None:
    entry = captured.capture()
    assert entry.state() == OutboxState(state=EntryState.WAITING, due=0)
    state = OutboxState(state=EntryState.FAILED, attempts=3, refusals=2, error="no", due=12.5)
    entry.save(state)
    assert captured.entries.find(entry.id).state() == state
    assert captured.entries.count() == Counter({EntryState.FAILED: 1})


@pytest.mark.parametrize("torn", [b"", b"{", b"[]", b"{}", b'{"state": "gone"}', b"\xff", b"9" * 100_000])
def test_entry_with_torn_state_waits(captured: Captured, torn: bytes) -> None:
    entry = captured.capture()
    (entry.writing.directory / "state.json").write_bytes(torn)
    assert entry.state() == OutboxState()


def test_entries_are_listed_oldest_first_and_found_by_id_only(captured: Captured) -> None:
    made = [captured.capture(number).id for number in range(3)]
    assert [entry.id for entry in captured.entries.all()] == made
    for name in ("", "..", "../volumes", "\x1b[31m", f".{made[0]}"):
        with pytest.raises(VolumeNotFoundError, match="is not in the outbox"):
            captured.entries.find(name)


def test_entry_is_held_by_one_process(captured: Captured) -> None:
    entry = captured.capture()
    hold = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], 0), 2); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(entry.writing.directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        assert other.stdin
        other.stdout.readline()
        assert entry.is_locked()
        with pytest.raises(VolumeBusyError, match="being pushed"), entry.locked():
            pass
        other.stdin.close()
        other.wait(20)
    assert not entry.is_locked()
    with entry.locked(), pytest.raises(VolumeBusyError), entry.locked():
        pass


def test_removed_entry_is_gone_with_all_it_held(captured: Captured) -> None:
    entry = captured.capture(a=b"1")
    (entry.writing.upper / "link").symlink_to(captured.outbox.parent)
    with entry.locked():
        entry.remove()
    assert list(captured.outbox.iterdir()) == []
    assert captured.outbox.parent.exists()
    with pytest.raises(VolumeNotFoundError), entry.locked():
        pass


def test_entry_deeper_than_any_path_is_measured_and_removed(captured: Captured) -> None:
    entry = captured.capture(a=b"12345")
    here = os.open(entry.writing.upper, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d" * 20, dir_fd=here)
        below = os.open("d" * 20, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    assert entry.size() == 5
    entry.remove()
    assert list(captured.outbox.iterdir()) == []


def test_sweep_finishes_a_removal_and_touches_no_entry(captured: Captured) -> None:
    entry, other = captured.capture(1, a=b"1"), captured.capture(2, a=b"1")
    entry.writing.directory.rename(captured.outbox / f".{entry.id}")
    assert [left.id for left in captured.entries.all()] == [other.id]
    captured.entries.sweep()
    assert [path.name for path in captured.outbox.iterdir()] == [other.id]


def test_credential_is_for_nobody_else(captured: Captured) -> None:
    kept = captured.capture().writing.directory / "credential.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


@pytest.mark.needs("root")
@pytest.mark.parametrize("pages", [0, 1, 2], ids="{} pages free".format)
def test_volume_that_a_full_disk_has_no_room_for_leaves_no_credential_behind(tmp_path: Path, pages: int) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        captured = Captured(tmp_path / "disk" / "state")
        disk.fill()
        os.truncate(disk.ballast, disk.ballast.stat().st_size - pages * os.sysconf("SC_PAGE_SIZE"))
        volume = replace(captured.volume(), pod="x" * 10_000)  # a document of several pages
        with pytest.raises(NoSpaceError):
            captured.volumes.make(volume, Secret(planted("kept")))
        assert list((tmp_path / "disk" / "state" / "volumes").iterdir()) == []
        disk.clear()
        assert captured.volumes.make(volume, Secret(planted("kept"))).volume() == volume
