"""Patience: how long a read waits for bytes that may never come."""

from collections.abc import Callable

PATIENCE_SECONDS = 60.0
"""How long bytes are waited for before whoever reads is told that they do not come now."""
_TELL_SECONDS = 5.0


class Patience:
    """The patience of one read; where only a whole blob can be shown, it begins anew while that comes."""

    def __init__(self, clock: Callable[[], float], still_coming: Callable[[], None]) -> None:
        """Call `still_coming` now and then where it has begun anew."""
        self._clock = clock
        self._still_coming = still_coming
        self._told = clock()
        self._until = self._told + PATIENCE_SECONDS
        self._furthest = 0

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be waited for."""
        return self._clock() >= self._until

    def renew(self, done: int) -> None:
        """Begin anew if more bytes are here than ever before: what breaks off and begins again is no progress."""
        if done <= self._furthest:
            return
        now = self._clock()
        self._furthest, self._until = done, now + PATIENCE_SECONDS
        if now - self._told >= _TELL_SECONDS:
            self._told = now
            self._still_coming()
