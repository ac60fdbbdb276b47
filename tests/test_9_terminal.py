"""What a person sees: a progress bar where there is a terminal, and nothing of it where there is none."""

import os
import pty
import subprocess
import sys
from pathlib import Path

from csi_oras.demo.distribution import Distribution


def _run_on_terminal(directory: Path, *arguments: str) -> tuple[int, str]:
    """Run a command whose standard error is a terminal, and return its exit code and what it drew there."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "csi_oras", *arguments, "--state-dir", str(directory / "state")]
    with subprocess.Popen(
        command, cwd=directory, stdout=subprocess.DEVNULL, stderr=theirs, env={**os.environ, "TERM": "xterm"}
    ) as process:
        os.close(theirs)
        drawn = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # EIO: the other end is closed
                break
            drawn += piece
        os.close(ours)
    return process.returncode, drawn.decode(errors="replace")


def test_push_and_pull_on_a_terminal_draw_a_bar(registry: Distribution, repository: str, tmp_path: Path) -> None:
    (tmp_path / "big.bin").write_bytes(os.urandom(1 << 20) * 100)
    reference = f"{registry.address}/{repository}:v1"
    pushed, push_bar = _run_on_terminal(tmp_path, "push", reference, "big.bin")
    pulled, pull_bar = _run_on_terminal(tmp_path, "pull", reference)
    assert (pushed, pulled) == (0, 0), push_bar + pull_bar
    assert "pushing" in push_bar
    assert "pulling" in pull_bar
    assert "/104.9 MB" in push_bar + pull_bar


def test_pull_without_a_terminal_draws_nothing(registry: Distribution, repository: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    reference = f"{registry.address}/{repository}:v1"
    for command in (["push", reference, "file"], ["pull", reference]):
        done = subprocess.run(
            [sys.executable, "-m", "csi_oras", *command, "--state-dir", str(tmp_path / "state")],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
