"""A driver that dies (-9) at one named point after the other, and is started anew each time, as its DaemonSet does."""

import signal
from collections.abc import Iterable

from tests.support.driver import Driver
from tests.support.dying_driver import dying

DEATHS = (
    ("target made", "unmounted", "entry claimed", "mounted", "entry's base held", "manifest pushed"),
    ("writable volume made", "captured", "blob uploaded", "tree renamed", "tag moved", "entry's base let go"),
    ("intent recorded", "target removed", "layers made", "blob renamed", "entry's credential gone"),
    ("volume recorded", "record dropped", "upload opened", "entry out of the outbox", "entry emptied"),
)
"""Points in an order in which each comes; a life that begins after one ends at the next, whatever step that is in."""


class Lives:
    """The lives of a driver: each but the last ends at a point."""

    def __init__(self, node: Driver, points: Iterable[str]) -> None:
        self._node = node
        self._points = list(points)
        node.stop()
        self._start()

    @property
    def left(self) -> list[str]:
        """The points at which it is still to die."""
        return [] if not self._node.runner else [self._node.runner[-2], *self._points]

    def go_on(self) -> None:
        """Start it anew if it is dead."""
        process = self._node.process
        assert process
        if process.poll() is not None:
            self._bury()
            self._start()

    def _bury(self) -> None:
        assert self._node.process
        assert self._node.process.wait() == -signal.SIGKILL, self._node.log[-3000:]
        self._node.stop()

    def _start(self) -> None:
        while True:
            self._node.runner = dying(self._points.pop(0)) if self._points else ()
            try:
                self._node.start()
            except AssertionError:  # the point was in what a start does
                self._bury()
            else:
                return
