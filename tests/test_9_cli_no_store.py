"""Commands on a state directory that is none, or that is not for everybody: one sentence, and never `no artifacts`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_WITHOUT = "-dac_override,-dac_read_search"
_NOBODY = ("setpriv", "--bounding-set", _WITHOUT, "--inh-caps", _WITHOUT)
"""Runs a command as somebody to whom permissions apply."""
_COMMANDS = [("store", name) for name in ("ls", "du", "gc", "verify", "prefetch")] + [("outbox", "ls")]


def _said(state: Path, *arguments: str, runner: tuple[str, ...] = ()) -> str:
    """Run a command that fails, and return its one line."""
    command = [*runner, sys.executable, "-m", "csi_oras", *arguments, "--state-dir", str(state)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1), ended
    return ended.stderr


@pytest.mark.parametrize("arguments", [*_COMMANDS, ("pull", "127.0.0.1:1/a:v1")])
def test_command_on_a_file_in_place_of_the_state_directory_fails(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    state = tmp_path / "state"
    state.touch()
    said = _said(state, *arguments)
    assert said.startswith(f"csi-oras: state directory {state}: the store fails (")
    assert said.endswith("; have a directory there\n")


@pytest.mark.needs("root")
@pytest.mark.parametrize("arguments", [*_COMMANDS, ("pull", "127.0.0.1:1/a:v1")])
def test_command_of_somebody_who_may_not_look_says_who_may(short_path: Path, arguments: tuple[str, ...]) -> None:
    state = short_path / "state"
    (state / "blobs").mkdir(parents=True)
    for closed in (state, short_path):  # the directory itself, or the way to it
        os.chown(closed, 1, 1)
        closed.chmod(0o700)
        said = _said(state, *arguments, runner=_NOBODY)
        assert said == (
            f"csi-oras: state directory {state}: the store fails (Permission denied); be root, as the driver is\n"
        )
        os.chown(closed, 0, 0)
    assert [path.name for path in state.iterdir()] == ["blobs"]
