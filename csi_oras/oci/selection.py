"""Selection: what of an artifact a volume shows."""

from dataclasses import dataclass
from functools import cached_property

from csi_oras.oci.glob import Glob, Globs
from csi_oras.oci.name import Name


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The attributes `mediaTypes`, `include`, `exclude`, `path`, `unpack` and `metadata`; empty means everything."""

    media_types: frozenset[str] = frozenset()
    include: tuple[Glob, ...] = ()
    exclude: tuple[Glob, ...] = ()
    path: Name | None = None
    unpack: bool = True
    metadata: bool = False

    @property
    def key(self) -> str:
        """A text that is the same for equal selections, to remember their plans by."""
        include, exclude = ([glob.pattern for glob in globs] for globs in (self.include, self.exclude))
        return repr((sorted(self.media_types), include, exclude, str(self.path or ""), self.unpack, self.metadata))

    @property
    def narrows(self) -> bool:
        """Whether some names are left out."""
        return bool(self.include or self.exclude or self.path)

    @cached_property
    def _included(self) -> Globs:
        return Globs(self.include)

    @cached_property
    def _excluded(self) -> Globs:
        return Globs(self.exclude)

    def refusal(self, name: Name) -> str:
        """Return why `name` is not selected, or nothing where it is."""
        if self.include and not self._included.cover(name.components):
            return "not included"
        if self.exclude and self._excluded.cover(name.components):
            return "excluded"
        if self.path and name != self.path and name.below(self.path) is None:
            return "outside path"
        return ""

    def passes_over(self, directory: Name | None) -> bool:
        """Say whether nothing below a directory (None: the root) can be selected, whatever it is called."""
        if directory is None:
            return False
        if self.exclude and self._excluded.cover(directory.components):
            return True
        if self.include and not self._included.reach_below(directory.components):
            return True
        if self.path is None:
            return False
        related = directory.below(self.path) or self.path.below(directory)
        return directory != self.path and related is None

    def takes_all(self, directory: Name | None) -> bool:
        """Say whether everything below a directory (None: the root) is selected, whatever it is called."""
        if directory is None:
            return not self.narrows
        return not self.refusal(directory) and not (self.exclude and self._excluded.reach_below(directory.components))
