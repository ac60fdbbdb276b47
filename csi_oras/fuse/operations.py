"""What the kernel asks: names from the tree, bytes from blobs.

No open file has a state of its own: its handle is its inode, so that a successor knows it. Whatever goes wrong in an
answer is an error for whoever asked, and never the end of the mount.
"""

import errno
import functools
import os
import stat
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar, cast

import pyfuse3
import trio

from csi_oras.errors import CsiOrasError, NoSpaceError
from csi_oras.fuse.blobs import Blobs
from csi_oras.fuse.readahead import ReadAhead
from csi_oras.fuse.statistics import Statistics
from csi_oras.fuse.tree import Directory, File, Tree
from csi_oras.telemetry.logs import logger

_FOREVER_SECONDS = 86_400
"""How long the kernel keeps names and attributes: they never change."""
_BLOCK_BYTES, _READ_BYTES, _STATFS_BYTES = 512, 1 << 20, 4096
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_APPEND

_Handler = TypeVar("_Handler", bound=Callable[..., Awaitable[Any]])


def _answers(handler: _Handler) -> _Handler:
    """Make an error of whatever a handler raises: pyfuse3 would end the mount."""

    @functools.wraps(handler)
    async def guarded(operations: "Operations", *arguments: Any) -> Any:
        try:
            with trio.CancelScope(shield=operations.must_answer):
                return await handler(operations, *arguments)
        except pyfuse3.FUSEError:
            raise
        except NoSpaceError:
            raise pyfuse3.FUSEError(errno.ENOSPC) from None
        except CsiOrasError:  # told where it came from
            raise pyfuse3.FUSEError(errno.EIO) from None
        except Exception:  # noqa: BLE001 (said above)
            logger.exception("a bug: a request cannot be answered", request=handler.__name__)
            raise pyfuse3.FUSEError(errno.EIO) from None

    return cast("_Handler", guarded)


async def _refuse_write(*_: Any) -> NoReturn:
    raise pyfuse3.FUSEError(errno.EROFS)


async def _refuse_for_good(*_: Any) -> NoReturn:
    """Answer what the kernel takes for an answer to all such questions."""
    raise pyfuse3.FUSEError(errno.ENOSYS)


_write: Any = _refuse_write
_unknown: Any = _refuse_for_good
"""Handlers of any arguments."""


class Operations(pyfuse3.Operations):
    """The answers of one tree."""

    enable_writeback_cache = False
    supports_dot_lookup = False

    def __init__(self, tree: Tree, blobs: Blobs, statistics: Statistics, taken_over: Callable[[], None]) -> None:
        """Serve a tree; `taken_over` is called in the midst of the first request, the synthetic one."""
        super().__init__()
        self._tree = tree
        self._blobs = blobs
        self._statistics = statistics
        self._taken_over = taken_over
        self.must_answer = False
        """Whether what is given up would be lost: an answer that has begun is finished then."""
        self._ahead = ReadAhead()

    def init(self) -> None:
        """Hear that libfuse has read the synthetic INIT."""
        self._taken_over()

    @_answers
    async def lookup(
        self, parent_inode: pyfuse3.InodeT, name: pyfuse3.FileNameT, _ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """Find a name; that there is none is remembered, too."""
        inode = self._directory(parent_inode).children.get(name)
        if inode is not None:
            return self._attributes(inode)
        nothing = pyfuse3.EntryAttributes()
        nothing.st_ino, nothing.entry_timeout = pyfuse3.InodeT(0), _FOREVER_SECONDS
        return nothing

    @_answers
    async def getattr(self, inode: pyfuse3.InodeT, _ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """Say what an inode is."""
        return self._attributes(inode)

    @_answers
    async def open(self, inode: pyfuse3.InodeT, flags: pyfuse3.FlagT, _ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        """Open a file for reading; its pages in the kernel's cache stay valid."""
        if flags & _WRITES:
            raise pyfuse3.FUSEError(errno.EROFS)
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(self._file(inode).inode), keep_cache=True)

    @_answers
    async def read(self, fh: pyfuse3.FileHandleT, off: int, size: int) -> bytes:
        """Return as many bytes as are asked for, or up to the end of the file."""
        file = self._file(fh)
        end = min(off + size, file.size)
        if not 0 <= off < end:
            return b""
        seen = self._ahead.observe(file.inode, off, end, file.size)
        if seen.start < seen.end:
            self._blobs.expect(file.blob, seen.start, seen.end)
        content = await self._blobs.read(file.blob, off, end)
        self._statistics.reads += 1
        self._statistics.bytes += len(content)
        self._statistics.ahead_hits += seen.was_expected
        return cast("bytes", content)  # pyfuse3 takes any buffer, and is done with it before it awaits anything

    @_answers
    async def opendir(self, inode: pyfuse3.InodeT, _ctx: pyfuse3.RequestContext) -> pyfuse3.FileHandleT:
        """Open a directory."""
        return pyfuse3.FileHandleT(self._directory(inode).inode)

    @_answers
    async def readdir(self, fh: pyfuse3.FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """List a directory from a place on, as far as there is room for it."""
        for place, name, inode in self._directory(fh).list_from(start_id):
            if not pyfuse3.readdir_reply(token, pyfuse3.FileNameT(name), self._attributes(inode), place):
                break

    @_answers
    async def statfs(self, _ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        """Say how large it all is; nothing is free."""
        found = pyfuse3.StatvfsData()
        found.f_bsize = found.f_frsize = _STATFS_BYTES
        found.f_blocks = -(-self._tree.size // _STATFS_BYTES)
        found.f_files, found.f_namemax = len(self._tree), 255
        return found

    async def forget(self, inode_list: Any) -> None:
        """Forget nothing: what an inode is follows from the plan."""

    async def release(self, fh: pyfuse3.FileHandleT) -> None:
        """Close a file, of which nothing is kept."""

    async def releasedir(self, fh: pyfuse3.FileHandleT) -> None:
        """Close a directory, of which nothing is kept."""

    flush = fsync = fsyncdir = getxattr = listxattr = _unknown
    setattr = mknod = mkdir = create = symlink = link = rename = unlink = rmdir = write = _write
    setxattr = removexattr = _write

    def _attributes(self, inode: int) -> pyfuse3.EntryAttributes:
        node = self._tree.get(inode)
        if node is None:
            raise pyfuse3.FUSEError(errno.ESTALE)
        found = pyfuse3.EntryAttributes()
        found.st_ino = pyfuse3.InodeT(inode)
        found.st_mode = pyfuse3.ModeT(stat.S_IFREG | node.mode if isinstance(node, File) else stat.S_IFDIR | 0o555)
        found.st_size = node.size if isinstance(node, File) else 0
        found.st_blocks = -(-found.st_size // _BLOCK_BYTES)
        found.st_blksize = _READ_BYTES
        found.st_atime_ns = found.st_mtime_ns = found.st_ctime_ns = self._tree.nanoseconds
        found.entry_timeout = found.attr_timeout = _FOREVER_SECONDS
        return found

    def _file(self, inode: int) -> File:
        node = self._tree.get(inode)
        if not isinstance(node, File):
            raise pyfuse3.FUSEError(errno.ESTALE)
        return node

    def _directory(self, inode: int) -> Directory:
        node = self._tree.get(inode)
        if not isinstance(node, Directory):
            raise pyfuse3.FUSEError(errno.ESTALE)
        return node
