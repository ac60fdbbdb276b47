"""Measures of what pods write, while they write it and put things in the way."""

import os
from pathlib import Path

import pytest

from csi_oras import kernel
from csi_oras.store.measure import measure

_KIB = 1024


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    upper = tmp_path / "upper"
    (upper / "d/e").mkdir(parents=True)
    (upper / "a").write_bytes(b"1")
    (upper / "d/b").write_bytes(b"22")
    (upper / "d/e/c").write_bytes(b"333")
    return upper


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """What is not the pod's."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "large").write_bytes(bytes(_KIB))
    return elsewhere


def test_files_are_counted_and_nothing_else(upper: Path) -> None:
    (upper / "link").symlink_to("a")
    os.mkfifo(upper / "pipe")
    assert measure(upper) == (6, 3)


def test_link_out_is_not_followed(upper: Path, elsewhere: Path) -> None:
    (upper / "d/out").symlink_to(elsewhere)
    (upper / "d/large").symlink_to(elsewhere / "large")
    assert measure(upper) == (6, 3)


def test_root_that_is_a_link_is_refused(upper: Path, elsewhere: Path) -> None:
    (upper.parent / "link").symlink_to(elsewhere)
    with pytest.raises(OSError, match="link"):
        measure(upper.parent / "link")


def test_directory_that_becomes_a_link_before_it_is_opened_is_passed_over(
    upper: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opens = kernel.open_beneath

    def swapped(root: int, path: str, flags: int, resolve: int) -> int:
        if path == "./d":
            (upper / "d").rename(upper / "moved")
            (upper / "d").symlink_to(elsewhere)
        return opens(root, path, flags, resolve)

    monkeypatch.setattr(kernel, "open_beneath", swapped)
    assert measure(upper) == (1, 1)


def test_of_very_many_names_only_some_are_looked_at(upper: Path) -> None:
    for number in range(100):
        (upper / str(number)).write_bytes(b"x")
    size, files = measure(upper, 50)
    assert 40 < files <= 50
    assert size >= files


def test_directories_deeper_than_a_path_can_say_are_passed_over(upper: Path) -> None:
    here = os.open(upper, os.O_RDONLY)
    for _ in range(50):
        os.mkdir("n" * 200, dir_fd=here)
        below = os.open("n" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    assert measure(upper) == (6, 3)
