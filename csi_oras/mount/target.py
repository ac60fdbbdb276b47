"""Targets: where a volume is shown, always below the kubelet directory and reached through a descriptor.

The descriptor of the parent is opened once, with nothing on the way leading out of the kubelet directory;
every later step works on it and on one last name that is never followed.
"""

import errno
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

from csi_oras import kernel
from csi_oras.errors import CsiOrasError, InvalidRequestError, StoreBrokenError, VolumeBusyError, printable

_LONGEST, _LONGEST_NAME = 4095, 255


class Target:
    """An open parent directory and the name of the target in it; use it in a with statement."""

    def __init__(self, path: str, parent: int, name: str) -> None:
        self.path = path
        self.parent = parent
        self.name = name

    @classmethod
    def open(cls, path: str, kubelet_dir: Path) -> Self | None:
        """Open the parent of `path`, or return None where there is no such directory.

        Raises:
            InvalidRequestError: the path is not one below the kubelet directory.
        """
        relative = _relative(path, kubelet_dir)
        directory, _, name = relative.rpartition("/")
        try:
            root = os.open(kubelet_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            return cls(path, kernel.open_beneath(root, directory or ".", os.O_PATH | os.O_DIRECTORY), name)
        except FileNotFoundError:
            return None
        except OSError as error:  # EXDEV and ELOOP: a link leads out; ENOTDIR: a file is in the way
            raise _invalid(path, f"leads out of the kubelet directory or through a file ({error.strerror})") from error
        finally:
            os.close(root)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.parent)

    @property
    def link(self) -> str:
        """A path that leads through the open descriptor, for system calls that take only paths."""
        return f"/proc/self/fd/{self.parent}/{self.name}"

    def exists(self) -> bool:
        """Say whether there is a directory or a file to mount upon.

        Raises:
            InvalidRequestError: there is something else, such as a symbolic link.
        """
        try:
            mode = os.stat(self.name, dir_fd=self.parent, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno in (errno.ENOTCONN, errno.ESTALE, errno.EIO):  # a mount whose daemon is gone
                return True
            raise
        if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            raise _invalid(self.path, "is neither a directory nor a file (a symbolic link is never followed)")
        return True

    def is_mounted(self) -> bool:
        """Say whether something is mounted here."""
        try:
            return kernel.mount_point(self.parent, self.name).is_root
        except FileNotFoundError:
            return False

    def shows(self, source: Path) -> bool:
        """Say whether what is mounted here is `source` itself, read-only."""
        try:
            here = os.stat(self.name, dir_fd=self.parent, follow_symlinks=False)
            there = source.stat()
            read_only = os.statvfs(self.link).f_flag & os.ST_RDONLY
        except OSError:
            return False
        return bool(read_only) and (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)

    def create(self, *, directory: bool) -> bool:
        """Make the directory, or the empty file, to mount upon; return whether it was not there before.

        Raises:
            InvalidRequestError: something of another kind is there.
            StoreBrokenError: the file system refuses.
        """
        if self.exists():
            is_directory = stat.S_ISDIR(os.stat(self.name, dir_fd=self.parent, follow_symlinks=False).st_mode)
            if is_directory != directory:
                raise _invalid(self.path, f"is a {'directory' if is_directory else 'file'}, the volume is not")
            return False
        try:
            if directory:
                os.mkdir(self.name, 0o750, dir_fd=self.parent)
            else:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                os.close(os.open(self.name, flags, 0o640, dir_fd=self.parent))
        except OSError as error:
            raise StoreBrokenError(
                f"target {printable(self.path, 300)}", f"cannot be made ({error.strerror})", "look at the node's disk"
            ) from error
        return True

    def remove(self) -> None:
        """Remove the empty directory, or the file, that was mounted upon; nothing that holds data.

        Raises:
            VolumeBusyError: the directory is not empty, so that something else lives in it.
        """
        try:
            mode = os.stat(self.name, dir_fd=self.parent, follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                os.rmdir(self.name, dir_fd=self.parent)
            else:
                os.unlink(self.name, dir_fd=self.parent)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _busy(self.path, error) from error


def _busy(path: str, error: OSError) -> CsiOrasError:
    if error.errno == errno.ENOTEMPTY:
        return VolumeBusyError(
            f"target {printable(path, 300)}", "holds files that are not of this driver", "move them away"
        )
    return VolumeBusyError(
        f"target {printable(path, 300)}", f"cannot be removed yet ({error.strerror})", "it is tried again"
    )


def canonical(path: str, kubelet_dir: Path) -> str:
    """Return the one spelling of a target path, by which locks and records know it.

    Raises:
        InvalidRequestError: the path is not one below the kubelet directory.
    """
    return f"{os.fspath(kubelet_dir).rstrip('/')}/{_relative(path, kubelet_dir)}"


def _relative(path: str, kubelet_dir: Path) -> str:
    if "\0" in path or len(os.fsencode(path)) > _LONGEST:
        raise _invalid(path, "is not a path")
    for base in (os.fspath, os.path.realpath):  # the second costs system calls, and is seldom needed
        prefix = base(kubelet_dir).rstrip("/") + "/"
        relative = path.removeprefix(prefix).rstrip("/")
        if path.startswith(prefix) and relative:
            if {"", ".", ".."} & set(relative.split("/")):
                raise _invalid(path, "is not a plain path")
            if max(len(os.fsencode(name)) for name in relative.split("/")) > _LONGEST_NAME:
                raise _invalid(path, f"has a name of more than {_LONGEST_NAME} bytes")
            return relative
    raise _invalid(path, f"is not below the kubelet directory {kubelet_dir}", "check --kubelet-dir")


def _invalid(path: str, cause: str, remedy: str = "") -> InvalidRequestError:
    return InvalidRequestError(f"path {printable(path, 300)}", cause, remedy)
