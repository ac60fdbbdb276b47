"""Binds of a real kernel: read-only from the first moment, also for root."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from csi_oras import kernel
from csi_oras.errors import StoreBrokenError
from csi_oras.mount import bind as binding
from csi_oras.mount import mountinfo
from csi_oras.mount.bind import bind, bind_and_remount, unbind
from csi_oras.mount.target import Target

pytestmark = pytest.mark.needs("root")
Bind = Callable[..., None]


def mounts_at(path: Path) -> list[mountinfo.Mount]:
    return [mount for mount in mountinfo.read() if mount.target == str(path)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "d").mkdir(parents=True)
    (tree / "d" / "file").write_text("content")
    script = tree / "script"
    script.write_text("#!/bin/sh\necho ran\n")
    script.chmod(0o755)
    return tree


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "kubelet" / "pods" / "mount"
    place.parent.mkdir(parents=True)
    yield place
    while mounts_at(place):
        subprocess.run(["umount", "-l", place], check=True)


@pytest.fixture
def target(place: Path, tmp_path: Path) -> Iterator[Target]:
    found = Target.open(str(place), tmp_path / "kubelet")
    assert found is not None
    with found:
        yield found


@pytest.fixture(params=[bind, bind_and_remount], ids=["mount API", "bind and remount"])
def attach(request: pytest.FixtureRequest) -> Bind:
    chosen: Bind = request.param
    return chosen


def test_bind_shows_the_source(attach: Bind, source: Path, place: Path, target: Target) -> None:
    target.create(directory=True)
    attach(source, target, noexec=False)
    assert (place / "d/file").read_text() == "content"
    assert target.is_mounted()
    assert target.shows(source)


def test_bind_refuses_every_write_of_root(attach: Bind, source: Path, place: Path, target: Target) -> None:
    target.create(directory=True)
    attach(source, target, noexec=False)
    attempts: dict[str, Callable[[], object]] = {
        "write": lambda: (place / "d/file").write_text("x"),
        "create": lambda: (place / "new").write_text("x"),
        "remove": (place / "d/file").unlink,
        "chmod": lambda: (place / "d/file").chmod(0o777),
        "rename": lambda: (place / "d/file").rename(place / "moved"),
        "times": lambda: os.utime(place / "d/file"),
        "link": lambda: (place / "linked").hardlink_to(place / "d/file"),
    }
    for name, attempt in attempts.items():
        with pytest.raises(OSError, match="Read-only file system"):
            attempt()
        assert (source / "d/file").read_text() == "content", name


@pytest.mark.parametrize("noexec", [False, True])
def test_bind_has_the_flags_that_mountinfo_shows(
    attach: Bind, source: Path, place: Path, target: Target, *, noexec: bool
) -> None:
    target.create(directory=True)
    attach(source, target, noexec=noexec)
    (mount,) = mounts_at(place)
    assert {"ro", "nosuid", "nodev"} <= mount.options
    assert ("noexec" in mount.options) == noexec
    assert mount.read_only


def test_bind_with_noexec_refuses_to_run(attach: Bind, source: Path, place: Path, target: Target) -> None:
    target.create(directory=True)
    attach(source, target, noexec=True)
    with pytest.raises(PermissionError):
        subprocess.run([place / "script"], check=True)


def test_bind_without_noexec_runs(attach: Bind, source: Path, place: Path, target: Target) -> None:
    target.create(directory=True)
    attach(source, target, noexec=False)
    assert subprocess.run([place / "script"], check=True, capture_output=True).stdout == b"ran\n"


def test_bind_of_a_file_shows_one_file(attach: Bind, source: Path, place: Path, target: Target) -> None:
    target.create(directory=False)
    attach(source / "d/file", target, noexec=False)
    assert place.read_text() == "content"
    with pytest.raises(OSError, match="Read-only file system"):
        place.write_text("x")
    unbind(target)
    target.remove()
    assert not place.exists()


def test_bind_takes_nothing_that_is_mounted_below_its_source(
    attach: Bind, source: Path, place: Path, target: Target
) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", source / "d"], check=True)
    try:
        target.create(directory=True)
        attach(source, target, noexec=False)
        assert (place / "d/file").read_text() == "content"
    finally:
        subprocess.run(["umount", source / "d"], check=True)


def test_bind_was_read_only_before_it_was_visible(
    source: Path, place: Path, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attributes are on the detached mount already when it is moved to its place."""
    seen: list[int] = []
    move = kernel.move_mount

    def watch(descriptor: int, directory: int, name: str) -> None:
        seen.append(os.fstatvfs(descriptor).f_flag & os.ST_RDONLY)
        assert not mounts_at(place)
        move(descriptor, directory, name)

    monkeypatch.setattr(kernel, "move_mount", watch)
    target.create(directory=True)
    bind(source, target, noexec=False)
    assert seen == [os.ST_RDONLY]


