"""The system calls that Python does not have, each as one function that raises OSError.

Numbers are the same on every architecture that Linux 5.12 and later run on, alpha apart. Calls go by file
descriptor, so that no path is walked twice.
"""

import ctypes
import fcntl
import os
import select
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_SYMLINK_NOFOLLOW = 0x100

OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 4

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
LONGEST_OPTION = 255
"""Bytes of an option of a file system, as fsconfig(2) takes it."""
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x1, 0x2, 0x4, 0x8
MS_REMOUNT, MS_BIND, MS_PRIVATE = 0x20, 0x1000, 0x40000

MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08

_OPEN_TREE, _MOVE_MOUNT, _OPENAT2, _MOUNT_SETATTR = 428, 429, 437, 442
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_FSOPEN_CLOEXEC, _FSMOUNT_CLOEXEC = 1, 1
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 0, 1, 6
_STATX_MNT_ID = 0x1000
_STATX_ATTR_MOUNT_ROOT = 0x2000
_STATX_ATTR_VERITY = 0x100000
_AT_STATX_DONT_SYNC = 0x4000

FS_IOC_ENABLE_VERITY = 0x40806685
_FS_VERITY_HASH_ALG_SHA256 = 1

_FS_IOC_FIEMAP = 0xC020660B
_FIEMAP = struct.Struct("=QQIIII")
"""struct fiemap: start, length, flags, extents that came, extents that there is room for."""
_EXTENT = struct.Struct("=QQQ16xI12x")
"""struct fiemap_extent: place in the file, place on disk, length, flags."""
_EXTENTS = 256
_EXTENT_LAST, _EXTENT_SHARED = 0x1, 0x2000
_LONGEST_FILE = 2**64 - 1

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


class _OpenHow(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("flags", "mode", "resolve")]


