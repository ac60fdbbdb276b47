"""A short run of the soak, with a seed of its own each day; `make soak` is the long one."""

import os
import time
from pathlib import Path

import pytest

from tests.soak.rounds import Node
from tests.support.artifacts import Pusher

_ROUNDS = int(os.environ.get("SOAK_ROUNDS", "10"))


@pytest.mark.needs("root", "registry")
@pytest.mark.timeout(600)  # many starts, on a busy machine
def test_driver_that_is_killed_loses_no_lease_leaks_no_mount_and_shows_no_wrong_byte(
    short_path: Path, pusher: Pusher, repository: str
) -> None:
    seed = int(os.environ.get("SOAK_SEED", str(int(time.time()) // 86_400)))
    node = Node(short_path, pusher, repository, seed)
    try:
        for number in range(_ROUNDS):
            print(f"round {number} of seed {seed}: killed {node.play()}")  # noqa: T201 (shown when it fails)
        node.go_home()
        assert node.published > _ROUNDS  # or the rounds were none
    finally:
        node.end()
