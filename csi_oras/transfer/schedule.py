"""When wishes are looked after: each every so often, sooner after a failure, and no two nodes at the same moment.

Each registry has slots of its own, so that one that is dead or slow holds up no other's wishes.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from csi_oras.errors import CsiOrasError
from csi_oras.oci.wish import Wish
from csi_oras.telemetry.logs import logger
from csi_oras.transfer.prefetch import Prefetcher
from csi_oras.transfer.turns import Turns

TICK_SECONDS = 2.0
"""How often it is looked what is due; a changed policy counts with the next time."""
_SHARE = 2
"""Wishes of one registry at a time: what is large does not hold up all that is small."""
_FIRST_PAUSE = 10.0
_START_SECONDS = 10.0
"""Over how long the wishes that a start finds in the records are spread; new ones are pulled at once."""
_EARLIEST = 0.8
"""A pause is up to this part of itself: nodes that began together soon no longer ask together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A wish, and how many seconds old it may get."""

    wish: Wish
    every: float


class _Entry:
    """What is known of one wish."""

    def __init__(self, due: float) -> None:
        self.due = due
        self.failures = 0
        self.is_running = False


class Schedule:
    """Refreshes the wishes that are in force when they are due."""

    def __init__(
        self,
        prefetcher: Prefetcher,
        wishes: Callable[[], Sequence[Due]],
        clock: Callable[[], float] = time.monotonic,
        between: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """Look after what `wishes` returns at each moment; `between` picks a number."""
        self._prefetcher = prefetcher
        self._wishes = wishes
        self._clock = clock
        self._between = between
        self._turns = Turns("prefetch", _SHARE)
        self._entries: dict[Wish, _Entry] = {}
        self._is_resumed = False

    def tick(self) -> None:
        """Begin what is due, and let go of what is wished for no more.

        Raises:
            NoSpaceError, StoreBrokenError: the store cannot be read or written.
        """
        known = set() if self._is_resumed else self._prefetcher.resume()
        self._is_resumed = True
        wishes = self._wishes()
        self._prefetcher.adopt([due.wish for due in wishes])
        now = self._clock()
        self._entries = {due.wish: self._entries.get(due.wish) or self._begin(due, known) for due in wishes}
        for due in wishes:
            entry = self._entries[due.wish]
            entry.due = min(entry.due, now + due.every)
            if entry.due <= now and not entry.is_running:
                entry.is_running = True
                self._turns.submit(due.wish.repository.registry, due.wish, partial(self._refresh, due, entry))

    def _begin(self, due: Due, known: set[str]) -> _Entry:
        """Spread what a start finds, for nodes start together; what is new is due at once."""
        return _Entry(
            self._clock() + (self._between(0, min(due.every, _START_SECONDS)) if str(due.wish) in known else 0)
        )

    def _refresh(self, due: Due, entry: _Entry) -> None:
        entry.failures += 1
        try:
            if self._prefetcher.refresh(due.wish):
                entry.failures = 0
        except CsiOrasError as error:
            logger.warning("prefetch did not finish, it is tried again", wish=str(due.wish), cause=error.message)
        except Exception:  # noqa: BLE001 (one bad round must not be the last)
            logger.exception("a bug: prefetch did not finish, it is tried again", wish=str(due.wish))
        pause = min(due.every, _FIRST_PAUSE * 2 ** min(entry.failures - 1, 20)) if entry.failures else due.every
        entry.due = self._clock() + pause * self._between(_EARLIEST, 1)
        entry.is_running = False
