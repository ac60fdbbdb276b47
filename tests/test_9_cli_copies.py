"""`pull --to`: what stands in a person's directory afterwards, and what does not."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.artifacts import Layer, Pusher
from tests.support.kinds import tar
from tests.support.kinds_archives import oras_directory

pytestmark = pytest.mark.needs("registry")
_LONGEST = "名" * 85
"""255 bytes, in 85 characters."""


def pull(state: Path, reference: str, directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "csi_oras", "pull", reference, "--to", str(directory), "--state-dir", str(state)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_copy_has_names_as_long_as_names_can_be(pusher: Pusher, repository: str, tmp_path: Path) -> None:
    assert len(_LONGEST.encode()) == 255
    link = f"l{_LONGEST[1:]}"
    packed = tmp_path / "packed"
    (packed / _LONGEST).mkdir(parents=True)
    (packed / _LONGEST / _LONGEST).write_bytes(b"deep")
    (packed / link).symlink_to(_LONGEST)
    title = f"a{_LONGEST[1:]}"
    layers = [Layer(content=b"plain", title=title), oras_directory("d", tar(packed, "d"))]
    reference, out = pusher.artifact(repository, layers), tmp_path / "out"
    for _ in range(2):  # and again, in the place of what is there
        ended = pull(tmp_path / "state", reference, out)
        assert ended.returncode == 0, ended.stderr
        assert (out / title).read_bytes() == b"plain"
        assert (out / "d" / _LONGEST / _LONGEST).read_bytes() == b"deep"
        assert (out / "d" / link / _LONGEST).read_bytes() == b"deep"
        assert {path.name for path in out.iterdir()} == {title, "d"}


def test_copy_that_fails_leaves_nothing_half_made(pusher: Pusher, repository: str, tmp_path: Path) -> None:
    reference, out = pusher.artifact(repository, [Layer(content=b"new", title="x")]), tmp_path / "out"
    (out / "x").mkdir(parents=True)  # a file cannot take the place of a directory
    ended = pull(tmp_path / "state", reference, out)
    assert ended.returncode == 1
    assert "cannot be written (Is a directory: x)" in ended.stderr
    assert [path.name for path in out.iterdir()] == ["x"]
