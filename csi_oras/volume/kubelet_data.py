"""What the kubelet has written down of a volume: `vol_data.json` beside its target (pkg/volume/csi/csi_mounter.go).

It is there from before the first publish until after the last unpublish, and is how the kubelet itself knows after a
restart what it has to unpublish. Who else publishes need not write it.
"""

import json
import os
import stat
from typing import Any

from csi_oras.mount.target import Target

_NAME = "vol_data.json"
_LARGEST = 64 << 10
_LONGEST_ID = 128


def volume_id(target: Target, driver_name: str) -> str | None:
    """Return the id under which the kubelet knows what it has of this driver at `target`."""
    try:
        data = json.loads(_read(target))
    except (OSError, ValueError, RecursionError):  # none, or none that anybody can use
        return None
    if not isinstance(data, dict) or data.get("driverName") != driver_name:
        return None
    return _checked(data.get("volumeHandle"))


def _read(target: Target) -> bytes:
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(_NAME, flags, dir_fd=target.parent), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(_NAME)
        return file.read(_LARGEST)


def _checked(handle: Any) -> str | None:
    """Return an id that a publish could have named."""
    is_one = isinstance(handle, str) and handle.isprintable() and 0 < len(os.fsencode(handle)) <= _LONGEST_ID
    return str(handle) if is_one else None
