"""What a person sees: progress bars where there is a terminal, and nothing of them where there is none."""

import io
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from rich.console import Console

from csi_oras.cli.bars import Screen
from csi_oras.demo.distribution import Distribution
from csi_oras.telemetry.progress import Counter, Progress
from tests.support.artifacts import Layer, Pusher
from tests.support.driver import Driver
from tests.support.gate import Gate

_FEW_LINES = 9
"""Eight bars and the sum."""


class _Terminal:
    """A command whose standard error is a terminal, and what it has drawn there."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "csi_oras", *arguments, "--state-dir", str(directory / "state")]
        self._process = subprocess.Popen(
            command, cwd=directory, stdout=subprocess.DEVNULL, stderr=theirs, env={**os.environ, "TERM": "xterm"}
        )
        os.close(theirs)
        self.drawn = ""
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self._ours, 65536)
            except OSError:  # EIO: the other end is closed
                break
            with self._changed:
                self.drawn += piece.decode(errors="replace")
                self._changed.notify_all()

    def wait_for(self, pattern: str) -> None:
        """Return when something is drawn."""
        with self._changed:
            assert self._changed.wait_for(lambda: re.search(pattern, self.drawn), 60), self.drawn

    def end(self) -> int:
        """Wait for the end, and return the exit code."""
        code = self._process.wait(60)
        self._reader.join(60)
        os.close(self._ours)
        return code

    @property
    def height(self) -> int:
        """How many lines were drawn over at most."""
        runs: list[str] = re.findall(r"(?:\x1b\[1A|\x1b\[2K|\r)+", self.drawn)
        return max(run.count("\x1b[1A") for run in runs) + 1


@contextmanager
def _held_pull(upstream: str, reference: str, directory: Path, count: int) -> Iterator[_Terminal]:
    """Pull through a gate that holds after so many bytes."""
    with Gate(upstream) as gate:
        gate.hold_after(count)
        terminal = _Terminal(directory, "pull", reference.replace(upstream, gate.address))
        try:
            gate.wait_until_held()
            yield terminal
        finally:
            gate.open()
            code = terminal.end()
    assert code == 0, terminal.drawn


def test_push_and_pull_on_a_terminal_draw_bars(registry: Distribution, repository: str, tmp_path: Path) -> None:
    (tmp_path / "big.bin").write_bytes(os.urandom(1 << 20) * 100)
    reference = f"{registry.address}/{repository}:v1"
    push = _Terminal(tmp_path, "push", reference, "big.bin")
    assert push.end() == 0, push.drawn
    pull = _Terminal(tmp_path, "pull", reference)
    assert pull.end() == 0, pull.drawn
    assert "pushing" in push.drawn
    assert "pulling" in pull.drawn
    assert "of 105 MB" in push.drawn + pull.drawn


def test_pull_of_large_blobs_draws_a_bar_for_each_by_its_name(pusher: Pusher, repository: str, tmp_path: Path) -> None:
    layers = [Layer(content=os.urandom(6 << 20), title=f"model-{letter}.bin") for letter in "ab"]
    reference = pusher.artifact(repository, layers)
    with _held_pull(pusher.address, reference, tmp_path, 5 << 20) as terminal:  # none is complete
        terminal.wait_for(r"model-[ab]\.bin")  # the other may wait for its first byte
        terminal.wait_for(r"of 6\.3 MB")
        terminal.wait_for(r"0 of 2 blobs.* of 12\.6 MB")


def test_pull_of_many_blobs_draws_a_few_lines(pusher: Pusher, repository: str, tmp_path: Path) -> None:
    large = [Layer(content=os.urandom(5 << 20), title=f"large-{number:02}") for number in range(12)]
    small = [Layer(content=os.urandom(1 << 10), title=f"small-{number:03}") for number in range(300)]
    reference = pusher.artifact(repository, [*large, *small])
    with _held_pull(pusher.address, reference, tmp_path, 30 << 20) as terminal:
        terminal.wait_for(r"of 312 blobs")
        terminal.wait_for(r"large-")
    assert 1 < terminal.height <= _FEW_LINES
    assert "small-" not in terminal.drawn


def test_bars_of_more_large_blobs_than_fit_stay_with_those_that_began_first() -> None:
    progress = Progress()
    counters = [Counter(10_000_000) for _ in range(20)]
    for number, counter in enumerate(counters):
        progress.join(number, counter, f"blob {number:02}")
        counter.advance(1_000_000)
    screen, console = Screen(progress, 80), Console(width=80, file=io.StringIO())
    lines = console.render_lines(screen.draw())
    assert len(lines) == _FEW_LINES
    counters[3].finish()
    names = ["".join(segment.text for segment in line)[:7] for line in console.render_lines(screen.draw())]
    assert names == [*(f"blob {number:02}" for number in (0, 1, 2, 4, 5, 6, 7, 8)), "1 of 20"]


def test_pull_draws_hostile_names_clean(pusher: Pusher, repository: str, tmp_path: Path) -> None:
    layers = [Layer(content=os.urandom(6 << 20), title="[red]bold[/red]")]
    reference = pusher.artifact(repository, layers)
    with _held_pull(pusher.address, reference, tmp_path, 3 << 20) as terminal:
        terminal.wait_for(r"\[red\]bold\[/red\]")


@pytest.mark.needs("root")
def test_publish_that_waits_says_how_far_its_pull_is(short_path: Path, pusher: Pusher, repository: str) -> None:
    reference = pusher.artifact(repository, [Layer(content=os.urandom(20_000_000), title="model.bin")])
    with Gate(pusher.address) as gate, Driver(short_path) as driver:
        gate.hold_after(10_000_000)
        through_gate = reference.replace(pusher.address, gate.address)
        with pytest.raises(grpc.RpcError) as waiting:
            driver.publish(driver.target(), timeout=6, reference=through_gate)
        assert re.search(r"\d+ % \(\d\.\d MB of 20\.0 MB, [\d.]+ .?B/s, about \d+ s left\)", str(waiting.value))
        gate.open()
        driver.publish(driver.target(), reference=through_gate)
        driver.unpublish(driver.target())


def test_pull_without_a_terminal_draws_nothing(registry: Distribution, repository: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    reference = f"{registry.address}/{repository}:v1"
    for command in (["push", reference, "file"], ["pull", reference]):
        done = subprocess.run(
            [sys.executable, "-m", "csi_oras", *command, "--state-dir", str(tmp_path / "state")],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
