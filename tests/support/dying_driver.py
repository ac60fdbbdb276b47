"""A runner for a driver that kills itself (-9) right after its calls have changed so much on the node.

`dying_driver.py COUNT python -m csi_oras serve …`: a mount, a target and a record are changed in the steps that are
counted, so that each moment between two of them is as likely as any other, however short it is.
"""

import itertools
import os
import runpy
import signal
import sys
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

from csi_oras import kernel
from csi_oras.mount.target import Target
from csi_oras.store.volumes import VolumeRecords

_STEPS = [
    (kernel, "move_mount"), (kernel, "unmount"), (Target, "create"), (Target, "remove"),
    (VolumeRecords, "put"), (VolumeRecords, "drop"),
]  # fmt: skip


def _deadly(step: Callable[..., Any], is_last: Callable[[], bool]) -> Callable[..., Any]:
    @wraps(step)
    def taken(*arguments: Any, **options: Any) -> Any:
        result = step(*arguments, **options)
        if threading.current_thread().name.startswith("call") and is_last():
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return taken


def main() -> None:
    """Become the driver that the arguments name."""
    most, numbers = int(sys.argv[1]), itertools.count(1)
    for owner, name in _STEPS:
        setattr(owner, name, _deadly(getattr(owner, name), lambda: next(numbers) == most))
    sys.argv = sys.argv[sys.argv.index("csi_oras") :]
    runpy.run_module("csi_oras", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
