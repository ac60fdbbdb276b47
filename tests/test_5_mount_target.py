"""Targets: only below the kubelet directory, and only what we made ourselves."""

import os
import stat
from pathlib import Path

import pytest

from csi_oras.errors import InvalidRequestError, VolumeBusyError
from csi_oras.mount.target import Target
from tests.support.descriptors import opened_below


@pytest.fixture
def kubelet(tmp_path: Path) -> Path:
    directory = tmp_path / "kubelet"
    (directory / "pods" / "uid").mkdir(parents=True)
    return directory


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A directory outside, that nothing may touch."""
    directory = tmp_path / "canary"
    directory.mkdir()
    return directory


def opened(path: Path | str, kubelet: Path) -> Target:
    target = Target.open(str(path), kubelet)
    assert target is not None
    return target


@pytest.mark.parametrize(
    "path",
    [
        "/etc",
        "/",
        "relative/mount",
        "{kubelet}",
        "{kubelet}/",
        "{kubelet}x/pods/mount",
        "{kubelet}/../canary/mount",
        "{kubelet}/pods/../../canary/mount",
        "{kubelet}/pods/./mount",
        "{kubelet}/pods//mount",
        "{kubelet}//pods/mount",
        "{kubelet}/pods/..",
        "/./{kubelet}/pods/mount",
        "{kubelet}/pods/uid/\0mount",
        "{kubelet}/pods/" + "x" * 5000,
    ],
)
def test_target_that_is_not_plainly_below_the_kubelet_directory_is_refused(
    kubelet: Path, canary: Path, path: str
) -> None:
    with pytest.raises(InvalidRequestError, match="path"):
        Target.open(path.replace("{kubelet}", str(kubelet)), kubelet)
    assert list(canary.iterdir()) == []


def test_target_behind_a_link_that_leads_out_is_refused(kubelet: Path, canary: Path) -> None:
    (kubelet / "pods" / "escape").symlink_to(canary)
    with pytest.raises(InvalidRequestError, match="leads out"):
        Target.open(f"{kubelet}/pods/escape/mount", kubelet)
    (kubelet / "pods" / "relative").symlink_to("../../canary")
    with pytest.raises(InvalidRequestError, match="leads out"):
        Target.open(f"{kubelet}/pods/relative/mount", kubelet)


def test_target_behind_a_link_that_stays_inside_is_reached(kubelet: Path) -> None:
    (kubelet / "pods" / "alias").symlink_to("uid")
    with opened(kubelet / "pods/alias/mount", kubelet) as target:
        assert target.create(directory=True)
    assert (kubelet / "pods/uid/mount").is_dir()


def test_target_behind_a_file_is_refused(kubelet: Path) -> None:
    (kubelet / "pods" / "file").write_text("")
    with pytest.raises(InvalidRequestError, match="through a file"):
        Target.open(f"{kubelet}/pods/file/mount", kubelet)


def test_target_that_is_a_link_is_refused_and_not_followed(kubelet: Path, canary: Path) -> None:
    (kubelet / "pods/uid/mount").symlink_to(canary)
    with opened(kubelet / "pods/uid/mount", kubelet) as target:
        with pytest.raises(InvalidRequestError, match="symbolic link"):
            target.exists()
        with pytest.raises(InvalidRequestError, match="symbolic link"):
            target.create(directory=True)


def test_target_that_is_a_pipe_is_refused(kubelet: Path) -> None:
    os.mkfifo(kubelet / "pods/uid/mount")
    with opened(kubelet / "pods/uid/mount", kubelet) as target, pytest.raises(InvalidRequestError):
        target.create(directory=False)


def test_target_without_a_parent_is_none(kubelet: Path, tmp_path: Path) -> None:
    assert Target.open(f"{kubelet}/pods/other/mount", kubelet) is None
    assert Target.open(f"{tmp_path}/absent/pods/mount", tmp_path / "absent") is None


def test_target_below_a_kubelet_directory_that_is_a_link_is_reached_by_both_names(kubelet: Path) -> None:
    link = kubelet.with_name("link")
    link.symlink_to(kubelet)
    for path in (f"{link}/pods/uid/mount", f"{kubelet}/pods/uid/mount"):
        opened(path, link).__exit__(None, None, None)


def test_target_with_a_slash_at_its_end_is_the_same(kubelet: Path) -> None:
    with opened(f"{kubelet}/pods/uid/mount/", kubelet) as target:
        assert target.name == "mount"


def test_create_makes_a_directory_or_an_empty_file_once(kubelet: Path) -> None:
    with opened(kubelet / "pods/uid/directory", kubelet) as target:
        assert target.create(directory=True)
        assert not target.create(directory=True)
    with opened(kubelet / "pods/uid/file", kubelet) as target:
        assert target.create(directory=False)
        assert not target.create(directory=False)
    assert (kubelet / "pods/uid/directory").is_dir()
    assert (kubelet / "pods/uid/file").read_bytes() == b""
    assert stat.S_IMODE((kubelet / "pods/uid/directory").stat().st_mode) & 0o007 == 0


def test_create_where_the_other_kind_is_in_the_way_is_refused(kubelet: Path) -> None:
    (kubelet / "pods/uid/file").write_text("precious")
    (kubelet / "pods/uid/directory").mkdir()
    with (
        opened(kubelet / "pods/uid/file", kubelet) as target,
        pytest.raises(InvalidRequestError, match="is a file"),
    ):
        target.create(directory=True)
    with (
        opened(kubelet / "pods/uid/directory", kubelet) as target,
        pytest.raises(InvalidRequestError, match="is a directory"),
    ):
        target.create(directory=False)
    assert (kubelet / "pods/uid/file").read_text() == "precious"


def test_remove_takes_an_empty_directory_and_is_content_without(kubelet: Path) -> None:
    with opened(kubelet / "pods/uid/mount", kubelet) as target:
        target.create(directory=True)
        target.remove()
        assert not target.exists()
        target.remove()


def test_remove_never_takes_a_directory_with_something_in_it(kubelet: Path) -> None:
    (kubelet / "pods/uid/mount").mkdir()
    (kubelet / "pods/uid/mount/data").write_text("precious")
    with opened(kubelet / "pods/uid/mount", kubelet) as target, pytest.raises(VolumeBusyError, match="holds files"):
        target.remove()
    assert (kubelet / "pods/uid/mount/data").read_text() == "precious"


def test_remove_of_a_link_takes_the_link_and_not_what_it_names(kubelet: Path, canary: Path) -> None:
    (kubelet / "pods/uid/mount").symlink_to(canary)
    with opened(kubelet / "pods/uid/mount", kubelet) as target:
        target.remove()
    assert canary.is_dir()


def test_open_leaks_no_descriptor(kubelet: Path, canary: Path) -> None:
    (kubelet / "pods" / "escape").symlink_to(canary)
    before = opened_below(kubelet)
    for _ in range(20):
        opened(kubelet / "pods/uid/mount", kubelet).__exit__(None, None, None)
        assert Target.open(f"{kubelet}/pods/other/mount", kubelet) is None
        with pytest.raises(InvalidRequestError):
            Target.open(f"{kubelet}/pods/escape/mount", kubelet)
    assert opened_below(kubelet) == before
