"""Rounds of publish, unpublish, pull and collect by several at once, each ended by kill -9 at a random moment.

After each kill the node is looked at from outside, and the next start has to go on from there: no lease may be lost, no
mount leaked, no byte wrong. After some rounds everybody goes home, and then nothing at all may be left.
"""

import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.soak.operator import Operator
from tests.soak.pods import Pod
from tests.soak.shelf import Shelf
from tests.support.artifacts import Pusher
from tests.support.driver import Driver
from tests.support.dying_driver import POINTS, dying
from tests.support.outside import Outside

_PODS = 6
_POLICY = "pulls: {{rangeBytes: 1Mi}}\nstore: {{minAge: 0s, {limits}}}\n"
_LIMITS = (
    "maxBytes: 10Mi, highWatermark: 50, lowWatermark: 25",  # a start collects
    "maxBytes: 7Mi, highWatermark: 95, lowWatermark: 80",  # a pull does, for its own sake
)
_EMPTY = ("volumes", "leases", "holders", "artifacts", "plans", "contents", "tags")
"""Tables that have no rows when nothing is here."""
_ENDINGS = (0.5, 0.25, 0.25)
"""How likely a round ends just some time, between any two steps, or at a point that is named."""
_MOST_STEPS = 30
_LONGEST_SECONDS = 1.5
_TIMEOUT_SECONDS = 90


class Node:
    """A driver that is killed again and again, and those who use it."""

    def __init__(self, directory: Path, pusher: Pusher, repository: str, seed: int) -> None:
        """Let chance follow from `seed`; what the processes make of it, nobody can repeat."""
        directory.mkdir(exist_ok=True)
        self._config = directory / "policy.yaml"
        self.driver = Driver(directory, "--config", str(self._config))
        self._chance = random.Random(seed)  # noqa: S311 (moments, no secrets)
        self._outside = Outside(self.driver.state)
        shelf = Shelf(pusher, repository, self._fork())
        self._operator = Operator(shelf, self.driver.state, self._config, self._fork())
        self.pods = [Pod(self.driver, shelf, f"pod-{number}", self._fork()) for number in range(_PODS)]

    def _fork(self) -> random.Random:
        return random.Random(self._chance.getrandbits(64))  # noqa: S311 (the same)

    def play(self) -> str:
        """Play one round, and return how it ended."""
        point = self._chance.choices(["", "any step", self._chance.choice(sorted(POINTS))], _ENDINGS)[0]
        count, seconds = self._chance.randint(1, _MOST_STEPS), self._chance.uniform(0.05, _LONGEST_SECONDS)
        self.driver.runner = dying(point, count) if point else ()
        self._config.write_text(_POLICY.format(limits=self._chance.choice(_LIMITS)))
        if self._is_started():
            if not point:
                self._check_statistics()
            self._live(seconds)
        self.driver.kill()
        self.check()
        return f"{point} {count}" if point else f"after {seconds:.2f} s"

    def _is_started(self) -> bool:
        """Start the driver, unless it dies of its point before it serves."""
        try:
            self.driver.start()
        except AssertionError:
            if self.driver.process and self.driver.process.poll() == -signal.SIGKILL:
                return False
            raise
        return True

    def _live(self, seconds: float) -> None:
        ended = threading.Event()
        with ThreadPoolExecutor(_PODS + 2) as pool:
            killer = pool.submit(self._kill, seconds, ended)
            running = [pool.submit(pod.live, ended) for pod in self.pods]
            for work in (killer, *running, pool.submit(self._operator.work, ended)):
                work.result(_TIMEOUT_SECONDS)

    def _kill(self, seconds: float, ended: threading.Event) -> None:
        process = self.driver.process
        assert process
        try:
            ended.wait(seconds)
            assert process.poll() in (None, -signal.SIGKILL), "the driver ended by itself"
            process.kill()
        finally:
            ended.set()

    def check(self) -> None:
        """See to it that nothing is wrong on the node as the dead driver has left it."""
        self._outside.check()
        for pod in self.pods:
            pod.check()
        known = set(self._outside.rows("volumes WHERE state = 'published'", "target, plan"))
        held = dict.fromkeys(digest for (digest,) in self._outside.rows("leases", "digest"))
        mounted = set(self.driver.mounts())
        assert mounted <= {target for target, _ in known}, "a mount has no record"
        assert all(plan in held for _, plan in known), "a volume has lost its lease"
        assert mounted <= {str(pod.target) for pod in self.pods}, "a mount is left of a pod that is gone"

    @property
    def published(self) -> int:
        """How often a volume was published so far."""
        return sum(pod.published for pod in self.pods)

    def come_back(self) -> None:
        """Start the driver as it is, and see to it that it knows what is here."""
        self.driver.runner = ()
        self.driver.start()
        self._check_statistics()

    def _check_statistics(self) -> None:
        for pod in self.pods:
            pod.check_statistics()

    def go_home(self) -> None:
        """Unpublish everything and give back the store: nothing may be left."""
        self.come_back()
        for pod in self.pods:
            pod.unpublish()
        assert self.driver.mounts() == []
        self.driver.stop()
        said = self._operator.run("store", "gc", "--all")
        assert self._outside.files() == [], said
        for table in _EMPTY:
            assert self._outside.rows(table) == [], f"{table}: {said}"

    def end(self) -> None:
        """Stop what runs, and take away what a failure has left mounted."""
        self.driver.kill()
        self.driver.unmount_all()
