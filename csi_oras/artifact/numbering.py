"""Numbers for the files of layers that have nothing but their type to be called after."""

from collections import Counter
from collections.abc import Iterable

from csi_oras.oci.name import Name


class Numbering:
    """Counts the layers of each type, in their order, from one."""

    def __init__(self, media_types: Iterable[str]) -> None:
        self._totals = Counter(media_types)
        self._seen: Counter[str] = Counter()

    def name(self, media_type: str, stem: str, suffix: str = "", *, always: bool = False) -> Name:
        """Return the name of the next layer of a type, numbered where there are several or `always`."""
        self._seen[media_type] += 1
        is_numbered = always or self._totals[media_type] > 1
        return Name((f"{stem}-{self._seen[media_type]}{suffix}" if is_numbered else f"{stem}{suffix}",))

    def shard(self, media_type: str, stem: str, suffix: str) -> Name:
        """Return the name of the next layer of a type whose layers are parts of one file, as llama.cpp looks for it."""
        self._seen[media_type] += 1
        total = self._totals[media_type]
        numbers = f"-{self._seen[media_type]:05d}-of-{total:05d}" if total > 1 else ""
        return Name((f"{stem}{numbers}{suffix}",))
