"""Walks of what a hostile pod left in an overlay of the kernel: nothing is opened, followed or read without bounds."""

import os
import socket
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from csi_oras.errors import ContentChangedError, LimitExceededError
from csi_oras.oci.glob import Glob
from csi_oras.oci.name import DEEPEST
from csi_oras.oci.selection import Selection
from csi_oras.pack.found import Directory, File, Link, Origin, Special, Whiteout
from csi_oras.pack.layers import WholeFile
from csi_oras.pack.walk import MOST_PHANTOM_BYTES, WalkLimits, written
from tests.support.artifacts import Layer, files
from tests.support.descriptors import opened_below
from tests.support.overlays import EVERYTHING, LIMITS, SUBJECT, Base, Overlay

pytestmark = pytest.mark.needs("root")
NO_LIMIT = WalkLimits(entries=1000, size=0)


@pytest.fixture
def overlay(tmp_path: Path) -> Overlay:
    layers = [*files(file=b"file"), Layer(content=b"x", title="d/x"), Layer(content=b"y", title="d/y")]
    return Overlay(tmp_path / "volume", Base(layers=layers))


def found(overlay: Overlay, selection: Selection = EVERYTHING, limits: WalkLimits = LIMITS) -> dict[str, object]:
    """What a walk finds in the upper directory, by name."""
    root = os.open(overlay.upper, os.O_RDONLY)
    try:
        return {"/".join(path): what for path, what in written(root, selection, limits, SUBJECT)}
    finally:
        os.close(root)


def excluded(*patterns: str) -> Selection:
    return Selection(exclude=tuple(map(Glob.parse, patterns)))


def test_walk_tells_what_overlayfs_wrote(overlay: Overlay) -> None:
    with overlay.mounted() as root:
        (root / "file").unlink()
        (root / "d" / "x").unlink()
        (root / "d" / "l").symlink_to("y")
        (root / "run").write_bytes(b"run")
        (root / "run").chmod(0o4711)
        (root / "e").mkdir()
    seen = found(overlay)
    run = seen.pop("run")
    assert isinstance(run, File)
    assert (run.origin, run.size, run.is_executable) == (Origin.UPPER, 3, True)
    assert seen == {
        "file": Whiteout(),
        "d": Directory(Origin.UPPER),
        "d/x": Whiteout(),
        "d/l": Link(Origin.UPPER, "y"),
        "e": Directory(Origin.UPPER),
    }


def test_directory_made_anew_is_opaque(overlay: Overlay) -> None:
    with overlay.mounted() as root:
        subprocess.run(["rm", "-r", root / "d"], check=True)
        (root / "d").mkdir()
    assert found(overlay) == {"d": Directory(Origin.UPPER, is_opaque=True)}


def test_special_files_are_named_and_never_opened(overlay: Overlay) -> None:
    with overlay.mounted() as root:
        os.mkfifo(root / "fifo")
        os.mknod(root / "null", 0o20666, os.makedev(1, 3))
        os.mknod(root / "block", 0o60666, os.makedev(7, 200))
        directory = os.open(root, os.O_RDONLY)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(f"/proc/self/fd/{directory}/socket")  # a path may be too long for it
        os.close(directory)
    assert found(overlay) == {
        "fifo": Special(Origin.UPPER, "is a FIFO"),
        "null": Special(Origin.UPPER, "is a character device"),
        "block": Special(Origin.UPPER, "is a block device"),
        "socket": Special(Origin.UPPER, "is a socket"),
    }
    assert [f"{one.name} {one.reason}" for one in overlay.survey().uncarriable] == [
        "block is a block device", "fifo is a FIFO", "null is a character device", "socket is a socket",
    ]  # fmt: skip
    assert overlay.survey(excluded("fifo", "null", "block", "socket")).uncarriable == ()