def test_old_kernel_is_served_by_bind_and_remount(
    source: Path, place: Path, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "_OPEN_TREE", 9999)  # ENOSYS, as an old kernel says
    target.create(directory=True)
    bind(source, target, noexec=True)
    (mount,) = mounts_at(place)
    assert {"ro", "nosuid", "nodev", "noexec"} <= mount.options


def test_remount_that_has_no_effect_leaves_no_mount(
    source: Path, place: Path, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "_OPEN_TREE", 9999)
    monkeypatch.setattr(kernel, "MS_REMOUNT", kernel.MS_BIND)  # binds again, writable
    target.create(directory=True)
    with pytest.raises(StoreBrokenError, match="refuses the mount"):
        bind(source, target, noexec=False)
    for mount in mounts_at(place):
        assert mount.read_only


def test_bind_of_an_absent_source_is_refused(source: Path, place: Path, target: Target) -> None:
    target.create(directory=True)
    with pytest.raises(StoreBrokenError, match="the kernel refuses the mount"):
        bind(source / "absent", target, noexec=False)
    assert not mounts_at(place)


def test_bind_is_private(attach: Bind, source: Path, place: Path, target: Target) -> None:
    """A mount that somebody makes in the shown tree does not come back to the store's."""
    (source / "d" / "inner").mkdir()
    target.create(directory=True)
    attach(source, target, noexec=False)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place / "d" / "inner"], check=True)
    try:
        assert not mounts_at(source / "d" / "inner")
    finally:
        subprocess.run(["umount", place / "d" / "inner"], check=True)


@pytest.mark.parametrize("times", [1, 2, 7])
def test_unbind_takes_away_whatever_is_stacked(source: Path, place: Path, target: Target, times: int) -> None:
    target.create(directory=True)
    for _ in range(times):
        bind(source, target, noexec=False)
    assert len(mounts_at(place)) == times
    unbind(target)
    assert not mounts_at(place)
    target.remove()
    assert not place.exists()


def test_unbind_of_what_is_not_mounted_is_nothing(target: Target) -> None:
    unbind(target)
    target.create(directory=True)
    unbind(target)


def test_unbind_of_a_busy_mount_takes_it_out_of_sight(source: Path, place: Path, target: Target) -> None:
    target.create(directory=True)
    bind(source, target, noexec=False)
    program = "import sys; f = open('d/file'); print('open', flush=True); sys.stdin.readline(); print(f.read())"
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=place, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == "open\n"
        unbind(target)
        target.remove()
        assert not place.exists()
        said, _ = user.communicate("\n", timeout=30)  # its own view goes on
    assert said == "content\n"


def test_bind_never_follows_a_link_at_the_target(source: Path, place: Path, target: Target, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    place.symlink_to(canary)
    with pytest.raises(StoreBrokenError):
        binding.bind(source, target, noexec=False)
    assert not mounts_at(canary)
    assert list(canary.iterdir()) == []
