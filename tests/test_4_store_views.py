"""Views as somebody on the node finds them, of trees that are really there; pulls and drivers are at the end."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from csi_oras.errors import StoreBrokenError
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.name import Name
from csi_oras.oci.platform import Platform
from csi_oras.oci.reference import Reference
from csi_oras.oci.selection import Selection
from csi_oras.oci.view import File, View
from csi_oras.store.catalogue import Catalogue, CataloguedPlan, LaidOut
from csi_oras.store.content import ContentStore
from csi_oras.store.database import Database
from csi_oras.store.grants import Grants
from csi_oras.store.paths import StatePaths
from csi_oras.store.trees import TreeStore
from csi_oras.store.views import Views
from tests.support.artifacts import Pusher, files
from tests.support.driver import Driver

_PLATFORM = Platform("linux", "amd64")
_WHOLE = Selection().key
_DEEP = "/".join("ab" * 42)


class Shelf:
    """A store without a registry: artifacts of one file are put into it as a pull would."""

    def __init__(self, state: Path) -> None:
        self.paths = StatePaths.create(state)
        self.database = Database(self.paths.database)
        self.catalogue = Catalogue(self.database)
        self.content = ContentStore(self.paths, Grants(self.database))
        self.trees = TreeStore(self.paths)
        self.views = Views(self.paths, self.database, _PLATFORM)

    def put(
        self, reference: str, content: str, *, key: str = _WHOLE, platform: Platform = _PLATFORM, single: bool = False
    ) -> Path:
        """Have an artifact with `content` in a file "f", and return its tree."""
        data = content.encode()
        blob = Descriptor.of(data, "text/plain")
        self.content.put(blob, data)
        view = View()
        view.add(Name.parse("f"), File(blob.digest, len(data), 0o444, is_blob=True))
        plan, root = Digest.of(b"plan of " + data), Digest.of(b"manifest of " + data)
        tree = self.trees.lay_out(plan, view)
        laid_out = LaidOut(plan=plan, size=len(data), files=1, single="f" if single else "")
        found = CataloguedPlan(artifact=root, laid_out=laid_out)
        self.catalogue.add(Reference.parse(reference), root, found, (platform, key))
        return tree

    def pulled(self, reference: str, content: str, **options: object) -> Path:
        """Have an artifact, and its view follow."""
        tree = self.put(reference, content, **options)  # type: ignore[arg-type]
        self.views.follow(Reference.parse(reference))
        return tree

    @property
    def shown(self) -> dict[str, str]:
        """Every link in the views with what can be read through it, and every directory without anything in it."""
        root = self.paths.views
        found = {}
        for directory, below, names in os.walk(root):
            for name in (*below, *names):
                path = Path(directory, name)
                if path.is_symlink():
                    file = path / "f" if path.is_dir() else path
                    found[str(path.relative_to(root))] = file.read_text() if file.exists() else "nothing"
                elif not path.is_dir() or not list(path.iterdir()):
                    found[str(path.relative_to(root))] = "no link"
        return found


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "state")


@pytest.mark.parametrize("how", ["follow", "reconcile"])
@pytest.mark.parametrize(
    ("reference", "path"),
    [
        ("ghcr.io/acme/models/llama:v3", "ghcr.io/acme/models/llama/v3"),
        ("localhost:5000/a:v1", "localhost:5000/a/v1"),
        ("[2001:db8::1]:5000/a/b:v1.0_x-y", "[2001:db8::1]:5000/a/b/v1.0_x-y"),
        ("alpine:3", "docker.io/library/alpine/3"),
        (
            "reg.example/" + "/".join("ab" * 42) + f":{'t' * 128}",
            "reg.example/" + "/".join("ab" * 42) + f"/{'t' * 128}",
        ),
    ],
    ids=["host", "port", "IPv6", "Docker Hub", "deep"],
)
def test_view_is_a_relative_link_to_the_tree(shelf: Shelf, reference: str, path: str, how: str) -> None:
    tree = shelf.put(reference, "content")
    shelf.views.follow(Reference.parse(reference)) if how == "follow" else shelf.views.reconcile()
    link = shelf.paths.views / path
    assert str(link.readlink()) == "../" * (path.count("/") + 1) + f"trees/{tree.name}"
    assert link.resolve() == tree.resolve()
    assert shelf.shown == {path: "content"}


def test_view_of_one_file_is_a_link_to_the_file(shelf: Shelf) -> None:
    tree = shelf.pulled("reg.example/a:v1", "content", single=True)
    link = shelf.paths.views / "reg.example/a/v1"
    assert link.resolve() == (tree / "f").resolve()
    assert link.read_text() == "content"


@pytest.mark.parametrize("how", ["follow", "reconcile"])
def test_view_moves_with_the_tag(shelf: Shelf, how: str) -> None:
    shelf.pulled("reg.example/a:v1", "old")
    shelf.put("reg.example/a:v1", "new")
    assert shelf.shown == {"reg.example/a/v1": "old"}
    shelf.views.follow(Reference.parse("reg.example/a:v1")) if how == "follow" else shelf.views.reconcile()
    assert shelf.shown == {"reg.example/a/v1": "new"}


def test_view_that_moves_is_there_at_each_moment(shelf: Shelf) -> None:
    for content in ("old", "new"):
        shelf.pulled("reg.example/a:v1", content)
    link, stop = shelf.paths.views / "reg.example/a/v1/f", threading.Event()
    seen: list[str] = []

    def look() -> None:
        while not stop.is_set():
            try:
                seen.append(link.read_text())
            except FileNotFoundError:
                seen.append("nothing")

    looker = threading.Thread(target=look)
    looker.start()
    for number in range(400):
        shelf.pulled("reg.example/a:v1", "old" if number % 2 else "new")
    stop.set()
    looker.join()
    assert set(seen) == {"old", "new"}


@pytest.mark.parametrize("how", ["follow", "reconcile"])
@pytest.mark.parametrize(
    "options",
    [
        {"key": Selection(unpack=False).key},
        {"key": Selection(metadata=True).key},
        {"key": f"{_WHOLE} reg.example/b:v1"},
        {"platform": Platform("linux", "riscv64")},
    ],
    ids=["not unpacked", "with metadata", "named for another reference", "another platform"],
)
def test_selection_of_an_artifact_has_no_view_nor_keeps_the_old_one(
    shelf: Shelf, options: dict[str, object], how: str
) -> None:
    shelf.pulled("reg.example/a:v1", "old")
    shelf.put("reg.example/a:v1", "new", **options)  # type: ignore[arg-type]
    shelf.views.follow(Reference.parse("reg.example/a:v1")) if how == "follow" else shelf.views.reconcile()
    assert "reg.example/a/v1" not in shelf.shown


def test_artifact_whose_files_are_named_for_the_reference_has_a_view(shelf: Shelf) -> None:
    shelf.pulled("reg.example/a:v1", "chart", key=f"{_WHOLE} reg.example/a:v1")
    assert shelf.shown == {"reg.example/a/v1": "chart"}
    shelf.views.reconcile()
    assert shelf.shown == {"reg.example/a/v1": "chart"}


def test_reference_by_digest_has_no_view(shelf: Shelf) -> None:
    shelf.pulled(f"reg.example/a@{Digest.of(b'manifest of content')}", "content")
    shelf.views.reconcile()
    assert shelf.shown == {}


@pytest.mark.parametrize("lost", ["tree", "tag", "database"])
def test_view_of_what_is_gone_goes_with_its_directories(shelf: Shelf, lost: str) -> None:
    tree = shelf.pulled("reg.example/deep/er/a:v1", "content")
    shelf.pulled("reg.example/b:v1", "kept")
    if lost == "tree":
        tree.rename(shelf.paths.staging / "gone")
    elif lost == "tag":
        shelf.database.query("DELETE FROM tags WHERE repository = 'reg.example/deep/er/a'")
    else:
        for table in ("tags", "plans", "artifacts"):
            shelf.database.query(f"DELETE FROM {table}")  # noqa: S608 (the names above)
    shelf.views.reconcile()
    assert shelf.shown == ({} if lost == "database" else {"reg.example/b/v1": "kept"})
    assert names(shelf.paths.views) == ([] if lost == "database" else ["reg.example"])


@pytest.mark.parametrize("first", ["tag", "repository"])
def test_repository_wins_over_a_tag_of_its_name_and_it_is_logged_once(shelf: Shelf, first: str) -> None:
    pair = [("reg.example/a:b", "tag"), ("reg.example/a/b:v1", "repository")]
    with capture_logs() as logged:
        for reference, content in pair if first == "tag" else reversed(pair):
            shelf.pulled(reference, content)
        for _ in range(3):
            assert shelf.shown == {"reg.example/a/b/v1": "repository"}
            shelf.views.reconcile()
    assert [line["reference"] for line in logged] == ["reg.example/a:b"]


def test_tag_gets_its_view_when_the_repository_of_its_name_is_gone(shelf: Shelf) -> None:
    shelf.pulled("reg.example/a:b", "tag")
    shelf.pulled("reg.example/a/b:v1", "repository")
    shelf.database.query("DELETE FROM tags WHERE repository = 'reg.example/a/b'")
    shelf.views.reconcile()
    assert shelf.shown == {"reg.example/a/b": "tag"}


def test_reconciliation_of_what_is_in_order_changes_nothing(shelf: Shelf) -> None:
    for number in range(20):
        shelf.put(f"reg.example/a{number % 4}/b:v{number}", f"content {number % 3}", single=bool(number % 2))
    shelf.views.reconcile()

    def status() -> dict[Path, tuple[int, int]]:
        return {
            Path(directory, name): ((found := Path(directory, name).lstat()).st_ino, found.st_mtime_ns)
            for directory, *inner in os.walk(shelf.paths.views)
            for below in inner
            for name in below
        }

    before = status()
    shelf.views.reconcile()
    assert len(before) == 1 + 4 + 4 + 20  # the registry, four directories with one each, the links
    assert status() == before


# -- what somebody else has put there


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A directory outside of the store, which nobody may touch."""
    directory = tmp_path / "canary"
    (directory / "a").mkdir(parents=True)
    (directory / "a/v1").write_text("alive")
    yield directory
    found = {str(path.relative_to(directory)) for path in directory.rglob("*")}
    assert (found, (directory / "a/v1").read_text()) == ({"a", "a/v1"}, "alive")


