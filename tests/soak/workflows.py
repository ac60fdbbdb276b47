"""The long run of pods that write: `python -m tests.soak.workflows`, for SOAK_ROUNDS (500) rounds, from SOAK_SEED.

In each round some pods write at once, above what others have left, into tags of their own or one that all want, while
the registry dies, hangs and comes back and the driver is killed, both at moments of chance. After some rounds all is
well again, and an accountant accounts for every byte. The first that is missing ends the run.
"""

import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.soak.__main__ import say
from tests.support.accountant import Accountant, outbox
from tests.support.driver import Driver
from tests.support.faulty_registry import FaultyRegistry
from tests.support.mortal_driver import DEATHS, Lives
from tests.support.pods import wait_for
from tests.support.trouble import OCCASIONS
from tests.support.writers import POLICY, STEPS, Writer

_POINTS = [point for points in DEATHS for point in points]
_PODS = 6
_EPOCH = 5
"""Rounds until all is accounted for."""
_MOST_DEATHS = 3
_SHARED, _EMPTY = 0.5, 0.4
"""How likely a pod wants the tag that others want, and begins with nothing."""
_LONGEST_SECONDS = 0.7
_KUBELET_SECONDS = 5.0


class Workshop:
    """A node whose pods write, and a registry; both die again and again."""

    def __init__(self, directory: Path, seed: int) -> None:
        """Let chance follow from `seed`; what the processes make of it, nobody can repeat."""
        directory.mkdir(exist_ok=True)
        policy = directory / "policy.yaml"
        policy.write_text(POLICY)
        self._chance = random.Random(seed)  # noqa: S311 (moments, no secrets)
        self.registry = FaultyRegistry(directory / "registry")
        self.node = Driver(directory, "--config", str(policy))
        self._accountant = Accountant()
        self._bases = [""]
        self._rounds = 0

    def play(self) -> str:
        """Play one round, and return how often the driver was to die in it."""
        self._rounds += 1
        points = self._chance.choices(_POINTS, k=self._chance.randint(0, _MOST_DEATHS))
        lives, ended = Lives(self.node, points), threading.Event()
        with ThreadPoolExecutor(_PODS + 1) as pool:
            trouble = pool.submit(self._trouble, lives, ended, self._fork())
            try:
                for work in [pool.submit(self._write, number, self._fork()) for number in range(_PODS)]:
                    work.result()
            finally:
                ended.set()
            trouble.result()
        return f"driver to die at {points or 'no point'}"

    def _fork(self) -> random.Random:
        return random.Random(self._chance.getrandbits(64))  # noqa: S311 (the same)

    def _write(self, number: int, chance: random.Random) -> None:
        """Be a pod that writes."""
        name = f"round-{self._rounds}-pod-{number}"
        tag = "shared" if chance.random() < _SHARED else f"own-{number}"
        base = "" if chance.random() < _EMPTY else chance.choice(self._bases)
        out = f"{self.registry.address}/round-{self._rounds}-{tag}:run"
        writer = Writer(self.node, self._accountant, name, out)
        writer.begin(base, seconds=_KUBELET_SECONDS)
        write = STEPS[1] if (writer.target / "gone").exists() else STEPS[0]
        if not base or write is STEPS[1]:
            write(writer.target, name.encode())
        (writer.target / name).write_bytes(chance.randbytes(chance.choice([0, 100, 100_000])))
        writer.note()
        writer.end(seconds=_KUBELET_SECONDS)

    def _trouble(self, lives: Lives, ended: threading.Event, chance: random.Random) -> None:
        """Make trouble until the round has `ended`, and none after it."""
        while not ended.wait(chance.uniform(0, _LONGEST_SECONDS)):
            occasion = chance.choice(list(OCCASIONS.values()))
            chance.choice(
                [
                    lambda: None,
                    self.registry.kill,
                    self.registry.revive,
                    self.registry.release,
                    lambda: self.registry.dies_at(occasion.point, comes_back=True),  # noqa: B023 (called at once)
                    lambda: self.registry.hangs_at(occasion.point),  # noqa: B023 (the same)
                    self.node.process.kill if self.node.process else self.registry.revive,
                ]
            )()
            lives.go_on()
        self.registry.release()
        self.registry.revive()
        lives.go_on()

    def account(self) -> int:
        """Have everything pushed, and say of how many pods; the next rounds begin with what the last have left."""
        Lives(self.node, [])
        while rows := outbox(self.node, "ls"):  # pauses grow; a person does not wait for them
            assert all(row["state"] != "failed" for row in rows), rows
            self._retry()
            threading.Event().wait(1)
        wait_for(lambda: not list((self.node.state / "outbox").iterdir()))
        account = self._accountant.account(self.node)
        assert not account.waiting
        self._bases = self._accountant.references
        self._accountant = Accountant()
        return len(account.pushed)

    def _retry(self) -> None:
        """Have all be tried again at once; what is being pushed needs it not."""
        command = [sys.executable, "-m", "csi_oras", "outbox", "retry", "--state-dir", str(self.node.state)]
        subprocess.run(command, capture_output=True, timeout=60, check=False)


def main() -> int:
    """Play all rounds."""
    rounds = int(os.environ.get("SOAK_ROUNDS", "500"))
    seed = int(os.environ.get("SOAK_SEED", str(time.time_ns() % 1_000_000_007)))
    directory = Path(tempfile.mkdtemp(prefix="co-"))
    say(f"{rounds} rounds of workflows, SOAK_SEED={seed}, in {directory}")
    workshop = Workshop(directory, seed)
    with workshop.registry, workshop.node:
        for number in range(1, rounds + 1):
            say(f"{number}/{rounds}: {workshop.play()}")
            if number % _EPOCH == 0 or number == rounds:
                say(f"{number}/{rounds}: every byte of {workshop.account()} pods is accounted for")
    return 0


if __name__ == "__main__":
    sys.exit(main())
