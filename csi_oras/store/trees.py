"""Trees: views laid out on disk, read-only, made of hard links to blobs and objects.

A tree is made in private staging and becomes visible by one rename. Links and renames of one file system are
journalled in order, so a tree that survives a power cut is whole; nothing in it needs a sync of its own.
"""

import errno
import os
import stat
from pathlib import Path

from csi_oras import kernel
from csi_oras.errors import StoreBrokenError
from csi_oras.oci.digest import Digest
from csi_oras.oci.view import Directory, File, Link, View
from csi_oras.store.clones import clone
from csi_oras.store.paths import StatePaths, store_errors
from csi_oras.store.staging import staging

_DIRECTORY_MODE = 0o555


class TreeStore:
    """Trees by the digest of their plan."""

    def __init__(self, paths: StatePaths) -> None:
        self._paths = paths

    def path(self, plan: Digest) -> Path:
        """Where the tree of a plan is, if it is there."""
        return self._paths.tree(plan)

    def has(self, plan: Digest) -> bool:
        """Say whether the plan is laid out."""
        return _is_there(self.path(plan))

    def lay_out(self, plan: Digest, view: View) -> Path:
        """Return the tree of `plan`, which is what `view` says, made now if it is not there.

        Raises:
            StoreBrokenError: a blob or object of it is not in the store, or the store fails.
            NoSpaceError: the disk is full.
        """
        target = self.path(plan)
        if self.has(plan):
            return target
        with store_errors(f"tree {plan.short}"), staging(self._paths) as directory:
            tree = directory / "tree"
            tree.mkdir(mode=0o755)
            root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
            try:
                self._fill(root, "", view.root)
                for components, node in view.walk():
                    if isinstance(node, Directory):
                        self._fill(root, "/".join(components), node)
            finally:
                os.close(root)
            _publish(tree, target)
        return target

    def _fill(self, root: int, path: str, directory: Directory) -> None:
        """Make what is in a directory, whose own name was made before; nothing on the way to it may be a link."""
        flags = os.O_RDONLY | os.O_DIRECTORY
        resolve = kernel.RESOLVE_BENEATH | kernel.RESOLVE_NO_SYMLINKS | kernel.RESOLVE_NO_XDEV
        here = kernel.open_beneath(root, path or ".", flags, resolve)
        try:
            for name, node in directory.children.items():
                if isinstance(node, File):
                    self._place(node, name, here)
                elif isinstance(node, Link):
                    os.symlink(node.target, name, dir_fd=here)
                else:
                    os.mkdir(name, 0o755, dir_fd=here)
            if path:  # whoever is not root cannot rename what he cannot write
                os.fchmod(here, _DIRECTORY_MODE)
        finally:
            os.close(here)

    def _place(self, file: File, name: str, directory: int) -> None:
        content = file.content
        source = str(self._paths.blob(content)) if file.is_blob else self._paths.object(content, file.mode)
        try:
            os.link(source, name, dst_dir_fd=directory)
        except FileNotFoundError:
            raise StoreBrokenError(
                f"content {content}", "is not in the store", "it is fetched with the next attempt"
            ) from None
        except OSError as error:
            if error.errno != errno.EMLINK:  # ext4 allows 65,000 links of one file
                raise
            clone(source, name, file.mode, directory=directory)


def _is_there(tree: Path) -> bool:
    """Say whether a tree is there; one whose maker was killed between rename and chmod is made read-only now."""
    try:
        mode = stat.S_IMODE(tree.stat().st_mode)
    except FileNotFoundError:
        return False
    if mode != _DIRECTORY_MODE:
        with store_errors(f"tree {tree.name}"):
            tree.chmod(_DIRECTORY_MODE)
    return True


def _publish(tree: Path, target: Path) -> None:
    try:
        tree.rename(target)  # whoever is not root cannot rename what he cannot write, so the mode comes after
        target.chmod(_DIRECTORY_MODE)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # another process was first with the same tree
            raise
