import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from csi_oras.mount import mountinfo
from csi_oras.mount.target import Target
from csi_oras.volume.adopt import OurMount, mounts_at

_PLAN = "0123456789abcdef" * 4
_OURS = OurMount(plan=f"sha256:{_PLAN}", is_deleted=False)
_TEXT = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
31 22 254:0 /state/trees/ab /kubelet/with\040space/mount ro,nosuid,nodev,relatime - ext4 /dev/vda rw
32 22 0:30 / /tab\011newline\012backslash\134end rw shared:3 master:4 - tmpfs tmp\040fs rw,size=4k
33 22 0:31 / /hash\043and-ümläut rw - fuse.sshfs user@host:/dir rw
34 31 0:32 / /kubelet/with\040space/mount rw - tmpfs tmpfs rw
"""


def test_parse_takes_escapes_options_and_types() -> None:
    root, tree, odd, foreign, stacked = mountinfo.parse(_TEXT)
    assert (root.mount_id, root.device, root.target, root.read_only) == (22, "254:0", "/", False)
    assert (tree.target, tree.root, tree.read_only) == ("/kubelet/with space/mount", "/state/trees/ab", True)
    assert tree.options == {"ro", "nosuid", "nodev", "relatime"}
    assert odd.target == "/tab\tnewline\nbackslash\\end"
    assert (foreign.target, foreign.filesystem) == ("/hash#and-ümläut", "fuse.sshfs")
    assert (stacked.target, stacked.filesystem, stacked.read_only) == (tree.target, "tmpfs", False)


def test_parse_takes_any_number_of_optional_fields() -> None:
    (mount,) = mountinfo.parse("1 2 0:3 / /x rw shared:1 master:2 propagate_from:3 unbindable - xfs dev rw")
    assert (mount.target, mount.filesystem, mount.shared) == ("/x", "xfs", True)


def test_parse_says_whether_mounts_are_seen_elsewhere() -> None:
    assert [mount.shared for mount in mountinfo.parse(_TEXT)] == [True, False, True, False, False]


@pytest.fixture
def trees(tmp_path: Path) -> Path:
    (tmp_path / "state/trees" / _PLAN / "sub").mkdir(parents=True)
    (tmp_path / "state/trees" / _PLAN / "file").write_text("x")
    return tmp_path / "state/trees"


@contextmanager
def bound(source: Path, place: Path) -> Iterator[None]:
    subprocess.run(["mount", "--bind", source, place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.needs("root")
@pytest.mark.parametrize("name", ["plain", "with space", "tab\there", "back\\slash", "new\nline", "ümläut", "h#sh"])
def test_mount_with_an_odd_name_is_found(tmp_path: Path, trees: Path, name: str) -> None:
    place = tmp_path / name
    place.mkdir()
    with bound(trees / _PLAN, place):
        assert str(place) in [mount.target for mount in mountinfo.read()]
        target = Target.open(str(place), tmp_path)
        assert target is not None
        with target:
            assert target.is_mounted()
        assert mounts_at(str(place), trees) == [_OURS]


@pytest.mark.needs("root")
@pytest.mark.parametrize("name", ["file", "sub"])
def test_mount_of_a_part_of_a_tree_is_ours(tmp_path: Path, trees: Path, name: str) -> None:
    place = tmp_path / "place"
    place.mkdir() if name == "sub" else place.touch()
    with bound(trees / _PLAN / name, place):
        assert mounts_at(str(place), trees) == [_OURS]


@pytest.mark.needs("root")
@pytest.mark.parametrize("wiped", ["trees/" + _PLAN, "trees", ""])
def test_mount_of_a_tree_that_was_wiped_is_ours_and_deleted(tmp_path: Path, trees: Path, wiped: str) -> None:
    place, single = tmp_path / "place", tmp_path / "single"
    place.mkdir()
    single.touch()
    with bound(trees / _PLAN, place), bound(trees / _PLAN / "file", single):
        shutil.rmtree(tmp_path / "state" / wiped)
        for _ in range(2):
            for target in (place, single):
                assert mounts_at(str(target), trees) == [OurMount(plan=f"sha256:{_PLAN}", is_deleted=True)]
            (trees / _PLAN).mkdir(parents=True, exist_ok=True)  # the same tree again is not the one that is mounted


@pytest.mark.needs("root")
def test_mounts_on_one_target_are_told_apart(tmp_path: Path, trees: Path) -> None:
    foreign, place = tmp_path / "foreign", tmp_path / "place"
    foreign.mkdir()
    place.mkdir()
    with bound(trees / _PLAN, place), bound(foreign, place):
        assert mounts_at(str(place), trees) == [_OURS, None]


@pytest.mark.needs("root")
def test_store_on_a_mount_of_its_own_knows_its_trees(tmp_path: Path, trees: Path) -> None:
    """As in a container, where the state directory is a bind of the node's."""
    state, place = tmp_path / "elsewhere", tmp_path / "place"
    state.mkdir()
    place.mkdir()
    with bound(trees / _PLAN, place):
        with bound(trees.parent, state):
            assert mounts_at(str(place), state / "trees") == [_OURS]
        assert mounts_at(str(place), state / "trees") == [None]


@pytest.mark.needs("root")
@pytest.mark.parametrize(
    "foreign",
    [
        pytest.param(f"elsewhere/trees/{_PLAN}", id="another directory with the same last names"),
        pytest.param(f"state/trees-evil/{_PLAN}", id="a directory beside ours"),
        pytest.param("state/trees/not-a-plan", id="no plan"),
        pytest.param(f"state/trees/{_PLAN}0", id="a longer name than a plan"),
        pytest.param("state/trees", id="all trees"),
        pytest.param("state", id="the state directory"),
    ],
)
def test_mount_of_somebody_else_is_not_ours(tmp_path: Path, trees: Path, foreign: str) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (tmp_path / foreign).mkdir(parents=True, exist_ok=True)
    with bound(tmp_path / foreign, place):
        assert mounts_at(str(place), trees) == [None]
    assert mounts_at(str(place), trees) == []
