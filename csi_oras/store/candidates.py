"""Candidates: what a collection may take, in which order, and what stays and why. It looks, and changes nothing.

What belongs to no artifact goes first: unfinished blobs that nobody works on, blobs of pulls that failed, trees and
unpacked files that nothing names any more. Then artifacts, the one used longest ago first. At last, under need, blobs
of artifacts that stay which no tree shows, archives above all: volumes do not need them, only the next version does.
"""

import fcntl
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from csi_oras.oci.digest import Digest
from csi_oras.store.database import Database
from csi_oras.store.leases import Held
from csi_oras.store.paths import StatePaths

_PACKED_BYTES = 64 << 10
"""Manifests and configs are smaller, and worth less than a request."""
_HEX = re.compile("[0-9a-f]{64}([0-9a-f]{64})?")
_ALGORITHMS = {64: "sha256", 128: "sha512"}
"""By the length of a digest's encoded part."""


class Kind(StrEnum):
    """What a decision is about."""

    OBJECT = "unpacked file"
    INGEST = "unfinished blob"
    TREE = "tree"
    BLOB = "blob"
    ARTIFACT = "artifact"
    PACKED = "packed blob"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What goes or stays and why: its digest, the bytes on disk that go with it, and when it was used last (epoch)."""

    kind: Kind
    digest: str
    reason: str
    size: int = 0
    last_used: float = 0.0
    name: str = ""
    """What the file is called, where the digest does not say it."""


class Survey:
    """Looks over the store, as it was when it was made."""

    def __init__(
        self, paths: StatePaths, database: Database, *, held: Held, mounted: Iterable[str], used_before: float
    ) -> None:
        """Spare what is `held`, plans that are `mounted`, and what was used since `used_before` (epoch)."""
        self._paths = paths
        self._query = database.query
        self._held = held
        self._mounted = frozenset(mounted)
        self._used_before = used_before
        self.kept: list[Decision] = []
        """What stays; complete when all candidates were asked for."""

    def candidates(self, *, packed: bool) -> Iterator[Decision]:
        """Yield what may go, the best first; `packed`: also blobs of artifacts that stay."""
        yield from self._objects()
        for loose in (self._ingests(), self._trees(), self._blobs()):
            yield from self._spared(sorted(loose, key=lambda decision: decision.last_used))
        yield from self._spared(self._artifacts())
        if packed:
            staying = [decision.digest for decision in self.kept if decision.kind is Kind.ARTIFACT]
            for artifact in staying:
                yield from self._spared(self._packed(artifact))

    def unfinished(self) -> Iterator[Decision]:
        """Yield the unfinished blobs among the candidates."""
        yield from self._spared(self._ingests())

    def _spared(self, decisions: Iterable[Decision]) -> Iterator[Decision]:
        """Yield what nothing speaks for."""
        for decision in decisions:
            if reason := self._reason_to_stay(decision):
                self.kept.append(Decision(kind=decision.kind, digest=decision.digest, reason=reason))
            else:
                yield decision

    def _reason_to_stay(self, decision: Decision) -> str:
        digests = [decision.digest]
        if decision.kind is Kind.ARTIFACT:
            digests += self._plans(decision.digest)
        if reason := self._held.reason(*digests):
            return reason
        if not self._mounted.isdisjoint(digests):
            return "shown by a mount"
        if decision.kind in (Kind.BLOB, Kind.PACKED) and decision.last_used >= self._held.oldest_pull:
            return "a pull is under way"
        return "used within minAge" if decision.last_used > self._used_before else ""

    def _plans(self, artifact: str) -> list[str]:
        return [plan for (plan,) in self._query("SELECT DISTINCT plan FROM plans WHERE artifact = ?", artifact)]

    def _objects(self) -> Iterator[Decision]:
        for entry, status in _entries(self._paths.objects):
            if status.st_nlink == 1 and is_of_the_store(entry.name, status):
                yield Decision(kind=Kind.OBJECT, digest=_digest(entry.name), name=entry.name, reason="no tree shows it")

    def _ingests(self) -> Iterator[Decision]:
        for entry, status in _entries(self._paths.ingests):
            name = entry.name.removesuffix(".extents")
            has_its_own = name != entry.name and (self._paths.ingests / name).exists()  # extents go with their ingest
            if has_its_own or not is_of_the_store(name, status):
                continue
            if _is_locked(entry.path):
                self.kept.append(Decision(kind=Kind.INGEST, digest=_digest(name), reason="a pull is under way"))
                continue
            reason = "unfinished, and nobody works on it"
            yield Decision(
                kind=Kind.INGEST, digest=_digest(name), name=entry.name, reason=reason, last_used=status.st_mtime
            )

    def _trees(self) -> Iterator[Decision]:
        for entry, status in _entries(self._paths.trees):
            digest = f"sha256:{entry.name}"
            if not _HEX.fullmatch(entry.name) or not stat.S_ISDIR(status.st_mode):
                continue
            if not self._query("SELECT 1 FROM plans WHERE plan = ? LIMIT 1", digest):
                yield Decision(
                    kind=Kind.TREE, digest=digest, reason="belongs to no artifact", last_used=status.st_mtime
                )

    def _blobs(self) -> Iterator[Decision]:
        for directory in self._paths.blobs_by_algorithm:
            for entry, status in _entries(directory):
                digest = f"{directory.name}:{entry.name}"
                if is_of_the_store(entry.name, status) and not self._query(
                    "SELECT 1 FROM contents WHERE digest = ? LIMIT 1", digest
                ):
                    yield Decision(
                        kind=Kind.BLOB, digest=digest, reason="belongs to no artifact", last_used=_touched(status)
                    )

    def _artifacts(self) -> Iterator[Decision]:
        for digest, last_used in self._query("SELECT digest, last_used FROM artifacts ORDER BY last_used"):
            yield Decision(kind=Kind.ARTIFACT, digest=digest, reason="least recently used", last_used=last_used)

    def _packed(self, artifact: str) -> Iterator[Decision]:
        for (digest,) in self._query("SELECT digest FROM contents WHERE artifact = ?", artifact):
            try:
                status = os.lstat(self._paths.blob(Digest.parse(digest)))
            except FileNotFoundError:
                continue
            if status.st_nlink == 1 and status.st_size > _PACKED_BYTES:
                reason = "no tree shows it; fetched again if the next version has it"
                yield Decision(kind=Kind.PACKED, digest=digest, reason=reason, last_used=_touched(status))


def _touched(status: os.stat_result) -> float:
    """Return when a blob was written, or put once more, which shows in its access time only."""
    return max(status.st_atime, status.st_mtime)


def _entries(directory: "os.PathLike[str]") -> Iterator[tuple["os.DirEntry[str]", os.stat_result]]:
    """Yield what is in a directory with its status; what goes meanwhile is not there."""
    for entry in os.scandir(directory):
        try:
            yield entry, entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue


def is_of_the_store(name: str, status: os.stat_result) -> bool:
    """Say whether something is a file that is named for a digest; what else people leave in the store stays."""
    return stat.S_ISREG(status.st_mode) and bool(_HEX.fullmatch(name.partition("-")[0]))


def _digest(name: str) -> str:
    """Return the digest that a file is named for; what is named otherwise goes by its name."""
    encoded = name.partition("-")[0]
    algorithm = _ALGORITHMS.get(len(encoded))
    return f"{algorithm}:{encoded}" if algorithm else name


def _is_locked(path: str) -> bool:
    """Say whether somebody works on an unfinished blob, or has just finished it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
