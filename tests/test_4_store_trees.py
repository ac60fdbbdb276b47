import errno
import fcntl
import os
import stat
from pathlib import Path

import pytest

from csi_oras.errors import StoreBrokenError
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.name import Name
from csi_oras.oci.plan import Plan, PlanEntry
from csi_oras.store.content import ContentStore
from csi_oras.store.paths import StatePaths
from csi_oras.store.trees import TreeStore


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return StatePaths.create(tmp_path / "state")


@pytest.fixture
def content(paths: StatePaths) -> ContentStore:
    return ContentStore(paths)


@pytest.fixture
def trees(paths: StatePaths, content: ContentStore) -> TreeStore:
    return TreeStore(paths, content)


def blob_of(data: bytes) -> Descriptor:
    return Descriptor.of(data, "application/octet-stream")


def plan_of(content: ContentStore, **files: bytes) -> Plan:
    """A plan whose blobs are in the store; `__` in a keyword stands for a slash."""
    entries = []
    for number, (key, data) in enumerate(files.items()):
        content.put(blob_of(data), data)
        name = Name.parse(key.replace("__", "/"))
        entries.append(PlanEntry(name=name, blob=blob_of(data), layer=number, rule="title"))
    return Plan(entries=tuple(entries))


def test_tree_shows_the_plan_by_hard_links(trees: TreeStore, content: ContentStore) -> None:
    plan = plan_of(content, a=b"one", d__e__f=b"two")
    tree = trees.lay_out(plan)
    assert tree.name == plan.digest.encoded
    assert (tree / "a").read_bytes() == b"one"
    assert (tree / "d/e/f").read_bytes() == b"two"
    assert (tree / "d/e/f").stat().st_ino == content.path(blob_of(b"two").digest).stat().st_ino


def test_tree_is_read_only_throughout(trees: TreeStore, content: ContentStore) -> None:
    tree = trees.lay_out(plan_of(content, a=b"one", d__e__f=b"two"))
    modes = {str(path.relative_to(tree)): stat.S_IMODE(path.stat().st_mode) for path in (tree, *tree.rglob("*"))}
    assert modes == {".": 0o555, "a": 0o444, "d": 0o555, "d/e": 0o555, "d/e/f": 0o444}


def test_tree_of_one_plan_is_made_once(trees: TreeStore, content: ContentStore, paths: StatePaths) -> None:
    plan = plan_of(content, a=b"one")
    first = trees.lay_out(plan).stat().st_ino
    assert trees.lay_out(plan).stat().st_ino == first
    assert list(paths.staging.iterdir()) == []


def test_trees_of_other_names_or_bytes_are_others(trees: TreeStore, content: ContentStore) -> None:
    plans = [plan_of(content, a=b"one"), plan_of(content, b=b"one"), plan_of(content, a=b"two")]
    assert len({trees.lay_out(plan) for plan in plans}) == 3


def test_tree_without_a_blob_leaves_nothing(trees: TreeStore, content: ContentStore, paths: StatePaths) -> None:
    plan = plan_of(content, a=b"one", b=b"two")
    content.path(blob_of(b"two").digest).unlink()
    with pytest.raises(StoreBrokenError, match="is not in the store"):
        trees.lay_out(plan)
    assert not trees.has(plan.digest)
    assert list(paths.staging.iterdir()) == []


def test_tree_of_an_empty_plan_is_an_empty_directory(trees: TreeStore) -> None:
    tree = trees.lay_out(Plan(entries=()))
    assert tree.is_dir()
    assert list(tree.iterdir()) == []


def test_tree_with_more_names_for_a_blob_than_links_has_them_all(
    trees: TreeStore, content: ContentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = Path.hardlink_to

    def link_a_few(path: Path, target: Path) -> None:  # as ext4 does at 65,000, where a test would take seconds
        if target.stat().st_nlink > 3:
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))
        link(path, target)

    monkeypatch.setattr(Path, "hardlink_to", link_a_few)
    tree = trees.lay_out(plan_of(content, **{f"f{number}": b"x" for number in range(10)}))
    found = sorted(tree.iterdir())
    assert [path.read_bytes() for path in found] == [b"x"] * 10
    assert {stat.S_IMODE(path.stat().st_mode) for path in found} == {0o444}
    assert content.path(blob_of(b"x").digest).stat().st_nlink == 4


def test_sweep_removes_what_a_crash_left_and_nothing_that_is_worked_on(trees: TreeStore, paths: StatePaths) -> None:
    dead, living = paths.staging / "dead", paths.staging / "living"
    for staging in (dead, living):
        (staging / "tree" / "d").mkdir(parents=True)
        (staging / "tree" / "d" / "file").write_text("half")
    descriptor = os.open(living, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    trees.sweep()
    os.close(descriptor)
    assert list(paths.staging.iterdir()) == [living]
    trees.sweep()
    assert list(paths.staging.iterdir()) == []


def test_sweep_passes_over_what_vanishes_and_what_is_no_staging(
    trees: TreeStore, paths: StatePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    (paths.staging / "stray file").write_text("")
    (paths.staging / "dead").mkdir()
    vanished = paths.staging / "finished by another process meanwhile"
    monkeypatch.setattr(Path, "iterdir", lambda _: iter([vanished, *map(Path, os.scandir(paths.staging))]))
    trees.sweep()
    assert not (paths.staging / "dead").exists()


def test_sweep_does_not_touch_trees(trees: TreeStore, content: ContentStore) -> None:
    tree = trees.lay_out(plan_of(content, a=b"one"))
    trees.sweep()
    assert (tree / "a").read_bytes() == b"one"
