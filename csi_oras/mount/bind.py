"""Binds: a tree shown at a target, read-only from its first moment, and taken away whole.

With the mount API of Linux 5.12 the attributes are set before anybody can see the mount. Older kernels bind
and remount, and what came of it is checked, since MS_BIND ignores MS_RDONLY.
"""

import errno
import os
import stat
from pathlib import Path

from csi_oras import kernel
from csi_oras.errors import CsiOrasError, StoreBrokenError, VolumeBusyError, printable
from csi_oras.mount.target import Target

_MOST_STACKED = 10_000
_OLD_KERNEL = frozenset({errno.ENOSYS, errno.EPERM, errno.EINVAL})


def bind(source: Path, target: Target, *, noexec: bool) -> None:
    """Show `source` at `target`, read-only, without set-id bits or devices, and without execution if asked.

    Raises:
        StoreBrokenError: the kernel refuses.
    """
    try:
        try:
            _attach(source, target, noexec=noexec)
        except OSError as error:
            if error.errno not in _OLD_KERNEL:
                raise
            bind_and_remount(source, target, noexec=noexec)
    except OSError as error:
        raise _failed(target, error) from error


def _attach(source: Path, target: Target, *, noexec: bool) -> None:
    detached = kernel.open_tree(kernel.AT_FDCWD, str(source), kernel.OPEN_TREE_CLONE | kernel.OPEN_TREE_CLOEXEC)
    try:
        attributes = kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV
        kernel.mount_setattr(
            detached, attributes | (kernel.MOUNT_ATTR_NOEXEC if noexec else 0), propagation=kernel.MS_PRIVATE
        )
        kernel.move_mount(detached, target.parent, target.name)
    finally:
        os.close(detached)


def bind_and_remount(source: Path, target: Target, *, noexec: bool) -> None:
    """Do the same with mount(2), and undo it unless the mount really is read-only.

    Raises:
        OSError: the kernel refuses.
    """
    _bind_unfollowed(source, target)
    try:
        flags = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
        kernel.mount("none", target.link, flags | (kernel.MS_NOEXEC if noexec else 0))
        _check_read_only(source, target)
    except OSError:
        kernel.unmount(target.link, kernel.MNT_DETACH | kernel.UMOUNT_NOFOLLOW)
        raise


def _bind_unfollowed(source: Path, target: Target) -> None:
    """Bind upon the name itself: mount(2) would follow a symbolic link that took its place."""
    place = os.open(target.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target.parent)
    try:
        if stat.S_ISLNK(os.fstat(place).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        kernel.mount(str(source), f"/proc/self/fd/{place}", kernel.MS_BIND)
    finally:
        os.close(place)


def _check_read_only(source: Path, target: Target) -> None:
    if not target.shows(source):
        raise OSError(errno.EROFS, "the mount stayed writable")


def unbind(target: Target) -> None:
    """Take away everything that is mounted at `target`, however often it was stacked.

    A mount that a process of the node still uses is detached: it is read-only, so nothing is lost.

    Raises:
        VolumeBusyError: something remains mounted.
    """
    for _ in range(_MOST_STACKED):
        if not target.is_mounted():
            return
        try:
            _unmount(target)
        except OSError as error:
            raise VolumeBusyError(
                f"target {printable(target.path, 300)}",
                f"cannot be unmounted ({error.strerror})",
                "it is tried again",
            ) from error
    raise VolumeBusyError(f"target {printable(target.path, 300)}", "is mounted again and again")


def _unmount(target: Target) -> None:
    try:
        kernel.unmount(target.link, kernel.UMOUNT_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.EINVAL:  # somebody else was faster
            return
        if error.errno != errno.EBUSY:
            raise
        kernel.unmount(target.link, kernel.MNT_DETACH | kernel.UMOUNT_NOFOLLOW)


def _failed(target: Target, error: OSError) -> CsiOrasError:
    return StoreBrokenError(
        f"target {printable(target.path, 300)}",
        f"the kernel refuses the mount ({error.strerror})",
        "the driver needs CAP_SYS_ADMIN and Linux 5.8 or later",
    )
