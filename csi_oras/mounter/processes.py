"""The processes of lazy trees: killed if they hang, and begun again whenever they end, while their connection stands.

All of it happens in the one thread of the mounter, which is also what their life is bound to. A process is forked from
the mounter, which has loaded all that it needs: 10 ms instead of half a second, and a fifth of the memory. Whoever
waits for the end of one is called when it has ended, and not before.
"""

import os
import selectors
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from csi_oras import kernel
from csi_oras.fuse.program import Settings
from csi_oras.mounter import child, pulse
from csi_oras.mounter.pulse import Pulse
from csi_oras.telemetry.logs import logger

_GRACE_SECONDS = 5.0
"""How long a process that is to end may take over it."""
_WELL_SECONDS = 1.0
"""Who has served for so long was able to: it is begun again at once, as after the first failure."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0

Register = Callable[[int, Callable[[], None]], None]


class Listed(NamedTuple):
    """A tree that is held: its name, process (0 between two), how often that was begun again, and the connection."""

    tree: str
    pid: int
    restarts: int
    device: int


@dataclass(slots=True)
class _Held:
    settings: Settings
    pid: int = 0
    pidfd: int = -1
    pulse: Pulse | None = None
    restarts: int = 0
    failures: int = 0
    begun: float = 0.0
    due: float | None = None
    """When it is begun again, or killed."""
    gone: list[Callable[[], None]] = field(default_factory=list)
    """Who waits for its end; where somebody does, it is not begun again."""

    def forget_pulse(self) -> None:
        """Watch the process no more."""
        if self.pulse:
            self.pulse.close()
            self.pulse = None


class Processes:
    """What is held, by tree."""

    def __init__(self, selector: selectors.BaseSelector, clock: Callable[[], float] = time.monotonic) -> None:
        """Register with a selector what is to be called when a process has ended."""
        self._selector = selector
        self._clock = clock
        self._held: dict[str, _Held] = {}
        self._next_look = 0.0

    def hold(self, settings: Settings, held: Callable[[int], None]) -> None:
        """Serve a tree from now on, and call `held` with the process; what is held already, and stands, stays."""
        found = self._held.get(settings.tree)
        if found is None:
            found = self._held[settings.tree] = _Held(settings)
            self._begin(found)
        elif found.gone or kernel.is_over(found.settings.device):
            self.drop(settings.tree, partial(self.hold, settings, held))
            return
        else:
            os.close(settings.device)
        held(found.pid)

    def drop(self, tree: str, dropped: Callable[[], None]) -> None:
        """End the process of a tree, let go of its connection, and call `dropped`."""
        found = self._held.get(tree)
        if found is None:
            dropped()
            return
        found.gone.append(dropped)
        if not found.pid:
            self._forget(found)
        elif len(found.gone) == 1:
            signal.pidfd_send_signal(found.pidfd, signal.SIGTERM)
            found.due = self._clock() + _GRACE_SECONDS

    def list(self) -> list[Listed]:
        """Return what is held, by name; the connections stay here."""
        return [
            Listed(tree, held.pid, held.restarts, held.settings.device)
            for tree, held in sorted(self._held.items())
            if not held.gone
        ]

    def pause(self) -> float | None:
        """Return the seconds until something is due."""
        due = [held.due for held in self._held.values() if held.due is not None]
        due += [self._next_look] if any(held.pulse for held in self._held.values()) else []
        return max(0.0, min(due) - self._clock()) if due else None

    def tick(self) -> None:
        """Do what is due."""
        now = self._clock()
        for held in list(self._held.values()):
            if held.due is None or held.due > now:
                continue
            held.due = None
            if held.pid:
                logger.warning("kills a process that does not end", tree=held.settings.tree, pid=held.pid)
                signal.pidfd_send_signal(held.pidfd, signal.SIGKILL)
            else:
                held.restarts += 1
                self._begin(held)
        if now >= self._next_look:
            self._next_look = now + pulse.LOOK_SECONDS
            self._look()

    def _look(self) -> None:
        for held in self._held.values():
            if held.pulse and held.pulse.is_lost():
                logger.warning("kills a process that hangs", tree=held.settings.tree, pid=held.pid)
                signal.pidfd_send_signal(held.pidfd, signal.SIGKILL)

    def _begin(self, held: _Held) -> None:
        mounter = os.getpid()
        held.begun, held.due = self._clock(), None
        try:
            held.pulse = Pulse()
            pid = os.fork()
        except OSError as error:
            held.forget_pulse()
            self._schedule(held)
            logger.error("cannot begin a process", tree=held.settings.tree, cause=error.strerror)
            return
        if not pid:
            child.run(held.settings, held.pulse.theirs, mounter)
        held.pulse.give()
        held.pid, held.pidfd = pid, os.pidfd_open(pid)
        self._selector.register(held.pidfd, selectors.EVENT_READ, partial(self._ended, held))

    def _ended(self, held: _Held) -> None:
        os.waitpid(held.pid, 0)
        self._selector.unregister(held.pidfd)
        os.close(held.pidfd)
        held.forget_pulse()
        pid, held.pid, held.due = held.pid, 0, None
        if held.gone or kernel.is_over(held.settings.device):
            self._forget(held)
            logger.info("a lazy volume has ended", tree=held.settings.tree, pid=pid)
        else:
            self._schedule(held)
            logger.warning("a process has ended, and another takes its place", tree=held.settings.tree, pid=pid)

    def _schedule(self, held: _Held) -> None:
        now = self._clock()
        held.failures = 0 if now - held.begun >= _WELL_SECONDS else held.failures + 1
        pause = min(_FIRST_PAUSE * 2 ** (held.failures - 2), _LONGEST_PAUSE) if held.failures > 1 else 0.0
        held.due = now + pause

    def _forget(self, held: _Held) -> None:
        del self._held[held.settings.tree]
        os.close(held.settings.device)
        for call in held.gone:
            call()