@pytest.mark.parametrize("how", ["follow", "reconcile"])
@pytest.mark.parametrize("place", ["reg.example", "reg.example/a", "reg.example/a/v1", "reg.example/a/.new"])
def test_planted_link_is_replaced_and_not_followed(shelf: Shelf, canary: Path, place: str, how: str) -> None:
    planted = shelf.paths.views / place
    planted.parent.mkdir(parents=True, exist_ok=True)
    planted.symlink_to(canary)
    shelf.put("reg.example/a:v1", "content")
    shelf.views.follow(Reference.parse("reg.example/a:v1")) if how == "follow" else shelf.views.reconcile()
    assert shelf.shown == {"reg.example/a/v1": "content"}


@pytest.mark.parametrize("how", ["follow", "reconcile"])
def test_planted_link_in_the_way_of_what_is_to_go_is_not_followed(shelf: Shelf, canary: Path, how: str) -> None:
    (shelf.paths.views / "reg.example").symlink_to(canary)
    shelf.views.follow(Reference.parse("reg.example/a:v1")) if how == "follow" else shelf.views.reconcile()


def test_views_that_are_a_link_are_left_alone(shelf: Shelf, canary: Path) -> None:
    shelf.paths.views.rmdir()
    shelf.paths.views.symlink_to(canary)
    with capture_logs() as logged:
        shelf.pulled("reg.example/a:v1", "content")
    assert [line["log_level"] for line in logged] == ["warning"]
    with pytest.raises(StoreBrokenError, match=r"^views: "):
        shelf.views.reconcile()


