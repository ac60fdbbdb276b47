"""Somebody who works on the store by hand while the driver runs, dies and comes back: pulls, collections, and kills."""

import random
import subprocess
import sys
import threading
from pathlib import Path

from tests.soak.shelf import Shelf

_KILLED = 0.3
_LONGEST_SECONDS = 1.5
_TIMEOUT_SECONDS = 60


class Operator:
    """Runs one command after the other."""

    def __init__(self, shelf: Shelf, state: Path, config: Path, chance: random.Random) -> None:
        self._shelf = shelf
        self._options = ["--state-dir", str(state), "--config", str(config)]
        self._chance = chance

    def work(self, ended: threading.Event) -> None:
        """Run commands until the round has `ended`; some are killed, and a tag moves now and then."""
        while not ended.is_set():
            if self._chance.random() < _KILLED:
                self.run(*self._command(), killed_after=self._chance.uniform(0.1, _LONGEST_SECONDS))
            else:
                self.run(*self._command())
            self._shelf.move()

    def _command(self) -> tuple[str, ...]:
        reference = self._chance.choice(self._shelf.items).reference
        return self._chance.choice([("pull", reference), ("store", "gc", "--all"), ("store", "gc")])

    def run(self, *command: str, killed_after: float = 0.0) -> str:
        """Run a command to its end, or kill it; return what it said."""
        process = subprocess.Popen(
            [sys.executable, "-m", "csi_oras", *command, *self._options],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            said = process.communicate(timeout=killed_after or _TIMEOUT_SECONDS)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            said = process.communicate()[0]
            assert killed_after, f"{command} did not end: {said[-2000:]}"
            return said
        assert process.returncode == 0 or "the store has room for" in said, f"{command}: {said[-2000:]}"
        return said
