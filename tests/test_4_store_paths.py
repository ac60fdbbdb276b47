import os
import stat
from pathlib import Path

import pytest

from csi_oras.store.paths import StatePaths


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_create_in_an_empty_directory_of_the_kubelet_closes_it_to_others(tmp_path: Path) -> None:
    host_path = tmp_path / "state"
    host_path.mkdir(mode=0o755)
    (host_path / "lost+found").mkdir()
    StatePaths.create(host_path)
    assert mode(host_path) == 0o700


def test_create_in_a_directory_that_holds_something_leaves_its_mode(tmp_path: Path) -> None:
    (tmp_path / "somebody's").touch()
    tmp_path.chmod(0o755)
    StatePaths.create(tmp_path)
    assert mode(tmp_path) == 0o755


@pytest.mark.needs("root")
def test_create_in_a_directory_of_another_user_leaves_its_mode(tmp_path: Path) -> None:
    volume = tmp_path / "emptyDir"
    volume.mkdir(mode=0o777)
    volume.chmod(0o2777)
    os.chown(volume, 65532, 65532)
    StatePaths.create(volume)
    assert mode(volume) == 0o2777
