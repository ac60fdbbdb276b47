"""What a collection takes, in which order, and what it leaves and why."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_oras.errors import NoSpaceError
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.name import Name
from csi_oras.oci.platform import Platform
from csi_oras.oci.reference import Reference
from csi_oras.oci.view import File, View
from csi_oras.store.candidates import Decision
from csi_oras.store.catalogue import Catalogue, CataloguedPlan, LaidOut
from csi_oras.store.collection import Collection, Collector
from csi_oras.store.content import ContentStore
from csi_oras.store.database import Database
from csi_oras.store.grants import ANONYMOUS, Grant, Grants
from csi_oras.store.leases import Leases
from csi_oras.store.objects import ObjectStore
from csi_oras.store.paths import StatePaths
from csi_oras.store.space import SpaceMeter, StoreLimits
from csi_oras.store.trees import TreeStore
from csi_oras.store.views import Views
from csi_oras.telemetry.metrics import Metrics

_TYPE = "application/octet-stream"
_AMD64 = Platform.parse("linux/amd64")
_BLOCK = 4096
_AGO = 3600.0


class Shelf:
    """A store with a collector, and what a pull would leave in it."""

    def __init__(self, directory: Path) -> None:
        self.paths = StatePaths.create(directory)
        self.database = Database(self.paths.database)
        self.grants = Grants(self.database)
        self.content = ContentStore(self.paths, self.grants)
        self.trees = TreeStore(self.paths)
        self.objects = ObjectStore(self.paths)
        self.catalogue = Catalogue(self.database)
        self.leases = Leases(self.paths, self.database)
        self.limits = StoreLimits(max_bytes=1 << 30, high_watermark=85, low_watermark=70, min_age=0)
        self.space = SpaceMeter(self.paths, lambda: self.limits)
        self.mounted: frozenset[str] = frozenset()
        self.collector = Collector(
            self.paths, self.database, leases=self.leases, space=self.space, mounted=lambda: self.mounted,
            views=Views(self.paths, self.database, _AMD64), metrics=Metrics("csi.oras.land", "0"),
        )  # fmt: skip

    def blob(self, content: bytes) -> Descriptor:
        """Put a blob."""
        blob = Descriptor.of(content, _TYPE)
        self.content.put(blob, content)
        return blob

    def artifact(self, name: str, files: dict[str, bytes], packed: bytes = b"", *, age: float = _AGO) -> Digest:
        """Put an artifact of plain files, and of an archive in which the same is once more under `unpacked/`."""
        manifest = self.blob(f"manifest of {name}".encode())
        plan = Digest.of(f"plan of {name}".encode())
        blobs = [manifest, *(self.blob(content) for content in files.values())]
        view = View()
        for path, blob in zip(files, blobs[1:], strict=True):
            view.add(Name.parse(path), File(blob.digest, blob.size, 0o444, is_blob=True))
        with self.objects.batch() as batch:
            if packed:
                blobs.append(self.blob(packed))
                for path, content in files.items():
                    view.add(Name.parse(f"unpacked/{path}"), batch.add([memoryview(content)], len(content), 0o444))
            with batch.committed():
                self.trees.lay_out(plan, view)
        reference = Reference.parse(f"reg.example/{name}:v1")
        laid_out = CataloguedPlan(artifact=manifest.digest, laid_out=LaidOut(plan=plan, size=1, files=1))
        contents = [blob.digest for blob in blobs]
        self.catalogue.add(reference, manifest.digest, laid_out, (_AMD64, ""), contents)
        self.grants.add([Grant(reference.repository, digest, ANONYMOUS) for digest in (plan, *contents)])
        self.database.query(
            "UPDATE artifacts SET last_used = ? WHERE digest = ?", time.time() - age, str(manifest.digest)
        )
        return manifest.digest

    def plan(self, name: str) -> Digest:
        """The plan of an artifact."""
        return Digest.of(f"plan of {name}".encode())

    def files(self) -> list[str]:
        """Everything that is in the store as a file, but its own."""
        return sorted(
            str(path.relative_to(self.paths.root))
            for path in self.paths.root.rglob("*")
            if path.is_file() and path.parent != self.paths.root
        )

    def rows(self) -> int:
        """How many rows there are in the tables that artifacts fill."""
        tables = ("artifacts", "plans", "contents", "tags", "grants", "leases", "holders", "signatures")
        return sum(int(self.database.query(f"SELECT count(*) FROM {table}")[0][0]) for table in tables)  # noqa: S608


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    shelf = Shelf(tmp_path / "state")
    yield shelf
    shelf.content.close()
    shelf.database.close()


def reasons(collection: Collection) -> dict[str, str]:
    return {decision.digest: decision.reason for decision in collection.kept}


def removed(collection: Collection) -> list[str]:
    return [decision.digest for decision in collection.removed]


def test_collecting_everything_leaves_no_file_and_no_row(shelf: Shelf) -> None:
    shelf.artifact("one", {"a": b"1" * 10_000, "b": b"shared" * 1000}, packed=b"p" * 100_000)
    shelf.artifact("two", {"a": b"2" * 10_000, "b": b"shared" * 1000}, packed=b"q" * 100_000)
    before = shelf.space.usage().total
    collection = shelf.collector.collect(everything=True)
    assert (shelf.files(), shelf.rows()) == ([], 0)
    assert collection.freed == before


def test_dry_run_says_what_would_go_to_the_byte_and_changes_nothing(shelf: Shelf) -> None:
    shelf.artifact("one", {"a": b"1" * 10_000, "b": b"shared" * 1000}, packed=b"p" * 100_000)
    shelf.artifact("two", {"a": b"2" * 10_000, "b": b"shared" * 1000})
    files, rows = shelf.files(), shelf.rows()
    foretold = shelf.collector.collect(everything=True, dry_run=True)
    assert (shelf.files(), shelf.rows()) == (files, rows)
    assert shelf.collector.collect(everything=True) == foretold


def test_the_artifact_used_longest_ago_goes_first_and_no_more_than_needed(shelf: Shelf) -> None:
    artifacts = [shelf.artifact(f"a{age}", {"f": os.urandom(100_000)}, age=age) for age in (300, 500, 400)]
    used = shelf.space.usage().total
    shelf.limits = StoreLimits(max_bytes=used * 100 // 60, high_watermark=50, low_watermark=45, min_age=0)
    collection = shelf.collector.collect()
    assert removed(collection) == [str(artifacts[1])]
    assert reasons(collection) == dict.fromkeys(map(str, (artifacts[0], artifacts[2])), "there is room enough")
    assert shelf.space.measure().excess == 0


def test_what_is_below_the_low_watermark_stays(shelf: Shelf) -> None:
    shelf.artifact("one", {"f": b"content"})
    assert shelf.collector.collect() == shelf.collector.collect(dry_run=True)
    assert shelf.collector.collect().removed == []


def test_schedule_waits_for_the_high_watermark_and_goes_down_to_the_low_one(shelf: Shelf) -> None:
    for number in range(10):
        shelf.artifact(f"a{number}", {"f": os.urandom(96_000)}, age=1000 - number)
    used = shelf.space.usage().total
    shelf.limits = StoreLimits(max_bytes=used * 100 // 80, high_watermark=85, low_watermark=40, min_age=0)
    shelf.collector.tidy()
    assert shelf.catalogue.count() == 10
    shelf.limits = StoreLimits(max_bytes=used * 100 // 90, high_watermark=85, low_watermark=40, min_age=0)
    shelf.collector.tidy()
    space = shelf.space.measure()
    assert 0.3 * space.capacity < space.used <= 0.4 * space.capacity
    assert shelf.catalogue.count() == 4


@pytest.mark.parametrize("held", ["artifact", "plan"])
def test_what_a_volume_holds_stays(shelf: Shelf, held: str) -> None:
    artifact = shelf.artifact("one", {"f": b"content"})
    digest = str(artifact if held == "artifact" else shelf.plan("one"))
    shelf.database.query("INSERT INTO leases VALUES ('volume v /t', ?), ('volume w /u', ?)", digest, digest)
    collection = shelf.collector.collect(everything=True)
    assert reasons(collection) == {str(artifact): "shown by 2 volumes"}
    assert collection.removed == []


def test_what_is_mounted_stays_though_no_record_knows_of_it(shelf: Shelf) -> None:
    artifact = shelf.artifact("one", {"f": b"content"})
    shelf.mounted = frozenset({str(shelf.plan("one"))})
    files = shelf.files()
    assert reasons(shelf.collector.collect(everything=True)) == {str(artifact): "shown by a mount"}
    shelf.database.query("DELETE FROM plans")
    shelf.database.query("DELETE FROM artifacts")
    shelf.database.query("DELETE FROM contents")
    assert str(shelf.plan("one")) in reasons(shelf.collector.collect(everything=True))
    assert [file for file in files if file.startswith("trees")] == [f for f in shelf.files() if f.startswith("trees")]


def test_what_was_used_within_min_age_stays(shelf: Shelf) -> None:
    artifact = shelf.artifact("one", {"f": b"content"}, age=50)
    shelf.limits = StoreLimits(max_bytes=0, high_watermark=85, low_watermark=70, min_age=60)
    assert reasons(shelf.collector.collect(everything=True)) == {str(artifact): "used within minAge"}
    shelf.limits = StoreLimits(max_bytes=0, high_watermark=85, low_watermark=70, min_age=40)
    assert removed(shelf.collector.collect(everything=True)) == [str(artifact)]


def test_what_the_prefetch_list_holds_stays_until_it_lets_go(shelf: Shelf) -> None:
    artifact = shelf.artifact("one", {"f": b"content"})
    shelf.leases.of_wish("reg.example/one:v*", [artifact])
    assert reasons(shelf.collector.collect(everything=True)) == {str(artifact): "on the prefetch list"}
    shelf.leases.of_wish("reg.example/one:v*", [])
    assert removed(shelf.collector.collect(everything=True)) == [str(artifact)]


def test_what_a_pull_counts_on_and_what_it_writes_stays_until_it_ends(shelf: Shelf) -> None:
    artifact = shelf.artifact("one", {"f": b"content"})
    old = shelf.blob(b"old and of nobody")
    os.utime(shelf.content.path(old.digest), (1, 1))
    other = shelf.blob(b"other and of nobody")
    os.utime(shelf.content.path(other.digest), (1, 1))
    with shelf.leases.of_pull() as lease:
        lease.add([artifact, old.digest])
        new = shelf.blob(b"new")
        collection = shelf.collector.collect(everything=True)
        assert removed(collection) == [str(other.digest)]
        assert reasons(collection) == dict.fromkeys(map(str, (artifact, old.digest, new.digest)), "a pull is under way")
    assert len(shelf.collector.collect(everything=True).removed) == 3
    assert (shelf.files(), shelf.rows()) == ([], 0)


def test_a_blob_that_a_pull_puts_once_more_counts_as_written_by_it(shelf: Shelf) -> None:
    blob = shelf.blob(b"a manifest")
    path = shelf.content.path(blob.digest)
    os.utime(path, (1, 1))
    with shelf.leases.of_pull():
        shelf.blob(b"a manifest")
        assert shelf.collector.collect(everything=True).removed == []
    assert path.stat().st_mtime == 1


def test_lease_of_a_dead_pull_is_void(shelf: Shelf) -> None:
    artifact = shelf.artifact("one", {"f": b"content"})
    shelf.database.query("INSERT INTO holders VALUES ('pull gone', 1)")
    shelf.database.query("INSERT INTO leases VALUES ('pull gone', ?)", str(artifact))
    assert removed(shelf.collector.collect(everything=True)) == [str(artifact)]
    assert shelf.rows() == 0


def test_blobs_and_trees_of_two_artifacts_stay_until_both_go(shelf: Shelf) -> None:
    first = shelf.artifact("one", {"a": b"1" * 10_000, "both": b"shared" * 10_000})
    second = shelf.artifact("two", {"b": b"2" * 10_000, "both": b"shared" * 10_000})
    shelf.leases.of_wish("two", [second])
    collection = shelf.collector.collect(everything=True)
    assert removed(collection) == [str(first)]
    assert collection.freed < 10 * _BLOCK  # the shared file has fifteen
    assert shelf.content.has(Descriptor.of(b"shared" * 10_000, _TYPE))
    assert not shelf.content.has(Descriptor.of(b"1" * 10_000, _TYPE))
    assert (shelf.trees.path(shelf.plan("two")) / "both").read_bytes() == b"shared" * 10_000


def test_packed_blobs_of_what_stays_go_last_and_only_under_need(shelf: Shelf) -> None:
    held = shelf.artifact("held", {"f": b"f" * 10_000}, packed=b"p" * 1_000_000)
    other = shelf.artifact("other", {"g": b"g" * 10_000}, packed=b"q" * 1_000_000)
    shelf.leases.of_wish("held", [held])
    packed = Descriptor.of(b"p" * 1_000_000, _TYPE)
    assert removed(shelf.collector.collect(everything=True)) == [str(other)]
    assert shelf.content.has(packed)
    used = shelf.space.usage().total
    shelf.limits = StoreLimits(max_bytes=used, high_watermark=85, low_watermark=70, min_age=0)
    space = shelf.collector.make_room(500_000)
    assert space.available >= 500_000
    assert not shelf.content.has(packed)
    assert (shelf.trees.path(shelf.plan("held")) / "unpacked/f").read_bytes() == b"f" * 10_000


def test_unpacked_files_that_no_tree_shows_go(shelf: Shelf) -> None:
    with shelf.objects.batch() as batch:
        batch.add([memoryview(b"lost")], 4, 0o444)
        with batch.committed():
            pass
        shelf.collector.collect(everything=True)
        assert len(list(shelf.paths.objects.iterdir())) == 1  # a pull that counts on it has a link of its own
    collection = shelf.collector.collect(everything=True)
    assert [decision.digest for decision in collection.removed] == [str(Digest.of(b"lost"))]
    assert shelf.files() == []


def test_batch_counts_on_an_object_that_is_collected_in_the_meantime(shelf: Shelf) -> None:
    shelf.artifact("one", {"f": b"content"}, packed=b"p")
    view = View()
    with shelf.objects.batch() as batch:
        view.add(Name.parse("f"), batch.add([memoryview(b"content")], 7, 0o444))
        shelf.collector.collect(everything=True)
        for path in shelf.paths.objects.iterdir():  # and if it goes all the same
            path.unlink()
        with batch.committed():
            tree = shelf.trees.lay_out(Digest.of(b"another plan"), view)
    assert (tree / "f").read_bytes() == b"content"


def test_unfinished_blob_goes_unless_somebody_works_on_it(shelf: Shelf) -> None:
    blob = Descriptor.of(b"x" * 10_000, _TYPE)
    ingest = shelf.content.ingest(blob, "reg.example/one")
    assert ingest is not None
    ingest.write(memoryview(b"x" * 5_000), 0)
    ingest.keep(0, 5_000)
    assert reasons(shelf.collector.collect(everything=True)) == {str(blob.digest): "a pull is under way"}
    ingest.close()
    assert removed(shelf.collector.collect(everything=True)) == [str(blob.digest)]
    assert shelf.files() == []


def test_extents_whose_blob_was_committed_before_a_kill_go(shelf: Shelf) -> None:
    (shelf.paths.ingests / f"{Digest.of(b'x').encoded}-{'a' * 32}.extents").write_text("0 1\n")
    assert removed(shelf.collector.collect(everything=True)) == [str(Digest.of(b"x"))]
    assert shelf.files() == []


def test_unfinished_blob_that_nobody_has_worked_on_for_a_day_goes_without_need(shelf: Shelf) -> None:
    for number, days in enumerate((0.9, 1.1)):
        ingest = shelf.content.ingest(Descriptor.of(bytes([number]) * 10, _TYPE))
        assert ingest is not None
        ingest.write(memoryview(bytes([number])), 0)
        ingest.close()
        then = time.time() - days * 24 * 3600
        os.utime(ingest.path, (then, then))
    shelf.collector.tidy()
    assert shelf.files() == [f"ingest/{Digest.of(bytes([0]) * 10).encoded}"]


def test_room_is_made_only_where_it_is_needed(shelf: Shelf) -> None:
    shelf.artifact("one", {"f": b"1" * 100_000}, age=200)
    second = shelf.artifact("two", {"f": b"2" * 100_000}, age=100)
    used = shelf.space.usage().total
    shelf.limits = StoreLimits(max_bytes=used + 50_000, high_watermark=85, low_watermark=10, min_age=0)
    assert shelf.collector.make_room(50_000).available == 50_000
    assert shelf.catalogue.count() == 2
    assert shelf.collector.make_room(60_000).available >= 60_000
    assert [artifact.digest for artifact in shelf.catalogue.artifacts()] == [second]


def test_room_that_cannot_be_made_is_said_and_takes_nothing_that_is_held(shelf: Shelf) -> None:
    artifact = shelf.artifact("one", {"f": b"1" * 100_000})
    shelf.leases.of_wish("one", [artifact])
    shelf.limits = StoreLimits(max_bytes=shelf.space.usage().total, high_watermark=85, low_watermark=70, min_age=0)
    assert shelf.collector.make_room(1).available == 0
    assert shelf.trees.has(shelf.plan("one"))


def test_files_go_though_their_records_cannot_and_the_records_follow(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.artifact("one", {"f": b"1" * 100_000})
    commit, failures = shelf.database.transaction, iter([True])

    def failing() -> object:
        if next(failures, False):
            raise NoSpaceError("database", "is full")
        return commit()

    monkeypatch.setattr(shelf.database, "transaction", failing)
    shelf.collector.collect(everything=True)
    assert (shelf.files(), shelf.rows()) == ([], 0)


def test_artifact_that_came_into_use_after_the_decision_stays(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = shelf.artifact("one", {"f": b"content"})
    remove = shelf.collector._remover.remove

    def used_before_it_goes(decisions: list[Decision]) -> list[Decision]:
        shelf.leases.of_wish("one", [shelf.plan("one")])
        return remove(decisions)

    monkeypatch.setattr(shelf.collector._remover, "remove", used_before_it_goes)
    collection = shelf.collector.collect(everything=True)
    assert collection.removed == []
    assert reasons(collection) == {str(artifact): "came into use meanwhile"}
    assert (shelf.trees.path(shelf.plan("one")) / "f").read_bytes() == b"content"