class _Statx(ctypes.Structure):
    """struct statx as far as we read it (linux/stat.h); 256 bytes in all."""

    _fields_ = [
        ("mask", ctypes.c_uint32),
        ("blksize", ctypes.c_uint32),
        ("attributes", ctypes.c_uint64),
        ("nlink", ctypes.c_uint32),
        ("uid", ctypes.c_uint32),
        ("gid", ctypes.c_uint32),
        ("mode", ctypes.c_uint16),
        ("_spare0", ctypes.c_uint16),
        ("ino", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("blocks", ctypes.c_uint64),
        ("attributes_mask", ctypes.c_uint64),
        ("_times", ctypes.c_uint8 * 64),
        ("devices", ctypes.c_uint32 * 4),
        ("mnt_id", ctypes.c_uint64),
        ("_rest", ctypes.c_uint8 * 104),
    ]


class VerityArguments(ctypes.Structure):
    """struct fsverity_enable_arg (linux/fsverity.h)."""

    _fields_ = [
        ("version", ctypes.c_uint32),
        ("hash_algorithm", ctypes.c_uint32),
        ("block_size", ctypes.c_uint32),
        ("salt_size", ctypes.c_uint32),
        ("salt_ptr", ctypes.c_uint64),
        ("sig_size", ctypes.c_uint32),
        ("_reserved1", ctypes.c_uint32),
        ("sig_ptr", ctypes.c_uint64),
        ("_reserved2", ctypes.c_uint64 * 11),
    ]


@dataclass(frozen=True, slots=True)
class MountPoint:
    """Whether a path is the root of a mount, the id of the mount that it is on, and the major number of its device.

    A file system that has no device of its own is on major number 0.
    """

    is_root: bool
    mount_id: int
    major: int


def _check(result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def _syscall(number: int, *arguments: object) -> int:
    return _check(_libc.syscall(ctypes.c_long(number), *arguments))


def open_beneath(directory: int, path: str, flags: int, resolve: int = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS) -> int:
    """Open `path` below a directory descriptor; nothing on the way may lead out of it (openat2, Linux 5.6)."""
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    return _syscall(
        _OPENAT2,
        ctypes.c_int(directory),
        os.fsencode(path),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )


def open_tree(directory: int, path: str, flags: int) -> int:
    """Open a path as a mount object; with OPEN_TREE_CLONE a detached bind of it."""
    return _syscall(_OPEN_TREE, ctypes.c_int(directory), os.fsencode(path), ctypes.c_uint(flags))


def mount_setattr(descriptor: int, attributes: int, propagation: int) -> None:
    """Set attributes and propagation of a mount object."""
    arguments = _MountAttributes(attributes, 0, propagation, 0)
    _syscall(
        _MOUNT_SETATTR, ctypes.c_int(descriptor), b"", ctypes.c_uint(AT_EMPTY_PATH),
        ctypes.byref(arguments), ctypes.c_size_t(ctypes.sizeof(arguments)),
    )  # fmt: skip


def move_mount(source: int, directory: int, name: str) -> None:
    """Attach a mount object at `name` in a directory; a symbolic link there is not followed."""
    _syscall(
        _MOVE_MOUNT, ctypes.c_int(source), b"", ctypes.c_int(directory), os.fsencode(name),
        ctypes.c_uint(MOVE_MOUNT_F_EMPTY_PATH),
    )  # fmt: skip


def new_mount(filesystem: str, options: Iterable[tuple[str, str]], attributes: int) -> int:
    """Make a detached mount of a file system of its own (Linux 5.2).

    An option without a value is a flag; no value may be longer than `LONGEST_OPTION`.
    """
    context = _syscall(_FSOPEN, filesystem.encode(), ctypes.c_uint(_FSOPEN_CLOEXEC))
    try:
        for key, value in options:
            _syscall(
                _FSCONFIG, ctypes.c_int(context),
                ctypes.c_uint(_FSCONFIG_SET_STRING if value else _FSCONFIG_SET_FLAG), key.encode(),
                os.fsencode(value) if value else None, ctypes.c_int(0),
            )  # fmt: skip
        _syscall(_FSCONFIG, ctypes.c_int(context), ctypes.c_uint(_FSCONFIG_CMD_CREATE), None, None, ctypes.c_int(0))
        return _syscall(_FSMOUNT, ctypes.c_int(context), ctypes.c_uint(_FSMOUNT_CLOEXEC), ctypes.c_uint(attributes))
    finally:
        os.close(context)


def syncfs(descriptor: int) -> None:
    """Write out everything that the file system of a descriptor still holds back."""
    _check(_libc.syncfs(ctypes.c_int(descriptor)))


def shared_extents(descriptor: int) -> set[tuple[int, int]]:
    """Return the places on disk, as offset and length in bytes, that an open file shares with others (FIEMAP)."""
    shared, start, is_last = set(), 0, False
    while not is_last:
        buffer = bytearray(_FIEMAP.size + _EXTENTS * _EXTENT.size)
        _FIEMAP.pack_into(buffer, 0, start, _LONGEST_FILE - start, 0, 0, _EXTENTS, 0)
        fcntl.ioctl(descriptor, _FS_IOC_FIEMAP, buffer)
        count = _FIEMAP.unpack_from(buffer)[3]
        is_last = not count
        for number in range(count):
            logical, physical, length, flags = _EXTENT.unpack_from(buffer, _FIEMAP.size + number * _EXTENT.size)
            if flags & _EXTENT_SHARED:
                shared.add((physical, length))
            start, is_last = logical + length, bool(flags & _EXTENT_LAST)
    return shared


def mount(source: str, target: str, flags: int, filesystem: str = "") -> None:
    """Bind or remount by path, or mount a file system that needs no data."""
    kind = filesystem.encode() or None
    _check(_libc.mount(os.fsencode(source), os.fsencode(target), kind, ctypes.c_ulong(flags), None))


def unmount(target: str, flags: int) -> None:
    """Take away the topmost mount at a path."""
    _check(_libc.umount2(os.fsencode(target), ctypes.c_int(flags)))


def mount_point(directory: int, name: str) -> MountPoint:
    """Ask what is mounted at `name`, in constant time and without waking a file system's daemon (statx, Linux 5.8)."""
    found = _statx(directory, name, AT_SYMLINK_NOFOLLOW | _AT_STATX_DONT_SYNC, _STATX_MNT_ID)
    is_root = bool(found.attributes & _STATX_ATTR_MOUNT_ROOT)
    return MountPoint(is_root=is_root, mount_id=int(found.mnt_id), major=int(found.devices[2]))


def device_minor(descriptor: int) -> int:
    """Return the minor number of the device that a file is on, without waking a file system's daemon."""
    return int(_statx(descriptor, "", AT_EMPTY_PATH | _AT_STATX_DONT_SYNC, 0).devices[3])


def is_over(device: int) -> bool:
    """Say whether the connection of a descriptor of `/dev/fuse` has ended, or never was."""
    poll = select.poll()
    poll.register(device, 0)
    with suppress(OSError):
        return any(events & (select.POLLERR | select.POLLNVAL) for _, events in poll.poll(0))
    return True


def is_sealed(descriptor: int) -> bool:
    """Say whether fs-verity protects an open file."""
    return bool(_statx(descriptor, "", AT_EMPTY_PATH, 0).attributes & _STATX_ATTR_VERITY)


def seal(descriptor: int, block_size: int) -> None:
    """Have fs-verity protect a file, open for reading and by nobody for writing; the kernel reads all of it once."""
    arguments = VerityArguments(version=1, hash_algorithm=_FS_VERITY_HASH_ALG_SHA256, block_size=block_size)
    _check(
        _libc.ioctl(ctypes.c_int(descriptor), ctypes.c_ulong(FS_IOC_ENABLE_VERITY), ctypes.byref(arguments))
    )  # by ctypes, for fcntl.ioctl may hold the interpreter's lock meanwhile


def _statx(directory: int, name: str, flags: int, mask: int) -> _Statx:
    found = _Statx()
    _check(
        _libc.statx(
            ctypes.c_int(directory),
            os.fsencode(name),
            ctypes.c_int(flags),
            ctypes.c_uint(mask),
            ctypes.byref(found),
        )
    )
    return found
