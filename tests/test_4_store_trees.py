import errno
import fcntl
import os
import stat
from pathlib import Path

import pytest

from csi_oras.errors import StoreBrokenError
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.name import Name
from csi_oras.oci.view import File, Link, View
from csi_oras.store import staging
from csi_oras.store.content import ContentStore
from csi_oras.store.objects import ObjectStore
from csi_oras.store.paths import StatePaths
from csi_oras.store.trees import TreeStore
from tests.support.stores import content_store

PLAN = Digest.of(b"plan")


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return StatePaths.create(tmp_path / "state")


@pytest.fixture
def content(paths: StatePaths) -> ContentStore:
    return content_store(paths)


@pytest.fixture
def trees(paths: StatePaths) -> TreeStore:
    return TreeStore(paths)


def blob_of(data: bytes) -> Descriptor:
    return Descriptor.of(data, "application/octet-stream")


def view_of(content: ContentStore, **files: bytes) -> View:
    """A view of blobs that are in the store; `__` in a keyword stands for a slash."""
    view = View()
    for key, data in files.items():
        content.put(blob_of(data), data)
        view.add(Name.parse(key.replace("__", "/")), File(blob_of(data).digest, len(data), 0o444, is_blob=True))
    return view


def test_tree_shows_the_view_by_hard_links(trees: TreeStore, content: ContentStore) -> None:
    tree = trees.lay_out(PLAN, view_of(content, a=b"one", d__e__f=b"two"))
    assert tree.name == PLAN.encoded
    assert (tree / "a").read_bytes() == b"one"
    assert (tree / "d/e/f").read_bytes() == b"two"
    assert (tree / "d/e/f").stat().st_ino == content.path(blob_of(b"two").digest).stat().st_ino


def test_tree_is_read_only_throughout(trees: TreeStore, content: ContentStore) -> None:
    view = view_of(content, a=b"one", d__e__f=b"two")
    view.add_directory(Name.parse("empty"))
    tree = trees.lay_out(PLAN, view)
    modes = {str(path.relative_to(tree)): stat.S_IMODE(path.stat().st_mode) for path in (tree, *tree.rglob("*"))}
    assert modes == {".": 0o555, "a": 0o444, "d": 0o555, "d/e": 0o555, "d/e/f": 0o444, "empty": 0o555}


def test_tree_has_objects_and_links(trees: TreeStore, paths: StatePaths) -> None:
    view = View()
    with ObjectStore(paths).batch() as batch:
        view.add(Name.parse("d/run"), batch.add([memoryview(b"#!")], 2, 0o555))
        view.add(Name.parse("e/link"), Link("../d/run"))
        with batch.committed():
            tree = trees.lay_out(PLAN, view)
    assert (tree / "e/link").readlink() == Path("../d/run")
    assert (tree / "e/link").read_bytes() == b"#!"
    assert stat.S_IMODE((tree / "d/run").stat().st_mode) == 0o555
    assert (tree / "d/run").stat().st_ino == Path(paths.object(Digest.of(b"#!"), 0o555)).stat().st_ino


class KilledError(BaseException):
    """What no handler catches."""


@pytest.mark.parametrize("use", ["has", "lay_out"])
def test_tree_whose_maker_was_killed_at_the_end_is_read_only_when_it_is_used(
    trees: TreeStore, content: ContentStore, monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    view = view_of(content, a=b"one")

    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(Path, "chmod", killed)
        with pytest.raises(KilledError):
            trees.lay_out(PLAN, view)
    assert stat.S_IMODE(trees.path(PLAN).stat().st_mode) == 0o755
    assert trees.has(PLAN) if use == "has" else trees.lay_out(PLAN, view)
    assert stat.S_IMODE(trees.path(PLAN).stat().st_mode) == 0o555


def test_tree_of_one_plan_is_made_once(trees: TreeStore, content: ContentStore, paths: StatePaths) -> None:
    view = view_of(content, a=b"one")
    first = trees.lay_out(PLAN, view).stat().st_ino
    assert trees.lay_out(PLAN, view).stat().st_ino == first
    assert list(paths.staging.iterdir()) == []


def test_trees_of_other_plans_are_others(trees: TreeStore, content: ContentStore) -> None:
    view = view_of(content, a=b"one")
    assert len({trees.lay_out(Digest.of(plan), view) for plan in (b"1", b"2", b"3")}) == 3


def test_tree_without_a_blob_leaves_nothing(trees: TreeStore, content: ContentStore, paths: StatePaths) -> None:
    view = view_of(content, a=b"one", b=b"two")
    content.path(blob_of(b"two").digest).unlink()
    with pytest.raises(StoreBrokenError, match="is not in the store"):
        trees.lay_out(PLAN, view)
    assert not trees.has(PLAN)
    assert list(paths.staging.iterdir()) == []


def test_tree_of_an_empty_view_is_an_empty_directory(trees: TreeStore) -> None:
    tree = trees.lay_out(PLAN, View())
    assert tree.is_dir()
    assert list(tree.iterdir()) == []


def test_tree_with_more_names_for_a_blob_than_links_has_them_all(
    trees: TreeStore, content: ContentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def link_a_few(source: str, name: str, *, dst_dir_fd: int) -> None:  # as ext4 at 65,000, which takes seconds
        if Path(source).stat().st_nlink > 3:
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))
        link(source, name, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "link", link_a_few)
    tree = trees.lay_out(PLAN, view_of(content, **{f"f{number}": b"x" for number in range(10)}))
    found = sorted(tree.iterdir())
    assert [path.read_bytes() for path in found] == [b"x"] * 10
    assert {stat.S_IMODE(path.stat().st_mode) for path in found} == {0o444}
    assert content.path(blob_of(b"x").digest).stat().st_nlink == 4


def test_sweep_removes_what_a_crash_left_and_nothing_that_is_worked_on(paths: StatePaths) -> None:
    dead, living = paths.staging / "dead", paths.staging / "living"
    for place in (dead, living):
        (place / "tree" / "d").mkdir(parents=True)
        (place / "tree" / "d" / "file").write_text("half")
    descriptor = os.open(living, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    staging.sweep(paths)
    os.close(descriptor)
    assert list(paths.staging.iterdir()) == [living]
    staging.sweep(paths)
    assert list(paths.staging.iterdir()) == []


def test_sweep_passes_over_what_vanishes_and_what_is_no_staging(
    paths: StatePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    (paths.staging / "stray file").write_text("")
    (paths.staging / "dead").mkdir()
    vanished = paths.staging / "finished by another process meanwhile"
    monkeypatch.setattr(Path, "iterdir", lambda _: iter([vanished, *map(Path, os.scandir(paths.staging))]))
    staging.sweep(paths)
    assert not (paths.staging / "dead").exists()


def test_sweep_does_not_touch_trees(trees: TreeStore, content: ContentStore, paths: StatePaths) -> None:
    tree = trees.lay_out(PLAN, view_of(content, a=b"one"))
    staging.sweep(paths)
    assert (tree / "a").read_bytes() == b"one"
