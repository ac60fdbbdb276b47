"""FUSE mounts: made, greeted and attached by us, so that a process which serves one is always but the next of several.

Whoever holds the descriptor of /dev/fuse holds the mount: processes that serve it come and go. The kernel's INIT is
answered here, with what pyfuse3 cannot ask for, and every process, the first one too, takes over a connection that is
at work. A second mount by the same descriptor is the same file system (Linux 5.16), so that volumes share it without
a root mount somewhere. Nothing here asks such a file system for anything: its process may be dead.
"""

import contextlib
import errno
import os
import re
import select
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from csi_oras import kernel
from csi_oras.errors import StoreBrokenError, printable
from csi_oras.mount import mountinfo
from csi_oras.mount.target import Target

DEVICE = Path("/dev/fuse")
_NUMBER = os.makedev(10, 229)
_TYPE = "fuse.csi-oras"
_SOURCE = re.compile("csi-oras:([0-9a-f]{64})")
_CONNECTIONS = Path("/sys/fs/fuse/connections")
_READ_AHEAD_KIB = 4096
"""The kernel asks for so much at once that a request costs little beside what it brings; measured."""

_IN = struct.Struct("=IIQQIIIHH")
"""struct fuse_in_header (include/uapi/linux/fuse.h): length, opcode, unique, and what INIT does not use."""
_INIT_IN = struct.Struct("=IIIII")
"""The beginning of struct fuse_init_in: major, minor, max_readahead, flags, flags2."""
_OUT = struct.Struct("=IiQ")
_INIT_OUT = struct.Struct("=IIIIHHIIHHIIH22x")
"""struct fuse_init_out: major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, time_gran,
max_pages, map_alignment, flags2, max_stack_depth, request_timeout."""
_INIT, _MAJOR, _MINOR = 26, 7, 38
_FLAGS = sum(
    1 << bit
    for bit in (
        0,  # ASYNC_READ: several reads of a file at a time
        5,  # BIG_WRITES, without which nothing is larger than a page
        13,  # DO_READDIRPLUS: attributes come with the names
        15,  # ASYNC_DIO
        18,  # PARALLEL_DIROPS
        22,  # MAX_PAGES: reads of 1 MiB
        23,  # CACHE_SYMLINKS
        25,  # EXPLICIT_INVAL_DATA: what was read stays until it is taken back; the files never change
        30,  # INIT_EXT: there are flags2
        39,  # HAS_RESEND
        # not 21, ABORT_ERROR: libfuse knows the end of a connection by ENODEV only
    )
)
_BACKGROUND, _CONGESTION, _PAGES, _NANOSECOND = 1024, 48, 256, 1
"""Reads under way at a time: where those that wait for a dead registry are as many, all others wait for them."""
_REQUEST_BYTES = 1 << 17
_INIT_SECONDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class LazyMount:
    """A mount of a lazy tree: its id, where, of which, and the minor number of its device, the kernel's name for it."""

    mount_id: int
    target: str
    tree: str
    minor: int


def open_device() -> int:
    """Open a new connection to the kernel, of which a mount can be made.

    Raises:
        StoreBrokenError: there is none to be had.
    """
    try:
        device = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _failed(error) from error
    found = os.fstat(device)
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != _NUMBER:
        os.close(device)
        raise _failed(OSError(errno.ENODEV, "it is something else"))
    return device


def mount(device: int, tree: str, *, noexec: bool) -> int:
    """Return a detached mount of what is served by a connection, read-only and without set-id bits or devices.

    Raises:
        StoreBrokenError: the kernel refuses.
    """
    options = [
        ("source", f"csi-oras:{tree}"),
        ("subtype", "csi-oras"),
        ("fd", str(device)),
        ("rootmode", "40000"),
        ("user_id", "0"),
        ("group_id", "0"),
        ("allow_other", ""),
        ("default_permissions", ""),
        ("ro", ""),  # the file system itself, too: then the kernel believes its cache
    ]
    attributes = kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV
    try:
        return kernel.new_mount("fuse", options, attributes | (kernel.MOUNT_ATTR_NOEXEC if noexec else 0))
    except OSError as error:
        raise _failed(error) from error


