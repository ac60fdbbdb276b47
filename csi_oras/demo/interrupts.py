"""Interrupts: a signal ends the tour as an exception, at most once, and never where it would lose something.

A second Ctrl-C must not cut the tidying up short, and one between the start of a process and the note of its
id must wait; so the handler raises only while it is told to and nothing is held.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_EXIT_BASE = 128


class Interrupts:
    """What signals have come; use `installed` around everything, and `raising` around what may be cut off."""

    def __init__(self) -> None:
        self.received: int = 0
        self._raising = False
        self._holds = 0

    @property
    def exit_code(self) -> int:
        """The code that a shell gives a program ended by the first signal that came."""
        return _EXIT_BASE + self.received

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Take note of signals in this block, whatever happens in it."""
        previous: dict[signal.Signals, Any] = {}
        for number in _SIGNALS:
            if number is signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # under nohup
            previous[number] = signal.signal(number, self._note)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Let a signal end this block with KeyboardInterrupt, also one that has come before."""
        self._raising = True
        try:
            self.check()
            yield
        finally:
            self._raising = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let a signal wait until the end of this block."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
        self.check()

    def check(self) -> None:
        """End the tour if a signal has come; one that was raised inside a library's callback may have got lost.

        Raises:
            KeyboardInterrupt: it has.
        """
        if self.received and self._raising and not self._holds:
            raise KeyboardInterrupt

    def _note(self, number: int, _frame: object) -> None:
        if self.received:
            return
        self.received = number
        self.check()