def test_links_are_told_and_never_followed(overlay: Overlay, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "canary").write_bytes(b"canary")
    with overlay.mounted() as root:
        (root / "shadow").symlink_to(secret / "canary")
        (root / "out").symlink_to(secret)
        (root / "up").symlink_to("../../secret")
        (root / "proc").symlink_to("/proc/self/root")
    assert all(isinstance(what, Link) for what in found(overlay).values())
    survey = overlay.survey()
    assert [one.name for one in survey.uncarriable] == ["out", "proc", "shadow", "up"]
    assert not any("canary" in str(layer) for layer in survey.layers)


def test_names_that_no_volume_shows_are_uncarriable(overlay: Overlay) -> None:
    names = [b"\xff", b"a\nb", b".wh.x", b"a:b", b"back\\slash", "\u202e".encode(), b".oci"]
    with overlay.mounted() as root:
        for name in names:
            Path(os.fsdecode(os.fsencode(root) + b"/" + name)).mkdir()
            Path(os.fsdecode(os.fsencode(root) + b"/" + name + b"/below")).touch()
    uncarriable = overlay.survey().uncarriable
    assert sorted(one.name for one in uncarriable) == sorted(
        ["\\xff", "a\\nb", ".wh.x", "a:b", "back\\slash", "\\u202e", ".oci"]
    )
    assert all("has a name that" in one.reason for one in uncarriable)


def test_directories_of_any_depth_end_the_walk_at_the_deepest_name(overlay: Overlay) -> None:
    with overlay.mounted() as root:
        here = os.open(root, os.O_RDONLY)
        for _ in range(300):  # a path of more than PATH_MAX
            os.mkdir("n" * 20, dir_fd=here)
            below = os.open("n" * 20, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        os.close(here)
    (one,) = overlay.survey().uncarriable
    assert one.reason == f"has a name that is deeper than {DEEPEST} directories"
    subprocess.run(["rm", "-rf", overlay.upper / ("n" * 20)], check=True)


def test_another_file_system_below_is_not_entered(overlay: Overlay) -> None:
    (overlay.upper / "mounted").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "test", str(overlay.upper / "mounted")], check=True)
    try:
        (overlay.upper / "mounted" / "x").touch()
        assert found(overlay) == {"mounted": Special(Origin.UPPER, "is on another file system")}
    finally:
        subprocess.run(["umount", str(overlay.upper / "mounted")], check=True)


# -- limits


