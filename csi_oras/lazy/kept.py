"""What is kept of a lazy tree on disk, so that it is served on after a restart of the driver.

A directory of its own says by itself what the tree is: its plan, as the FUSE process reads it, the artifact, what
proves its chunks, and the credential of the publish. It goes with the last volume of the tree.
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csi_oras.errors import CsiOrasError, StoreBrokenError
from csi_oras.oci.chunk_index import ChunkIndex
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.name import Name
from csi_oras.oci.plan import Plan, PlanEntry
from csi_oras.oci.reference import Reference
from csi_oras.registry import credentials
from csi_oras.registry.credentials import Credential
from csi_oras.store.erase import erase
from csi_oras.store.paths import store_errors
from csi_oras.telemetry.logs import logger
from csi_oras.telemetry.secrets import Secret
from csi_oras.transfer.request import LazyArtifact

_PLAN, _TREE, _INDEX, _CREDENTIAL = "plan.json", "tree.json", "index.json", "credential.json"
_POISONED, _UNPROVEN = "poisoned", "unproven"
_VERSION = 1
_NAME = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class KeptTree:
    """A tree as it was kept: its artifact, what the volume brought to read it by, and what turned out to be wrong."""

    artifact: LazyArtifact
    credential: Credential | None
    poisoned: frozenset[Digest] = frozenset()
    unproven: tuple[tuple[Digest, str], ...] = ()
    """The ingests, by their paths, that it has shown bytes of which nothing had proven."""


class KeptTrees:
    """The directories of lazy trees."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        with store_errors("lazy volumes"):
            directory.mkdir(mode=0o700, exist_ok=True)

    @property
    def socket(self) -> Path:
        """Where FUSE processes ask."""
        return self._directory / "driver.sock"

    def plan(self, name: str) -> Path:
        """Where the plan of a tree is."""
        return self._directory / name / _PLAN

    def save(self, kept: KeptTree) -> None:
        """Keep a tree that is new.

        Raises:
            NoSpaceError, StoreBrokenError: the store fails; nothing is left of it.
        """
        artifact = kept.artifact
        directory = self._directory / artifact.tree
        with store_errors("lazy volume"):
            directory.mkdir(mode=0o700, exist_ok=True)
            try:
                self.renew(artifact.tree, kept.credential)
                if artifact.index:
                    _write(directory / _INDEX, artifact.index.content)
                _write(directory / _PLAN, json.dumps(_plan_document(artifact.plan)).encode())
                _write(directory / _TREE, json.dumps(_tree_document(artifact)).encode())
            except BaseException:
                erase(directory)
                raise

    def renew(self, name: str, credential: Credential | None) -> None:
        """Have a tree be read by this credential from now on.

        Raises:
            NoSpaceError, StoreBrokenError: the store fails; the tree keeps the one that it has.
        """
        with store_errors("lazy volume"):
            _write(self._directory / name / _CREDENTIAL, credentials.to_text(credential).reveal().encode())

    def add_unproven(self, name: str, digest: Digest, ingest: str) -> None:
        """Note that a tree shows bytes of an ingest, by its path, that nothing has proven.

        Raises:
            NoSpaceError, StoreBrokenError: the store fails.
        """
        with store_errors("lazy volume"), (self._directory / name / _UNPROVEN).open("a") as file:
            file.write(f"{digest} {ingest}\n")

    def add_poisoned(self, name: str, digest: Digest) -> None:
        """Note that a blob of a tree is wrong."""
        with store_errors("lazy volume"), (self._directory / name / _POISONED).open("a") as file:
            file.write(f"{digest}\n")

    def remove(self, name: str) -> None:
        """Forget a tree, its credential first."""
        (self._directory / name / _CREDENTIAL).unlink(missing_ok=True)
        erase(self._directory / name)

    def names(self) -> set[str]:
        """Return the names of all that is kept, readable or not.

        Raises:
            StoreBrokenError: the store fails.
        """
        with store_errors("lazy volumes"):
            return {name for name in os.listdir(self._directory) if _NAME.fullmatch(name)}  # noqa: PTH208

    def all(self) -> Iterator[KeptTree]:
        """Yield every tree that can be read; what a crash has left of another goes."""
        for name in self.names():
            try:
                yield self._load(name)
            except (OSError, LookupError, TypeError, ValueError, CsiOrasError) as error:
                logger.warning("forgets a lazy volume that cannot be read", tree=name, cause=type(error).__name__)
                self.remove(name)

    def _load(self, name: str) -> KeptTree:
        directory = self._directory / name
        tree, index = json.loads((directory / _TREE).read_bytes()), directory / _INDEX
        artifact = LazyArtifact(
            reference=Reference.parse(tree["reference"]),
            artifact=Digest.parse(tree["artifact"]),
            plan=_parse_plan(json.loads((directory / _PLAN).read_bytes())),
            holder=tree["holder"],
            index=ChunkIndex.parse(index.read_bytes(), "kept chunk index") if index.exists() else None,
        )
        if artifact.tree != name:
            raise StoreBrokenError("lazy volume", "is not what its name says")
        return KeptTree(
            artifact=artifact,
            credential=credentials.from_text(Secret((directory / _CREDENTIAL).read_text())),
            poisoned=frozenset(map(Digest.parse, _lines(directory / _POISONED))),
            unproven=tuple((Digest.parse(digest), path) for digest, _, path in _unproven(directory)),
        )


def _unproven(directory: Path) -> Iterator[tuple[str, str, str]]:
    return (line.partition(" ") for line in _lines(directory / _UNPROVEN))


def _lines(path: Path) -> list[str]:
    """Return the lines of a file that grows, without a torn last one; none where there is no file."""
    return path.read_text().split("\n")[:-1] if path.exists() else []


def _tree_document(artifact: LazyArtifact) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "reference": str(artifact.reference),
        "artifact": str(artifact.artifact),
        "holder": artifact.holder,
    }


def _plan_document(plan: Plan) -> dict[str, Any]:
    entries = [
        {"name": str(entry.name), "blob": str(entry.blob.digest), "size": entry.blob.size, "mode": entry.mode}
        for entry in plan.entries
    ]
    return {"version": _VERSION, "single": plan.single, "entries": entries}


def _parse_plan(document: dict[str, Any]) -> Plan:
    entries = tuple(
        PlanEntry(
            name=Name(tuple(entry["name"].split("/"))),  # ours, as the name of the tree shows
            blob=Descriptor(
                media_type="application/octet-stream", digest=Digest.parse(entry["blob"]), size=entry["size"]
            ),
            layer=None,
            rule="",
            mode=entry["mode"],
        )
        for entry in document["entries"]
    )
    return Plan(entries=entries, single=document["single"])


def _write(path: Path, content: bytes) -> None:
    """Replace a file that only root may read."""
    fresh = path.with_name(f".{path.name}")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    fresh.rename(path)