def test_reconciliation_removes_what_is_no_view(shelf: Shelf) -> None:
    shelf.pulled("reg.example/a:v1", "content")
    (shelf.paths.views / "reg.example/a/.new").symlink_to("nowhere")
    (shelf.paths.views / "reg.example/a/file").write_text("x")
    (shelf.paths.views / "reg.example/a/v2/deep/er").mkdir(parents=True)
    (shelf.paths.views / "reg.example/a/v2/deep/file").write_text("x")
    os.mkfifo(shelf.paths.views / "pipe")
    Path(os.fsdecode(os.fsencode(shelf.paths.views) + b"/\xff\n")).write_text("x")
    shelf.views.reconcile()
    assert shelf.shown == {"reg.example/a/v1": "content"}
    assert names(shelf.paths.views) + names(shelf.paths.views / "reg.example/a") == ["reg.example", "v1"]


@pytest.mark.needs("root")
def test_reconciliation_removes_nothing_that_is_mounted_there(shelf: Shelf, canary: Path) -> None:
    mounted = shelf.paths.views / "old"
    mounted.mkdir()
    subprocess.run(["mount", "--bind", canary, mounted], check=True)
    try:
        with pytest.raises(StoreBrokenError):
            shelf.views.reconcile()
    finally:
        subprocess.run(["umount", "-l", mounted], check=True)


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("tags.repository", "reg.example/../../canary"),
        ("tags.repository", "../canary"),
        ("tags.tag", "../../../canary"),
        ("tags.tag", ".."),
        ("tags.tag", ".new"),
        ("tags.tag", ""),
        ("tags.repository", f"{'.'.join(['a' * 60] * 5)}/a"),
        ("plans.plan", "sha256:../../canary"),
        ("plans.single", "../../../../canary/a/v1"),
        ("plans.single", "/etc/passwd"),
    ],
    ids=repr,
)
def test_text_of_the_database_that_is_no_name_becomes_no_path(
    shelf: Shelf, canary: Path, column: str, text: str
) -> None:
    shelf.put("reg.example/a:v1", "content")
    table, name = column.split(".")
    shelf.database.query(f"UPDATE {table} SET {name} = ?", text)  # noqa: S608 (the columns above)
    shelf.views.reconcile()
    assert shelf.shown == {}
    assert canary.is_dir()


