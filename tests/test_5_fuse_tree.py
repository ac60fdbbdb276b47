"""Trees from plan files: the numbers that a successor must give again, and what no plan may say."""

import hashlib
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from csi_oras.errors import CsiOrasError, HostileContentError, LimitExceededError, StoreBrokenError
from csi_oras.fuse import tree as trees
from csi_oras.fuse.tree import Directory, File, Tree

_BLOB = f"sha256:{hashlib.sha256(b'x').hexdigest()}"
_OTHER = f"sha256:{hashlib.sha256(b'y').hexdigest()}"


def entry(name: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, "blob": _BLOB, "size": 1, "mode": 0o444} | changes


def parse(*entries: Any, **changes: Any) -> Tree:
    return Tree.parse(json.dumps({"version": 1, "entries": entries, "single": False} | changes).encode())


def numbers(tree: Tree, inode: int = trees.ROOT, path: str = "") -> dict[str, int]:
    """Return the inode of each path, as the kernel would find it."""
    node = tree.get(inode)
    found = {path: inode}
    if isinstance(node, Directory):
        for name, child in node.children.items():
            found |= numbers(tree, child, f"{path}/{name.decode()}")
    return found


def test_tree_numbers_names_in_their_order_from_the_root_on() -> None:
    tree = parse(entry("b/c"), entry("a"), entry("b/d/é"), entry("b.c"))
    assert numbers(tree) == {"": 1, "/a": 2, "/b": 3, "/b/c": 4, "/b/d": 5, "/b/d/é": 6, "/b.c": 7}


def test_tree_of_the_same_plan_in_another_order_has_the_same_numbers() -> None:
    entries = [entry(f"d{number % 7}/e{number % 3}/f{number}") for number in range(200)]
    shuffled = random.Random(7).sample(entries, len(entries))  # noqa: S311 (any order)
    assert numbers(parse(*entries)) == numbers(parse(*shuffled))


def test_tree_tells_what_a_file_is_and_where_each_blob_is_shown() -> None:
    tree = parse(entry("a", mode=0o555), entry("b", blob=_OTHER, size=5), entry("c"))
    a, b, c = (tree.get(inode) for inode in (2, 3, 4))
    assert isinstance(a, File)
    assert isinstance(b, File)
    assert isinstance(c, File)
    assert (a.mode, a.size, str(a.blob)) == (0o555, 1, _BLOB)
    assert (b.mode, b.size, str(b.blob)) == (0o444, 5, _OTHER)
    assert {str(blob): inodes for blob, inodes in tree.blobs.items()} == {_BLOB: [2, 4], _OTHER: [3]}
    assert tree.size == 7


def test_tree_without_files_is_an_empty_root() -> None:
    tree = parse()
    assert numbers(tree) == {"": 1}
    assert tree.get(0) is tree.get(2) is tree.get(-1) is None


def test_tree_shows_the_identity_of_an_artifact() -> None:
    assert "/.oci/manifest.json" in numbers(parse(entry(".oci/manifest.json"), entry("a")))


@pytest.mark.parametrize("size", [0, 1, 3, 100])
def test_directory_lists_each_name_once_from_wherever_one_goes_on(size: int) -> None:
    root = parse(*(entry(f"f{number:03}") for number in range(size))).get(trees.ROOT)
    assert isinstance(root, Directory)
    whole = list(root.list_from(0))
    assert [name for _, name, _ in whole] == [b".", b"..", *(f"f{number:03}".encode() for number in range(size))]
    for place, _, _ in whole:
        assert list(root.list_from(place)) == whole[place:]


@pytest.mark.parametrize(
    "name",
    ["", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\x00b", "a\nb", ".oci", ".oci/../a", ".oci/.oci/a",
     ".csi-oras", "x" * 256, "/".join("d" * 65), "\ud800", ".wh.a", "a\u202eb"],
)  # fmt: skip
def test_tree_with_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(HostileContentError):
        parse(entry(name))


@pytest.mark.parametrize(
    "entries",
    [
        [entry("a"), entry("a")],
        [entry("a"), entry("a/b")],
        [entry("a/b/c/d"), entry("a/b")],
        [entry("a"), entry("b", size=2)],
        [entry("a", mode=0o4555)],
        [entry("a", mode=0o644)],
        [entry("a", mode=-1)],
        [entry("a", mode="444")],
        [entry("a", size=-1)],
        [entry("a", size=2**60)],
        [entry("a", size=True)],
        [entry("a", size=1.0)],
        [entry("a", size=None)],
        [entry("a", blob="sha256:../../etc/passwd")],
        [entry("a", blob=None)],
        [entry("a", blob=["x"])],
        [entry("a") | {"name": 1}],
        [{}],
        ["a"],
        "a",
        None,
    ],
)
def test_tree_with_an_entry_that_makes_no_sense_is_refused(entries: Any) -> None:
    with pytest.raises(HostileContentError):
        Tree.parse(json.dumps({"version": 1, "entries": entries}).encode())


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"version": 2, "entries": []}', b'{"version": 1, "version": 1}',
     b'{"version": NaN, "entries": []}', b'{"version": 1}'],
)  # fmt: skip
def test_plan_that_is_none_is_refused(content: bytes) -> None:
    with pytest.raises(CsiOrasError):
        Tree.parse(content)


def test_plan_with_too_many_files_is_refused() -> None:
    with pytest.raises(LimitExceededError):
        parse(*(entry(str(number)) for number in range(trees.MOST_FILES + 1)))


def test_plan_file_that_is_too_large_is_not_read_to_its_end(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    with plan.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(LimitExceededError):
        Tree.load(plan)


def test_plan_file_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text('{"version": 1, "entries": []}')
    (tmp_path / "plan.json").symlink_to("target")
    with pytest.raises(StoreBrokenError):
        Tree.load(tmp_path / "plan.json")


def test_files_are_of_the_time_when_the_plan_was_written(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text('{"version": 1, "entries": []}')
    os.utime(plan, ns=(1, 1_700_000_000_123_456_789))
    assert Tree.load(plan).nanoseconds == 1_700_000_000_123_456_789
