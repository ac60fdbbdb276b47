"""One driver for a state directory: another would drop the records of mounts that it does not see.

The kernel gives the lock back when the process ends, however it does. Commands need none of it.
"""

import fcntl
import os
import time

from csi_oras.errors import StoreBrokenError
from csi_oras.store.paths import StatePaths, store_errors
from csi_oras.telemetry.logs import logger

_PATIENCE_SECONDS = 5.0
"""How long a driver waits for the one before it to end."""
_LOOK_SECONDS = 0.1


def acquire(paths: StatePaths) -> None:
    """Have the state directory for this driver alone, until the process ends.

    Raises:
        StoreBrokenError: another driver lives on, or the store fails.
    """
    subject, until = f"state directory {paths.root}", time.monotonic() + _PATIENCE_SECONDS
    with store_errors(subject):
        descriptor = os.open(paths.driver_lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        if _is_locked(descriptor):
            return
        logger.info("waits for another driver to end", state_dir=str(paths.root))
        while not _is_locked(descriptor):
            if time.monotonic() >= until:
                cause = "is in use by another driver, and neither knows of the other's mounts"
                raise StoreBrokenError(subject, cause, "stop that one, or give this one a --state-dir of its own")
            time.sleep(_LOOK_SECONDS)


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
