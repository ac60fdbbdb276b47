"""The accountant of what pods wrote: whatever is hidden from it, it misses."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from sqlite3 import connect
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest

from tests.support.accountant import Account, Accountant
from tests.support.artifacts import OCI_MANIFEST, Pusher, files, sha256
from tests.support.driver import Driver
from tests.support.faulty_registry import FaultyRegistry
from tests.support.writers import POLICY, STEPS, Writer

pytestmark = pytest.mark.needs("root", "registry")


class Books(SimpleNamespace):
    """A pod whose result is in a registry, and one whose result waits, because its registry is dead."""

    node: Driver
    registry: FaultyRegistry
    dead: FaultyRegistry
    accountant: Accountant
    pushed: Writer
    waiting: Writer

    def account(self) -> Account:
        return self.accountant.account(self.node, away=[self.dead.address])

    def pusher(self) -> Pusher:
        return Pusher(self.registry.address, {"Accept": OCI_MANIFEST})


@pytest.fixture(scope="module")
def books() -> Iterator[Books]:
    """What each test leaves as it was."""
    with TemporaryDirectory(prefix="co-") as path:
        directory = Path(path)
        policy = directory / "policy.yaml"
        policy.write_text(POLICY)
        with (
            FaultyRegistry(directory / "registry") as registry,
            FaultyRegistry(directory / "dead") as dead,
            Driver(directory, "--config", str(policy)) as node,
        ):
            accountant = Accountant()
            pushed = _writes(node, accountant, "pushed", f"{registry.address}/work:v1")
            pushed.end()
            waiting = _writes(node, accountant, "waiting", f"{dead.address}/work:v1", pushed.out)
            dead.kill()
            waiting.end(seconds=3)
            yield Books(node=node, registry=registry, dead=dead, accountant=accountant, pushed=pushed, waiting=waiting)


def _writes(node: Driver, accountant: Accountant, name: str, out: str, base: str = "") -> Writer:
    writer = Writer(node, accountant, name, out)
    writer.begin(base)
    STEPS[bool(base)](writer.target, name.encode())
    writer.note()
    return writer


def test_all_that_pods_wrote_is_found_where_it_is(books: Books) -> None:
    assert books.account() == Account(pushed=frozenset({"pushed"}), waiting=frozenset({"waiting"}))


@pytest.mark.parametrize("name", ["numbers", "packed/link", "packed/nothing"])
def test_name_that_the_registry_does_not_have_is_missed(books: Books, name: str) -> None:
    """Its artifact is one without the name, made by a pod that had removed it."""
    other = Accountant()
    writer = Writer(books.node, other, "other", f"{books.registry.address}/hidden-{name.replace('/', '-')}:v1")
    writer.begin(books.pushed.out)
    (writer.target / "mine").write_bytes(name.encode())
    writer.note()
    hidden = writer.target / name
    hidden.rmdir() if hidden.is_dir() else hidden.unlink()
    writer.end()
    known = books.waiting
    other.wrote(known.name, known.out, known.view)
    with pytest.raises(AssertionError, match="nobody wrote what hidden-"):
        other.account(books.node, away=[books.dead.address])


def test_result_that_is_nowhere_is_missed(books: Books) -> None:
    other = Accountant()
    for writer in (books.pushed, books.waiting):
        other.wrote(writer.name, writer.out, writer.view)
    other.wrote("lost", f"{books.registry.address}/lost:v1", {"file": "sha256:0"})
    with pytest.raises(AssertionError, match="what lost wrote is nowhere"):
        other.account(books.node, away=[books.dead.address])


def test_file_that_is_gone_from_the_outbox_is_missed(books: Books) -> None:
    assert books.waiting.entry
    hidden = books.waiting.entry / "upper" / "sum"
    hidden.rename(books.node.directory / "hidden")
    try:
        with pytest.raises(AssertionError, match="sum: None and not sha256"):
            books.account()
    finally:
        (books.node.directory / "hidden").rename(hidden)


def test_entry_that_is_gone_from_the_outbox_is_missed(books: Books) -> None:
    hidden = books.waiting.entry
    assert hidden
    hidden.rename(books.node.directory / "hidden")
    try:
        with pytest.raises(AssertionError, match=r"holds something|what waiting wrote is nowhere"):
            books.account()
    finally:
        (books.node.directory / "hidden").rename(hidden)


def test_blob_that_is_gone_or_has_rotted_in_the_registry_is_noticed(books: Books) -> None:
    digest = books.pushed.view["numbers"].removeprefix("sha256:")
    (blob,) = books.registry.directory.glob(f"data/**/{digest}/data")
    content = blob.read_bytes()
    try:
        blob.write_bytes(b"X" + content[1:])
        with pytest.raises(AssertionError, match="has rotted"):
            books.account()
        blob.unlink()
        with pytest.raises(AssertionError, match="is not there"):
            books.account()
    finally:
        blob.write_bytes(content)


def test_result_that_somebody_else_has_written_over_is_missed(books: Books) -> None:
    pusher = books.pusher()
    _, before = pusher.get("/v2/work/manifests/v1")
    pusher.artifact("work", files(other=b"other"))
    try:
        with pytest.raises(AssertionError, match="nobody wrote what work:v1 is"):
            books.account()
        known = Accountant()
        for name, out, view in (
            (books.pushed.name, books.pushed.out, books.pushed.view),
            (books.waiting.name, books.waiting.out, books.waiting.view),
            ("other", books.pushed.out, {"other": sha256(b"other")}),
        ):
            known.wrote(name, out, view)
        with pytest.raises(AssertionError, match="what pushed wrote is nowhere"):
            known.account(books.node, away=[books.dead.address])
    finally:
        pusher.manifest("work", "v1", before)


def test_result_under_a_tag_that_is_not_its_place_is_noticed(books: Books) -> None:
    other = Accountant()
    for writer in (books.pushed, books.waiting):
        other.wrote(writer.name, writer.out.replace("v1", "v2"), writer.view)
    with pytest.raises(AssertionError, match="what pushed wrote for v2 is v1"):
        other.account(books.node, away=[books.dead.address])


def test_volume_that_is_left_is_noticed(books: Books) -> None:
    left = books.node.state / "volumes" / "left"
    left.mkdir()
    try:
        with pytest.raises(AssertionError, match=r"something is left of volumes.*'left'"):
            books.account()
    finally:
        left.rmdir()


def test_lease_of_an_entry_that_is_gone_is_noticed(books: Books) -> None:
    def run(statement: str) -> None:
        with closing(connect(books.node.state / "state.db")) as database, database:
            database.execute(statement)

    run("INSERT INTO leases VALUES ('outbox gone', 'sha256:0')")
    try:
        with pytest.raises(AssertionError, match="'outbox gone'"):
            books.account()
    finally:
        run("DELETE FROM leases WHERE holder = 'outbox gone'")