def greet(device: int) -> None:
    """Answer the kernel's INIT, the first thing that it says on a new connection.

    Raises:
        StoreBrokenError: it says nothing, or something else.
    """
    try:
        request = _first_request(device)
        _, opcode, unique, *_ = _IN.unpack_from(request)
        major, minor, read_ahead, low, high = _INIT_IN.unpack_from(request, _IN.size)
        flags = _FLAGS & (low | high << 32)
        answer = _INIT_OUT.pack(
            _MAJOR, min(minor, _MINOR), read_ahead, flags & 0xFFFFFFFF, _BACKGROUND, _CONGESTION,
            os.sysconf("SC_PAGESIZE"), _NANOSECOND, _PAGES, 0, flags >> 32, 0, 0,
        )  # fmt: skip
        is_init = (opcode, major) == (_INIT, _MAJOR)
        os.write(device, _OUT.pack(_OUT.size + len(answer), 0 if is_init else -errno.EPROTO, unique) + answer)
    except (OSError, struct.error) as error:
        raise _failed(error) from error


def _first_request(device: int) -> bytes:
    poll = select.poll()
    poll.register(device, select.POLLIN)
    if not poll.poll(_INIT_SECONDS * 1000):
        raise TimeoutError("no INIT")
    return os.read(device, _REQUEST_BYTES)


def attach(detached: int, target: Target, single: str = "") -> None:
    """Show a detached mount at `target`, or only its file `single`, which has to be served by then.

    Raises:
        StoreBrokenError: the kernel refuses.
    """
    shown = detached
    try:
        if single:
            shown = kernel.open_tree(detached, single, kernel.OPEN_TREE_CLONE | kernel.OPEN_TREE_CLOEXEC)
        kernel.mount_setattr(shown, 0, propagation=kernel.MS_PRIVATE)
        kernel.move_mount(shown, target.parent, target.name)
    except OSError as error:
        raise _failed(error) from error
    finally:
        if shown != detached:
            os.close(shown)


def read_ahead(detached: int) -> None:
    """Have the kernel read ahead in large requests; where it cannot be set, reads are slower and nothing else."""
    with contextlib.suppress(OSError):
        device = f"0:{kernel.device_minor(detached)}"
        Path(f"/sys/class/bdi/{device}/read_ahead_kb").write_text(str(_READ_AHEAD_KIB))


def mounts() -> list[LazyMount]:
    """Return each mount of a lazy tree in this mount namespace, hidden by another or not."""
    return [
        LazyMount(
            mount_id=mount.mount_id, target=mount.target, tree=found[1], minor=int(mount.device.partition(":")[2])
        )
        for mount in mountinfo.read()
        if mount.filesystem == _TYPE and (found := _SOURCE.fullmatch(mount.source))
    ]


def mounted_at(target: Target) -> LazyMount | None:
    """Return the mount of a lazy tree that is at `target`, if one is; where none can be, nobody looks."""
    try:
        found = kernel.mount_point(target.parent, target.name)
    except FileNotFoundError:
        return None
    if not found.is_root or found.major:
        return None
    return next((mount for mount in mounts() if mount.mount_id == found.mount_id), None)


def shows(device: int, shown: LazyMount) -> bool:
    """Say whether a mount is one of a connection, and that stands.

    Raises:
        StoreBrokenError: the kernel does not say.
    """
    if kernel.is_over(device):
        return False
    detached = mount(device, shown.tree, noexec=False)
    try:
        return kernel.device_minor(detached) == shown.minor
    finally:
        os.close(detached)


def abort(minor: int) -> None:
    """End a connection, whoever serves it or does not: every reader gets an error, now and later.

    Unmounting would not: copies of the mount in other mount namespaces go on. Call it while a mount of it still stands,
    for the kernel gives its number to the next one at once.
    """
    with contextlib.suppress(OSError):
        if not (_CONNECTIONS / str(minor)).exists():
            kernel.mount("fusectl", str(_CONNECTIONS), 0, "fusectl")
    with contextlib.suppress(OSError):
        (_CONNECTIONS / str(minor) / "abort").write_text("1")


def _failed(error: Exception) -> StoreBrokenError:
    cause = printable(getattr(error, "strerror", None) or str(error), 100)
    return StoreBrokenError(
        str(DEVICE), f"cannot be used ({cause})", "lazy volumes need it, and Linux 5.16; all others do not"
    )
