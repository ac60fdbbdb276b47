"""Pulls of this process into a store of their own, by a clock that a test turns, and registries that count."""

import threading
from collections.abc import Callable, Hashable
from pathlib import Path

from csi_oras import config
from csi_oras.app import Application
from csi_oras.store.leases import Held
from csi_oras.transfer.jobs import GRACE_SECONDS, Job, Jobs
from csi_oras.transfer.request import PulledArtifact, PullRequest
from csi_oras.transfer.turns import Turns
from csi_oras.volume import attributes
from tests.support.fake_server import Answer, Request
from tests.support.gate import Gate
from tests.support.pods import wait_for

_NAMES = ("pull", "blob", "range", "small-blob")
_DRIP_BYTES = 6 << 10
"""So few that 512 KiB take longer than a job waits until it looks whether it is wanted."""


class Clock:
    """Seconds that pass when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Pulling:
    """An application that pulls; ends with `close`."""

    def __init__(self, directory: Path, pulls: str = "") -> None:
        policy = directory / "policy.yaml"
        policy.write_text(f"pulls: {{{pulls}}}\n")
        self._before = set(threading.enumerate())
        self._turns = Turns("pull", 8)
        self.app = Application(directory / "state", config.load(policy))
        self.clock = Clock()
        self.jobs: Jobs[PulledArtifact] = Jobs(self._turns, self.clock)
        self.app.puller.jobs = self.jobs

    def start(self, reference: str, holder: Hashable = None, *, background: bool = False) -> Job[PulledArtifact]:
        """Pull for `holder`, or for a command."""
        wanted = attributes.parse({"reference": reference}, {})
        request = PullRequest(
            reference=wanted.reference,
            platform=self.app.platform,
            selection=wanted.selection,
            policy=wanted.pull_policy,
            credential=None,
            background=background,
        )
        return self.app.puller.start(request, holder)

    def leave(self, holder: Hashable) -> None:
        """Let a pod go, and nobody come for as long as a pull waits for one."""
        self.jobs.leave(holder)
        self.clock.now += GRACE_SECONDS + 1

    @property
    def unfinished(self) -> list[str]:
        """What is in ingest/."""
        return sorted(path.name for path in (self.app.paths.root / "ingest").iterdir())

    @property
    def has_ended(self) -> bool:
        """Whether no thread works on a pull any more."""
        return not [thread for thread in threading.enumerate() if thread.name in _NAMES and thread not in self._before]

    def assert_nothing_left(self) -> None:
        """See to it that no work goes on, and that no byte and no lease of it is left."""
        wait_for(lambda: self.has_ended)
        assert self.unfinished == []
        assert self.app.leases.held() == Held()
        assert self.jobs.running == 0

    def close(self) -> None:
        """Begin nothing more."""
        self._turns.close()
        self.app.close()


def drip(gate: Gate, until: Callable[[], bool]) -> None:
    """Let a few bytes at a time through a gate until it is enough."""

    def is_enough() -> bool:
        gate.hold_after(_DRIP_BYTES)
        return until()

    wait_for(is_enough)


class Counted:
    """Answers that wait until they are released, and how many did so at once."""

    def __init__(self) -> None:
        self.waiting = self.most = 0
        self._changed = threading.Condition()
        self._let_through = 0

    def __call__(self, _request: Request, answer: Answer) -> Answer:
        with self._changed:
            self.waiting += 1
            self.most = max(self.most, self.waiting)
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._let_through > 0, 60)
            self._let_through -= 1
            self.waiting -= 1
        return answer

    def wait_for(self, count: int) -> None:
        """Return when so many wait."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.waiting >= count, 60)

    def release(self, count: int = 1 << 30) -> None:
        """Let some go, or all."""
        with self._changed:
            self._let_through += count
            self._changed.notify_all()
