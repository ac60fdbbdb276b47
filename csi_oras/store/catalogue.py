"""The catalogue: what tags meant when they were last asked, and what plans came of which artifacts.

A root is what a reference resolves to: a manifest, or the index that leads to one.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from csi_oras.oci.digest import Digest
from csi_oras.oci.platform import Platform
from csi_oras.oci.reference import Reference
from csi_oras.store.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class LaidOut:
    """A plan that was laid out: its digest, bytes, number of files, and the only file's name if it is one file."""

    plan: Digest
    size: int
    files: int
    single: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CataloguedPlan:
    """What a root gave for a platform and a selection: the artifact's manifest, and what was laid out."""

    artifact: Digest
    laid_out: LaidOut


@dataclass(frozen=True, slots=True, kw_only=True)
class CataloguedArtifact:
    """One artifact of the store; sizes in bytes, times in seconds of the epoch."""

    digest: Digest
    references: tuple[str, ...]
    size: int
    volumes: int
    last_used: float


class Catalogue:
    """What the store remembers of references and artifacts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def root(self, reference: Reference) -> Digest | None:
        """Return what a reference means: its digest, or what its tag meant last time."""
        if reference.digest:
            return reference.digest
        rows = self._database.query(
            "SELECT root FROM tags WHERE repository = ? AND tag = ?", str(reference.repository), reference.tag
        )
        return Digest.parse(rows[0][0]) if rows else None

    def plan(self, root: Digest, platform: Platform, selection: str) -> CataloguedPlan | None:
        """Return the plan that a root gave for a platform and a selection."""
        rows = self._database.query(
            "SELECT artifact, plan, bytes, files, single FROM plans WHERE root = ? AND platform = ? AND selection = ?",
            str(root), str(platform), selection,
        )  # fmt: skip
        if not rows:
            return None
        artifact, plan, size, files, single = rows[0]
        laid_out = LaidOut(plan=Digest.parse(plan), size=size, files=files, single=single)
        return CataloguedPlan(artifact=Digest.parse(artifact), laid_out=laid_out)

    def laid_out(self, plan: Digest) -> LaidOut | None:
        """Return what is known of a plan, whoever it was laid out for."""
        rows = self._database.query("SELECT bytes, files, single FROM plans WHERE plan = ? LIMIT 1", str(plan))
        return LaidOut(plan=plan, size=rows[0][0], files=rows[0][1], single=rows[0][2]) if rows else None

    def add(
        self,
        reference: Reference,
        root: Digest,
        found: CataloguedPlan,
        key: tuple[Platform, str],
        contents: Iterable[Digest] = (),
    ) -> None:
        """Remember that `reference` meant `root` and gave `found` for a platform and a selection.

        `contents` are the blobs that it takes, manifests and all: they go when the artifact does.
        """
        artifact, laid_out = found.artifact, found.laid_out
        query = self._database.query
        with self._database.transaction():
            if reference.tag:  # a pinned one is listed as it is: what its tag means, nobody has asked
                tag = f"{reference.tag}@{reference.digest}" if reference.digest else reference.tag
                query("INSERT OR REPLACE INTO tags VALUES (?, ?, ?)", str(reference.repository), tag, str(root))
            query(
                "INSERT OR REPLACE INTO plans VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                str(root), str(key[0]), key[1], str(artifact), str(laid_out.plan), laid_out.size, laid_out.files,
                laid_out.single,
            )  # fmt: skip
            query(
                "INSERT INTO artifacts VALUES (?, ?, ?, ?) ON CONFLICT (digest) DO UPDATE"
                " SET last_used = excluded.last_used, bytes = max(bytes, excluded.bytes)",
                str(artifact), str(root), laid_out.size, time.time(),
            )  # fmt: skip
            for digest in contents:
                query("INSERT OR IGNORE INTO contents VALUES (?, ?)", str(artifact), str(digest))

    def owners(self, content: Digest, plans: Iterable[Digest]) -> list[str]:
        """Return the artifacts that a blob belongs to, and those that plans are of."""
        owned = self._database.query("SELECT artifact FROM contents WHERE digest = ?", str(content))
        for plan in plans:
            owned += self._database.query("SELECT artifact FROM plans WHERE plan = ?", str(plan))
        return sorted({str(artifact) for (artifact,) in owned})

    def count(self) -> int:
        """Count the artifacts."""
        count: int = self._database.query("SELECT count(*) FROM artifacts")[0][0]
        return count

    def artifacts(self) -> list[CataloguedArtifact]:
        """Return every artifact, the one used last first."""
        rows = self._database.query(
            "SELECT a.digest, a.bytes, a.last_used, coalesce(v.volumes, 0),"
            " (SELECT group_concat(t.repository || ':' || t.tag, ' ') FROM tags t WHERE t.root IN"
            "   (SELECT root FROM plans p WHERE p.artifact = a.digest))"
            " FROM artifacts a LEFT JOIN (SELECT artifact, count(*) AS volumes FROM volumes"
            "   WHERE state = 'published' GROUP BY artifact) v ON v.artifact = a.digest ORDER BY a.last_used DESC"
        )
        return [
            CataloguedArtifact(
                digest=Digest.parse(digest),
                references=tuple(sorted((references or "").split())),
                size=size,
                volumes=volumes,
                last_used=last_used,
            )
            for digest, size, last_used, volumes, references in rows
        ]
