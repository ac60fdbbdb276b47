"""Verification and quarantine: what rots is found, leaves with every tree that shows it, and cannot come back."""

import ctypes
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_oras.errors import StoreBrokenError
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.name import Name
from csi_oras.oci.view import File, View
from csi_oras.store.database import Database
from csi_oras.store.objects import ObjectStore
from csi_oras.store.paths import StatePaths
from csi_oras.store.quarantine import Quarantine
from csi_oras.store.staging import staging
from csi_oras.store.trees import TreeStore
from csi_oras.store.verification import ContentVerifier, Pace, WeeklyPass
from csi_oras.store.verity import Sealer
from tests.support.loop_disk import loop_disk
from tests.support.rot import rot
from tests.support.stores import content_store

pytestmark = pytest.mark.needs("root")  # who is not cannot write what is 0444
PLAN, OTHER = Digest.of(b"plan"), Digest.of(b"other plan")
_MIB = 1 << 20
_WEEK = 7 * 24 * 3600


class Store:
    """A store without a driver: what it has, and what has rotted in it."""

    def __init__(self, root: Path) -> None:
        self.paths = StatePaths.create(root)
        self.content = content_store(self.paths)
        self.objects = ObjectStore(self.paths)
        self.trees = TreeStore(self.paths)
        self.quarantine = Quarantine(self.paths, grace=0)
        self.verifier = ContentVerifier(self.paths, self.quarantine, Sealer(self.paths, lambda: "off"))

    def blob(self, data: bytes) -> Path:
        """Put a blob there."""
        blob = Descriptor.of(data, "application/octet-stream")
        self.content.put(blob, data)
        return self.content.path(blob.digest)

    def object(self, data: bytes, mode: int = 0o555) -> Path:
        """Put an object there."""
        with self.objects.batch() as batch:
            file = batch.add([memoryview(data)], len(data), mode)
            with batch.committed():
                return Path(self.paths.object(file.content, mode))

    def tree(self, plan: Digest, *blobs: bytes) -> Path:
        """Lay out a tree that shows blobs, each in a directory."""
        view = View()
        for number, data in enumerate(blobs):
            self.blob(data)
            view.add(Name.parse(f"d{number}/file"), File(Digest.of(data), len(data), 0o444, is_blob=True))
        return self.trees.lay_out(plan, view)

    def verify(self) -> tuple[int, list[str]]:
        """Verify everything, and return how many files there were, and the digests of what was corrupt."""
        found = [(item, self.verifier.check(item)) for item in self.verifier.stored()]
        checked = [(item, outcome) for item, outcome in found if outcome]
        return len(checked), [str(item.digest) for item, outcome in checked if not outcome.is_true]

    def quarantined(self) -> list[str]:
        """What is in the quarantine, without the ends of the names that make them unique."""
        return sorted(path.name.rpartition("-")[0] for path in self.paths.quarantine.iterdir())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state")


# -- what is found


def test_store_that_is_whole_is_true(store: Store) -> None:
    store.tree(PLAN, b"one", b"two")
    store.object(b"three")
    store.object(b"three", 0o444)
    store.blob(b"")
    assert store.verify() == (5, [])
    assert store.quarantined() == []


@pytest.mark.parametrize("content", [b"Xne", b"on", b"one more", b""], ids=["changed", "shorter", "longer", "empty"])
def test_blob_that_is_not_what_its_name_says_is_corrupt(store: Store, content: bytes) -> None:
    rot(store.blob(b"one"), content)
    store.blob(b"two")
    assert store.verify() == (2, [str(Digest.of(b"one"))])
    assert store.quarantined() == [f"blob-sha256-{Digest.of(b'one').encoded}"]
    assert store.verify() == (1, [])


def test_object_is_held_against_the_digest_of_its_content(store: Store) -> None:
    rot(store.object(b"run", 0o555))
    store.object(b"run", 0o444)
    assert store.verify() == (2, [str(Digest.of(b"run"))])
    assert store.quarantined() == [f"object-sha256-{Digest.of(b'run').encoded}"]
    assert [path.name[-4:] for path in store.paths.objects.iterdir()] == ["0444"]


def test_blob_larger_than_a_piece_is_read_to_its_end(store: Store) -> None:
    data = os.urandom(3 * _MIB + 5)
    path = store.blob(data)
    assert store.verify() == (1, [])
    rot(path, data[:-1] + bytes([data[-1] ^ 1]))
    assert store.verify() == (1, [str(Digest.of(data))])


def test_blob_that_goes_meanwhile_is_no_error(store: Store) -> None:
    path = store.blob(b"one")
    (item,) = store.verifier.stored()
    path.unlink()
    assert store.verifier.check(item) is None


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_what_is_no_file_is_corrupt_and_neither_followed_nor_waited_for(
    store: Store, tmp_path: Path, kind: str
) -> None:
    path, canary = store.blob(b"one"), tmp_path / "canary"
    canary.write_bytes(b"one")
    path.unlink()
    path.symlink_to(canary) if kind == "link" else os.mkfifo(path)
    assert store.verify() == (1, [str(Digest.of(b"one"))])
    assert canary.read_bytes() == b"one"
    assert not path.is_symlink()
    assert not path.exists()