def test_walk_stops_at_the_limit_and_holds_no_more(overlay: Overlay) -> None:
    (overlay.upper / "many").mkdir()
    first = overlay.upper / "many" / "first"
    first.touch()
    for number in range(20_000):
        os.link(first, overlay.upper / "many" / str(number))
    tracemalloc.start()
    with pytest.raises(LimitExceededError) as caught:
        found(overlay, limits=WalkLimits(entries=100, size=0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
    assert SUBJECT in caught.value.message
    assert "100 files and directories" in caught.value.message
    assert found(overlay, excluded("many"), WalkLimits(entries=1, size=0)) == {"many": Directory(Origin.UPPER)}


def test_sparse_giant_is_beyond_a_limit_of_bytes(overlay: Overlay) -> None:
    with overlay.mounted() as root:
        (root / "giant").touch()
        os.truncate(root / "giant", 8 << 40)
    with pytest.raises(LimitExceededError, match="1,073,741,824 bytes"):
        found(overlay)
    assert set(found(overlay, excluded("giant"))) == {"giant"}


def test_sparse_giant_is_refused_where_nothing_else_limits_bytes(overlay: Overlay) -> None:
    with overlay.mounted() as root:
        (root / "giant").touch()
        os.truncate(root / "giant", MOST_PHANTOM_BYTES)
    assert found(overlay, limits=NO_LIMIT)
    with overlay.mounted() as root:
        os.truncate(root / "giant", MOST_PHANTOM_BYTES + 1)
    with pytest.raises(LimitExceededError, match="holes and hard links"):
        found(overlay, limits=NO_LIMIT)


def test_hard_links_count_as_often_as_they_would_be_read(overlay: Overlay) -> None:
    with overlay.mounted() as root:
        (root / "0").write_bytes(bytes(1 << 20))
        for number in range(1, 5):
            (root / str(number)).hardlink_to(root / "0")
    assert len(found(overlay, limits=WalkLimits(entries=5, size=5 << 20))) == 5
    with pytest.raises(LimitExceededError):
        found(overlay, limits=WalkLimits(entries=5, size=(5 << 20) - 1))


# -- reading


def whole(overlay: Overlay, title: str) -> WholeFile:
    (layer,) = (layer for layer in overlay.survey().layers if layer.title == title)
    assert isinstance(layer, WholeFile)
    return layer


@pytest.fixture
def file(overlay: Overlay) -> WholeFile:
    with overlay.mounted() as root:
        (root / "new").write_bytes(b"0123456789")
    return whole(overlay, "new")


def test_file_is_read_from_any_offset(overlay: Overlay, file: WholeFile) -> None:
    with overlay.opened() as volume, volume.open(file.name, file.file) as source:
        assert source.read() == b"0123456789"
        assert source.seek(7) == 7
        assert source.read(1) + source.read() == b"789"


def _grow(path: Path) -> None:
    os.truncate(path, 11)


def _shrink(path: Path) -> None:
    os.truncate(path, 9)


def _rewrite(path: Path) -> None:
    path.write_bytes(b"9876543210")
    os.utime(path, ns=(1, 1))


CHANGES = pytest.mark.parametrize("change", [_grow, _shrink, _rewrite])


@CHANGES
def test_file_that_changes_while_it_is_read_is_an_error(
    overlay: Overlay, file: WholeFile, change: Callable[[Path], None]
) -> None:
    with overlay.opened() as volume, volume.open(file.name, file.file) as source:
        assert source.read(5) == b"01234"
        change(overlay.upper / "new")
        with pytest.raises(ContentChangedError, match=f'{SUBJECT}, file "new": changed while'):
            source.read()


def test_last_byte_of_a_file_that_changed_is_never_handed_over(overlay: Overlay, file: WholeFile) -> None:
    with overlay.opened() as volume, volume.open(file.name, file.file) as source:
        source.read(5)
        _rewrite(overlay.upper / "new")
        with pytest.raises(ContentChangedError):
            source.readinto(bytearray(5))


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _link(path: Path) -> None:
    path.with_name("other").write_bytes(b"0123456789")
    path.symlink_to("other")


def _device(path: Path) -> None:
    os.mknod(path, 0o20666, os.makedev(5, 0))  # opening it would fail, or take the terminal


def _directory(path: Path) -> None:
    path.mkdir()


def _other(path: Path) -> None:
    path.write_bytes(b"0123456789")


@pytest.mark.parametrize("put", [Path.exists, _fifo, _link, _device, _directory, _other])
def test_what_is_no_more_the_file_that_was_found_is_not_read(
    overlay: Overlay, file: WholeFile, put: Callable[[Path], object]
) -> None:
    (overlay.upper / "new").rename(overlay.upper / "away")
    put(overlay.upper / "new")
    with overlay.opened() as volume, pytest.raises(ContentChangedError):
        volume.open(file.name, file.file)


def test_file_below_a_directory_that_became_a_link_is_not_read(overlay: Overlay, tmp_path: Path) -> None:
    with overlay.mounted() as root:
        (root / "e").mkdir()
        (root / "e" / "x").write_bytes(b"x")
    file = whole(overlay, "e/x")
    (overlay.upper / "e").rename(tmp_path / "moved")
    (overlay.upper / "e").symlink_to(tmp_path / "moved")
    with overlay.opened() as volume, pytest.raises(ContentChangedError):
        volume.open(file.name, file.file)


def test_files_of_a_survey_leave_no_descriptors(overlay: Overlay, file: WholeFile, tmp_path: Path) -> None:
    before = opened_below(tmp_path)
    with overlay.opened() as volume:
        volume.open(file.name, file.file).close()
        (overlay.upper / "new").write_bytes(b"another")
        with pytest.raises(ContentChangedError):
            volume.open(file.name, file.file)
    overlay.survey()
    with pytest.raises(LimitExceededError):
        overlay.survey(limits=WalkLimits(entries=0, size=0))
    assert opened_below(tmp_path) == before
