"""Views: links by name to what is here, for people and programs of the node: views/REGISTRY/REPOSITORY/TAG.

They follow the catalogue: what a tag means on this node, where all of it is laid out for the node's platform. A view
keeps nothing from collection, and nothing of ours goes by it. Whatever stands in the directory is ours to replace, and
nothing in it is followed: each step is taken by descriptor, beneath the last one, over no link and onto no mount.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from csi_oras import kernel
from csi_oras.errors import CsiOrasError
from csi_oras.oci.digest import Digest
from csi_oras.oci.name import LONGEST_COMPONENT, Name, UnsafeNameError
from csi_oras.oci.platform import Platform
from csi_oras.oci.reference import Reference
from csi_oras.oci.selection import Selection
from csi_oras.store.database import Database
from csi_oras.store.paths import StatePaths, store_errors
from csi_oras.telemetry.logs import logger

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_RESOLVE = kernel.RESOLVE_BENEATH | kernel.RESOLVE_NO_SYMLINKS | kernel.RESOLVE_NO_XDEV
_NEW = ".new"
"""A link before it is renamed, which no tag and no repository can be called; a killed process may leave it."""
_WHOLE = (
    "SELECT t.repository, t.tag, p.plan, p.single FROM tags t JOIN plans p ON p.root = t.root"
    " WHERE p.platform = ? AND p.selection IN (?, ? || ' ' || t.repository || ':' || t.tag)"
)
"""What tags mean without a selection, also where files are named for the reference."""

_Links = dict[str, "str | _Links"]
"""What is in a directory by name: a link's target, or another directory."""


class Views:
    """The views of this store; whoever changes them holds their lock, and asks the database when he has it."""

    def __init__(self, paths: StatePaths, database: Database, platform: Platform) -> None:
        """Show what is laid out for `platform`."""
        self._paths = paths
        self._database = database
        self._platform = str(platform)
        self._left_out: set[Reference] = set()

    def follow(self, reference: Reference) -> None:
        """Have the view of a tag show what it means now; if that fails, the next reconciliation sees to it."""
        if reference.tag is None:
            return
        components = _components(reference)
        try:
            with self._locked() as root:
                condition = " AND t.repository = ? AND t.tag = ?"
                found = next(self._whole(condition, str(reference.repository), reference.tag), None)
                if found is None:
                    _drop(root, components)
                elif not _place(root, components, found[1]):
                    self._leave_out(reference)
        except CsiOrasError as error:
            logger.warning("a view was not changed, it is tried again", reference=str(reference), cause=error.message)

    def follow_all(self) -> None:
        """Reconcile for somebody who has more important work; what fails is told by the next reconciliation."""
        with suppress(CsiOrasError):
            self.reconcile()

    def reconcile(self) -> None:
        """Make the views what they should be; nobody may be in a transaction of his own.

        Raises:
            StoreBrokenError, NoSpaceError: the store fails.
        """
        with self._locked() as root:
            _fit(root, self._wanted())

    @contextmanager
    def _locked(self) -> Iterator[int]:
        with store_errors("views"):
            root = os.open(self._paths.views, _DIRECTORY)
            try:
                fcntl.flock(root, fcntl.LOCK_EX)
                yield root
            finally:
                os.close(root)

    def _wanted(self) -> _Links:
        """Return all views; a directory wins over a tag of the same name."""
        wanted: _Links = {}
        views = [(_components(reference), reference, target) for reference, target in self._whole()]
        for components, reference, target in sorted(views, key=lambda view: len(view[0]), reverse=True):
            directory = wanted
            for component in components[:-1]:
                below = directory.setdefault(component, {})
                assert isinstance(below, dict), "what is deeper came first"  # noqa: S101 (for the type checker)
                directory = below
            if isinstance(directory.setdefault(components[-1], target), dict):
                self._leave_out(reference)
        return wanted

    def _whole(self, condition: str = "", *values: str) -> Iterator[tuple[Reference, str]]:
        """Yield tags and where their views lead, of what is here in full."""
        whole = Selection().key
        rows = self._database.query(_WHOLE + condition, self._platform, whole, whole, *values)
        for repository, tag, plan, single in rows:
            with suppress(CsiOrasError, UnsafeNameError):  # no text becomes a path because the database has it
                reference = Reference.parse(f"{repository}:{tag}")
                if reference.digest:
                    continue
                components, tree = _components(reference), Digest.parse(plan).encoded
                only_file = f"/{Name.parse(single, portable=False)}" if single else ""
                is_path = max(map(len, components)) <= LONGEST_COMPONENT
                if is_path and os.path.isdir(f"{self._paths.trees}/{tree}"):  # noqa: PTH112 (for 10,000 of them)
                    yield reference, f"{'../' * len(components)}trees/{tree}{only_file}"

    def _leave_out(self, reference: Reference) -> None:
        if reference not in self._left_out:
            self._left_out.add(reference)
            logger.info("a tag has no view, for a repository has its name", reference=str(reference))


