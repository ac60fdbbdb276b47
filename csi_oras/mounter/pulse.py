"""Whether a process still does its work: it says so now and then, and whoever has taken requests and hangs does not.

Of what it has taken, the kernel waits for the answers out of reach of any signal, even SIGKILL, while it lives.
"""

import os
from contextlib import suppress

LOOK_SECONDS = 5.0
_SILENT_LOOKS = 4
"""So often in a row nothing is heard of a process that hangs. Looks count, not time: of the hour for which the mounter
or the machine was stopped itself, there is but one."""
_MOST = 65536


class Pulse:
    """What one process says, into a pipe: neither it nor another can keep the mounter waiting by that."""

    def __init__(self) -> None:
        """Make the pipe.

        Raises:
            OSError: no descriptors are left.
        """
        self._ours, self.theirs = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._has_begun = False
        self._silent = 0

    def give(self) -> None:
        """Leave its end to the process."""
        os.close(self.theirs)
        self.theirs = -1

    def is_lost(self) -> bool:
        """Look, and say, once, that it has stopped; a process that has not begun may take its time."""
        heard = b""
        with suppress(BlockingIOError):
            heard = os.read(self._ours, _MOST)
        self._has_begun = self._has_begun or bool(heard)
        self._silent = 0 if heard or not self._has_begun else self._silent + 1
        return self._silent == _SILENT_LOOKS

    def close(self) -> None:
        """Hear nothing more."""
        os.close(self._ours)
        if self.theirs >= 0:
            self.give()