def test_what_is_named_otherwise_is_left_alone(store: Store) -> None:
    (store.paths.blobs / "sha256" / "notes").write_bytes(b"of a person")
    assert store.verify() == (0, [])
    assert (store.paths.blobs / "sha256" / "notes").exists()


def test_blob_that_the_disk_cannot_read_is_corrupt(short_path: Path) -> None:
    data = os.urandom(_MIB)
    with loop_disk(short_path / "disk", "mkfs.btrfs", "-q", mebibytes=256) as image:
        store = Store(short_path / "disk" / "state")
        path = store.blob(data)
        store.tree(PLAN, data)
        _drop(path)
        with image.open("r+b") as file, mmap.mmap(file.fileno(), 0) as disk:
            place = disk.find(data[:4096])
            assert place > 0
            disk[place] ^= 1  # btrfs knows by its own checksum, and answers EIO
            disk.flush()
        with pytest.raises(OSError, match="Input/output error"):
            path.read_bytes()
        assert store.verify() == (1, [str(Digest.of(data))])
        assert not path.exists()
        assert not store.trees.has(PLAN)


def _drop(path: Path) -> None:
    """Take a file out of the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# -- the page cache


def _cached(path: Path) -> int:
    """How many pages of a file are in the page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as window,
    ):
        pages = (len(window) + mmap.PAGESIZE - 1) // mmap.PAGESIZE
        found = (ctypes.c_ubyte * pages)()
        address = ctypes.addressof(ctypes.c_char.from_buffer(window))
        assert libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(len(window)), found) == 0
        return sum(page & 1 for page in found)


def _goes_around(path: Path) -> bool:
    """Whether this kernel can read this file without keeping it."""
    with path.open("rb") as file:
        try:
            return os.preadv(file.fileno(), [bytearray(1)], 0, 0x80) == 1
        except OSError:
            return False