def _components(reference: Reference) -> tuple[str, ...]:
    return (reference.repository.registry, *reference.repository.name.split("/"), reference.tag or "")


def _fit(directory: int, wanted: _Links) -> None:
    """Make a directory what is wanted, and remove all else from it."""
    for name in os.listdir(directory):
        if name not in wanted:
            _remove(directory, name)
    for name, node in wanted.items():
        if isinstance(node, dict):
            with _entered(directory, name) as below:
                _fit(below, node)
        elif not _link(directory, name, node):
            _remove(directory, name)
            _link(directory, name, node)


def _place(directory: int, components: tuple[str, ...], target: str) -> bool:
    """Have a link below a directory, and return whether it is there: no directory gives way to it."""
    if len(components) == 1:
        return _link(directory, components[0], target)
    with _entered(directory, components[0]) as below:
        return _place(below, components[1:], target)


def _drop(directory: int, components: tuple[str, ...]) -> None:
    """Remove a link that may be there; directories that it leaves empty go with the next reconciliation."""
    *parents, name = components
    with suppress(OSError):  # what is not there, or no link, is no view
        parent = kernel.open_beneath(directory, "/".join(parents), _DIRECTORY, _RESOLVE)
        try:
            os.unlink(name, dir_fd=parent)
        finally:
            os.close(parent)


@contextmanager
def _entered(directory: int, name: str) -> Iterator[int]:
    """Open a directory in a with statement; it is made if it is not there, in the place of whatever else is."""
    try:
        below = kernel.open_beneath(directory, name, _DIRECTORY, _RESOLVE)
    except OSError:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)
        os.mkdir(name, 0o700, dir_fd=directory)
        below = kernel.open_beneath(directory, name, _DIRECTORY, _RESOLVE)
    try:
        yield below
    finally:
        os.close(below)


def _link(directory: int, name: str, target: str) -> bool:
    """Have a link that leads to `target`, at no moment none, and return whether it is there: a directory stays."""
    with suppress(OSError):  # nothing, or no link
        if os.readlink(name, dir_fd=directory) == target:
            return True
    with suppress(FileNotFoundError):
        os.unlink(_NEW, dir_fd=directory)
    os.symlink(target, _NEW, dir_fd=directory)
    try:
        os.rename(_NEW, name, src_dir_fd=directory, dst_dir_fd=directory)
    except IsADirectoryError:
        os.unlink(_NEW, dir_fd=directory)
        return False
    return True


def _remove(directory: int, name: str) -> None:
    """Remove whatever has a name, and what is in it."""
    try:
        os.unlink(name, dir_fd=directory)
    except IsADirectoryError:
        with _entered(directory, name) as below:
            for entry in os.listdir(below):  # noqa: PTH208 (a descriptor)
                _remove(below, entry)
        os.rmdir(name, dir_fd=directory)