def test_pulls_at_the_same_time_and_reconciliations_of_others_lose_no_view(shelf: Shelf) -> None:
    others = Views(shelf.paths, Database(shelf.paths.database), _PLATFORM)
    stop = threading.Event()

    def reconcile() -> None:
        while not stop.is_set():
            others.reconcile()

    reconciler = threading.Thread(target=reconcile)
    reconciler.start()
    try:
        for number in range(100):
            shelf.pulled(f"reg.example/a{number % 3}:v{number}", f"content {number % 5}")
            assert (shelf.paths.views / f"reg.example/a{number % 3}/v{number}/f").read_text() == f"content {number % 5}"
    finally:
        stop.set()
        reconciler.join()


# -- a driver and commands


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def run(state: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "csi_oras", *arguments, "--state-dir", str(state)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_pulled_artifact_has_a_view_that_follows_its_tag(tmp_path: Path, pusher: Pusher, repository: str) -> None:
    state = tmp_path / "state"
    view = state / "views" / pusher.address / repository / "latest"
    for content in (b"old", b"new"):
        run(state, "pull", pusher.artifact(repository, files(f=content), "latest"))
        assert (view / "f").read_bytes() == content
    reference = pusher.artifact(repository, files(f=b"selected", g=b"not"), "latest")
    run(state, "pull", reference, "--include", "f")
    assert not view.is_symlink()
    run(state, "pull", reference)
    assert (view / "g").read_bytes() == b"not"


def test_collection_takes_the_view_away(tmp_path: Path, pusher: Pusher, repository: str) -> None:
    state = tmp_path / "state"
    policy = tmp_path / "policy.yaml"
    policy.write_text("store: {minAge: 0s}\n")
    run(state, "pull", pusher.artifact(repository, files(f=b"content")))
    assert names(state / "views") == [pusher.address]
    run(state, "store", "gc", "--all", "--config", str(policy))
    assert names(state / "views") == []


def test_driver_puts_views_in_order_when_it_starts(short_path: Path, pusher: Pusher, repository: str) -> None:
    reference = pusher.artifact(repository, files(f=b"content"))
    with Driver(short_path) as driver:
        target = driver.target()
        driver.publish(target, reference=reference)
        view = driver.state / "views" / pusher.address / repository / "v1"
        assert (view / "f").read_bytes() == b"content"
        driver.kill()
        view.unlink()
        (view.parent / "stale").symlink_to("nowhere")
        driver.start()
        eventually(lambda: view.is_symlink() and not (view.parent / "stale").is_symlink())
        assert (view / "f").read_bytes() == b"content"
        driver.kill()
        for path in driver.state.glob("state.db*"):
            path.unlink()
        driver.start()
        eventually(lambda: names(driver.state / "views") == [])
        driver.unpublish(target)


@pytest.mark.needs("root")
def test_views_that_cannot_be_written_fail_no_volume(short_path: Path, pusher: Pusher, repository: str) -> None:
    reference = pusher.artifact(repository, files(f=b"content"))
    with Driver(short_path) as driver:
        (driver.state / "views").rmdir()
        (driver.state / "views").write_text("x")
        target = driver.target()
        driver.publish(target, reference=reference)
        assert (target / "f").read_bytes() == b"content"
        driver.unpublish(target)
    assert "a view was not changed" in driver.log
