"""Links: how many bytes go with what a collection takes.

Hard links are the store's reference counts: a file's bytes go with its last link. A ledger counts links as gone
without taking any away, so that decisions can be explained before they are carried out.
"""

import os

from csi_oras.oci.digest import Digest
from csi_oras.store.candidates import Decision, Kind
from csi_oras.store.database import Database
from csi_oras.store.leases import Held
from csi_oras.store.paths import StatePaths
from csi_oras.store.space import BLOCK


class Ledger:
    """Measures decisions one after another, each as if all before it were carried out."""

    def __init__(self, paths: StatePaths, database: Database, held: Held) -> None:
        self._paths = paths
        self._query = database.query
        self._held = held
        self._objects = {entry.inode() for entry in os.scandir(paths.objects)}
        self._gone: dict[int, int] = {}
        self._artifacts: set[str] = set()

    def take(self, decision: Decision) -> int:
        """Count what is decided as gone, and return the bytes on disk that go with it."""
        if decision.kind is Kind.ARTIFACT:
            return self._take_artifact(decision.digest)
        if decision.kind is Kind.TREE:
            return self._take_tree(decision.digest)
        if decision.kind is Kind.INGEST:
            return self._take_file(str(self._paths.ingests / decision.name))
        if decision.kind is Kind.OBJECT:
            return _blocks(str(self._paths.objects / decision.name))
        return self._take_file(self._paths.blob(Digest.parse(decision.digest)))

    def _take_artifact(self, artifact: str) -> int:
        self._artifacts.add(artifact)
        plans = self._query("SELECT DISTINCT plan FROM plans WHERE artifact = ?", artifact)
        blobs = self._query("SELECT digest FROM contents WHERE artifact = ?", artifact)
        size = sum(
            self._take_tree(plan) for (plan,) in plans if self._goes(plan, "SELECT artifact FROM plans WHERE plan = ?")
        )
        return size + sum(
            self._take_file(self._paths.blob(Digest.parse(blob)))
            for (blob,) in blobs
            if self._goes(blob, "SELECT artifact FROM contents WHERE digest = ?")
        )

    def _goes(self, digest: str, owners: str) -> bool:
        """Say whether nobody but artifacts that go has a tree or blob."""
        return digest not in self._held.holders and all(
            artifact in self._artifacts for (artifact,) in self._query(owners, digest)
        )

    def _take_tree(self, plan: str) -> int:
        waiting, size = [str(self._paths.tree(Digest.parse(plan)))], 0
        while waiting:
            directory = waiting.pop()
            try:
                entries = list(os.scandir(directory))
            except (FileNotFoundError, NotADirectoryError):
                continue
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    size += self._take_file(entry.path)
        return size

    def _take_file(self, path: str) -> int:
        """Count one link as gone; an unpacked file has one more among the objects, which goes with its last tree."""
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return 0
        left = status.st_nlink - (status.st_ino in self._objects) - 1
        if left > 0:
            gone = self._gone.get(status.st_ino, 0)
            self._gone[status.st_ino] = gone + 1
            left -= gone
        return 0 if left > 0 else status.st_blocks * BLOCK


def _blocks(path: str) -> int:
    try:
        return os.lstat(path).st_blocks * BLOCK
    except FileNotFoundError:
        return 0
