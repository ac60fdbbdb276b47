import subprocess
from pathlib import Path

import pytest

from csi_oras.mount import mountinfo
from csi_oras.mount.target import Target
from csi_oras.volume.adopt import find_our_mount

_TEXT = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
31 22 254:0 /state/trees/ab /kubelet/with\040space/mount ro,nosuid,nodev,relatime - ext4 /dev/vda rw
32 22 0:30 / /tab\011newline\012backslash\134end rw shared:3 master:4 - tmpfs tmp\040fs rw,size=4k
33 22 0:31 / /hash\043and-ümläut rw - fuse.sshfs user@host:/dir rw
34 31 0:32 / /kubelet/with\040space/mount rw - tmpfs tmpfs rw
"""


def test_parse_takes_escapes_options_and_types() -> None:
    root, tree, odd, foreign, stacked = mountinfo.parse(_TEXT)
    assert (root.mount_id, root.target, root.read_only) == (22, "/", False)
    assert (tree.target, tree.root, tree.read_only) == ("/kubelet/with space/mount", "/state/trees/ab", True)
    assert tree.options == {"ro", "nosuid", "nodev", "relatime"}
    assert odd.target == "/tab\tnewline\nbackslash\\end"
    assert (foreign.target, foreign.filesystem) == ("/hash#and-ümläut", "fuse.sshfs")
    assert (stacked.target, stacked.filesystem, stacked.read_only) == (tree.target, "tmpfs", False)


def test_parse_takes_any_number_of_optional_fields() -> None:
    (mount,) = mountinfo.parse("1 2 0:3 / /x rw shared:1 master:2 propagate_from:3 unbindable - xfs dev rw")
    assert (mount.target, mount.filesystem) == ("/x", "xfs")


@pytest.mark.needs("root")
@pytest.mark.parametrize("name", ["plain", "with space", "tab\there", "back\\slash", "new\nline", "ümläut", "h#sh"])
def test_mount_with_an_odd_name_is_found(tmp_path: Path, name: str) -> None:
    tree, place = tmp_path / "trees" / "ab", tmp_path / name
    tree.mkdir(parents=True)
    place.mkdir()
    subprocess.run(["mount", "--bind", tree, place], check=True)
    try:
        assert str(place) in [mount.target for mount in mountinfo.read()]
        target = Target.open(str(place), tmp_path)
        assert target is not None
        with target:
            assert target.is_mounted()
        ours = find_our_mount(str(place), tmp_path / "trees")
        assert ours is not None
        assert ours.plan == "sha256:ab"
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.needs("root")
def test_mount_of_somebody_else_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "trees" / "ab").mkdir(parents=True)
    foreign, place = tmp_path / "elsewhere" / "trees" / "ab", tmp_path / "place"
    foreign.mkdir(parents=True)
    place.mkdir()
    subprocess.run(["mount", "--bind", foreign, place], check=True)  # the same last names, another directory
    try:
        assert find_our_mount(str(place), tmp_path / "trees") is None
    finally:
        subprocess.run(["umount", place], check=True)
    assert find_our_mount(str(place), tmp_path / "trees") is None