def test_verification_leaves_the_page_cache_as_it_is(store: Store) -> None:
    hot, cold = store.blob(os.urandom(_MIB)), store.blob(os.urandom(_MIB))
    hot.read_bytes()
    before = _cached(hot)
    _drop(cold)
    assert (before, _cached(cold)) == (_MIB // mmap.PAGESIZE, 0)
    assert store.verify() == (2, [])
    assert _cached(hot) == before
    assert (_cached(cold) == 0) is _goes_around(cold)


# -- what becomes of it


def test_trees_that_show_what_has_rotted_leave_with_it_and_others_stay(store: Store) -> None:
    tree = store.tree(PLAN, b"one", b"two")
    store.tree(OTHER, b"two", b"three")
    rot(tree / "d0/file")
    assert store.verify() == (3, [str(Digest.of(b"one"))])
    assert (store.trees.has(PLAN), store.trees.has(OTHER)) == (False, True)
    (found,) = store.quarantine.found()
    assert (found.kind, found.digest, list(found.trees.values())) == ("blob", Digest.of(b"one"), [PLAN])
    store.tree(PLAN, b"one", b"two")  # as the next pull does
    assert (tree / "d0/file").read_bytes() == b"one"
    assert store.verify() == (3, [])


def test_mounted_tree_lives_on_in_quarantine_and_is_freed_with_its_last_mount(store: Store) -> None:
    tree = store.tree(PLAN, b"one" * 10_000)
    rot(tree / "d0/file")
    store.verify()
    ((name, _),) = store.quarantine.found()[0].trees.items()
    assert store.quarantine.sweep(lambda: {name}) == 0
    assert len(store.quarantined()) == 2
    assert store.quarantine.sweep(frozenset) >= 30_000
    assert store.quarantined() == []
    assert list(store.paths.staging.iterdir()) == []


def test_tree_is_kept_for_a_while_though_no_mount_shows_it(store: Store) -> None:
    tree = store.tree(PLAN, b"one")
    rot(tree / "d0/file")
    store.verify()
    assert Quarantine(store.paths, grace=3600).sweep(frozenset) == 0
    assert len(store.quarantined()) == 2


def test_what_took_the_place_of_the_rotten_stays(store: Store) -> None:
    path = store.blob(b"one")
    inode = path.stat().st_ino
    rot(path)
    aside = path.rename(path.with_name("aside"))  # another process was first, and a pull after it
    store.blob(b"one")
    assert not store.quarantine.take("blob", Digest.of(b"one"), path, inode)
    assert path.read_bytes() == b"one"
    assert aside.exists()


def test_pull_that_brings_a_truncated_blob_again_takes_its_trees_away(store: Store) -> None:
    tree = store.tree(PLAN, b"one")
    rot(tree / "d0/file", b"o")
    store.blob(b"one")
    assert not store.trees.has(PLAN)
    assert store.verify() == (1, [])
    assert store.quarantined() == [
        f"{kind}-sha256-{digest.encoded}" for kind, digest in (("blob", Digest.of(b"one")), ("tree", PLAN))
    ]


def test_tree_in_the_making_of_what_has_rotted_is_never_finished(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store.blob(b"one")

    def rotten_meanwhile(self: Path, target: Path) -> Path:
        if self.name == "tree":
            monkeypatch.undo()
            rot(path)
            store.verify()
        return real(self, target)

    real = Path.rename
    monkeypatch.setattr(Path, "rename", rotten_meanwhile)
    with pytest.raises(StoreBrokenError):
        store.tree(PLAN, b"one")
    assert not store.trees.has(PLAN)
    assert (store.tree(PLAN, b"one") / "d0/file").read_bytes() == b"one"
    assert list(store.paths.staging.iterdir()) == []


def test_object_that_a_pull_counts_on_does_not_come_back(store: Store) -> None:
    path = store.object(b"one", 0o444)
    with store.objects.batch() as batch:
        batch.add([memoryview(b"one")], 3, 0o444)
        rot(path)
        assert store.verify() == (1, [str(Digest.of(b"one"))])
        with pytest.raises(StoreBrokenError), batch.committed():
            pass
    assert not path.exists()
    assert store.object(b"one", 0o444).read_bytes() == b"one"


def test_what_a_killed_process_has_left_is_finished(store: Store) -> None:
    tree = store.tree(PLAN, b"one")
    path = store.blob(b"one")
    rot(path)
    path.rename(store.paths.quarantine / f"blob-sha256-{Digest.of(b'one').encoded}-{'0' * 16}")
    assert tree.exists()
    store.quarantine.finish()
    assert not tree.exists()
    assert len(store.quarantined()) == 2


# -- once a week


class Weekly:
    """The driver's own pass, without its pauses."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.database = Database(store.paths.database)
        self.found = 0

    def run(self, stop: bool = False) -> int:  # noqa: FBT001, FBT002
        """Run, and return how often something was found."""
        before = self.found

        def find() -> None:
            self.found += 1
            if stop:
                raise InterruptedError

        WeeklyPass(self.database, self.store.verifier, Pace(1 << 40), save_seconds=0).run(find)
        return self.found - before

    def age(self, seconds: float) -> None:
        """Let the pass have begun so much earlier."""
        self.database.query("UPDATE passes SET began = began - ?", seconds)


@pytest.fixture
def weekly(store: Store) -> Iterator[Weekly]:
    weekly = Weekly(store)
    yield weekly
    weekly.database.close()


def test_pass_is_over_for_a_week(store: Store, weekly: Weekly) -> None:
    path = store.blob(b"one")
    assert weekly.run() == 0
    rot(path)
    weekly.age(_WEEK - 60)
    assert weekly.run() == 0
    assert path.exists()
    weekly.age(120)
    assert weekly.run() == 1
    assert not path.exists()


def test_interrupted_pass_goes_on_where_it_was(store: Store, weekly: Weekly) -> None:
    paths = sorted([store.blob(data) for data in (b"1", b"2", b"3", b"4")], key=lambda path: path.name)
    rot(paths[2])
    with pytest.raises(InterruptedError):
        weekly.run(stop=True)
    rot(paths[0])
    rot(paths[3])
    assert weekly.run() == 1
    assert [path.exists() for path in paths] == [True, True, False, False]
    weekly.age(_WEEK)
    assert weekly.run() == 1
    assert not paths[0].exists()


def test_clock_that_was_set_back_ends_no_verification(store: Store, weekly: Weekly) -> None:
    assert weekly.run() == 0
    weekly.age(-_WEEK)
    rot(store.blob(b"one"))
    assert weekly.run() == 1


def test_pace_keeps_to_its_rate_and_saves_nothing_up() -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    pace = Pace(100, clock=lambda: now[0], sleep=sleep)
    for _ in range(5):
        pace.spend(100)
    assert now[0] == pytest.approx(5)
    now[0] = 1000
    pace.spend(100)
    pace.spend(100)
    assert now[0] == pytest.approx(1002)


def test_many_names_come_in_their_order(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("csi_oras.store.verification._NAMES", 3)
    for number in range(10):
        store.blob(str(number).encode())
    store.object(b"object")
    places = [item.place for item in store.verifier.stored()]
    assert (len(places), places) == (11, sorted(places))
    assert [item.place for item in store.verifier.stored(places[6])] == places[7:]


def test_staging_that_shows_nothing_rotten_is_left_alone(store: Store) -> None:
    with staging(store.paths) as directory:
        (directory / "1").write_bytes(b"another pull's")
        rot(store.tree(PLAN, b"one") / "d0/file")
        store.verify()
        assert (directory / "1").read_bytes() == b"another pull's"
