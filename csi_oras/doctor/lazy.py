"""What lazy volumes need of a node: FUSE, a kernel that repeats what a dead process was asked, and the mounter."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from csi_oras.doctor.check import Check, Examination
from csi_oras.errors import CsiOrasError
from csi_oras.mount.fuse import DEVICE, open_device
from csi_oras.mounter.client import Mounter

_SHARED, _RESENDS = (5, 16), (6, 9)
"""Linux of which several volumes may be one FUSE file system, and which repeats requests."""
_SYSCTLS = Path("/proc/sys/fs/fuse")
_TIMEOUTS = ("default_request_timeout", "max_request_timeout")
_USUAL_MOUNTER = Path("/run/csi-oras/mounter.sock")
"""As the manifests of `deploy/` have it."""


def examinations(mounter: Path | None, state_dir: Path) -> Mapping[str, Examination]:
    """Return what there is to look at; `mounter` is the one that the driver is told of, if it is."""
    return {
        "fuse": lambda: check_fuse(os.uname().release, _SYSCTLS),
        "mounter": lambda: check_mounter(mounter, state_dir),
    }


def check_fuse(release: str, sysctls: Path) -> Iterator[Check]:
    """Look for FUSE, and for what of it depends on the kernel `release` and on sysctls."""
    try:
        os.close(open_device())
    except CsiOrasError as error:
        message = f"{error.subject} {error.cause}: lazy volumes are pulled whole"
        yield Check.warning("fuse", message, "load the kernel module fuse, or mount the device into the container")
        return
    found = [*_of_kernel(release), *_of_sysctls(sysctls)]
    yield from found or [Check.ok("fuse", f"{DEVICE} can be opened, and Linux {release} repeats lost requests")]


def _of_kernel(release: str) -> Iterator[Check]:
    numbers = re.match(r"(\d+)\.(\d+)", release)
    version = (int(numbers[1]), int(numbers[2])) if numbers else _RESENDS
    if version < _SHARED:
        message = f"Linux {release} cannot show one FUSE file system twice: lazy volumes of one artifact fail"
        yield Check.warning("fuse", message, "run Linux 6.9 or later, or forbid them: lazy.enabled in the policy")
    elif version < _RESENDS:
        message = f"Linux {release} does not repeat what a FUSE process was asked before it died: such reads hang"
        yield Check.warning("fuse", message, "run Linux 6.9 or later")


def _of_sysctls(directory: Path) -> Iterator[Check]:
    for name in _TIMEOUTS:
        try:
            seconds = int((directory / name).read_text())
        except (FileNotFoundError, ValueError):
            continue
        if seconds:
            message = f"sysctl fs.fuse.{name} is {seconds}: a restart of who serves a lazy volume may end it for good"
            yield Check.warning("fuse", message, "set it to 0")


def check_mounter(named: Path | None, state_dir: Path) -> Iterator[Check]:
    """Ask the mounter what it holds: the one that is named, else that of the manifests or a driver's own."""
    path = named or next((path for path in (_USUAL_MOUNTER, state_dir / "mounter.sock") if path.exists()), None)
    if path is None:
        yield Check.ok("mounter", "none runs here: the driver starts one for the first lazy volume, unless told of one")
        return
    try:
        processes = Mounter(path).processes().values()
    except CsiOrasError as error:
        message = f"{error.subject} {error.cause}: new lazy volumes are pulled whole, and reads of others wait"
        yield Check.warning("mounter", message, "see its log, or start it (deploy/daemonset/mounter.yaml)")
    else:
        restarts = sum(process.restarts for process in processes)
        yield Check.ok("mounter", f"holds lazy trees: {len(processes)}, processes begun again: {restarts}")
