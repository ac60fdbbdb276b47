"""Bases: the artifact below a writable volume, found again when what was written is to be pushed.

Nothing is asked of a registry for what the store still has: the volume has shown it to its pod.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from csi_oras.artifact import planner
from csi_oras.artifact.kind import Artifact
from csi_oras.artifact.kinds import kind_of
from csi_oras.errors import ContentChangedError, CsiOrasError, StoreBrokenError, UnsupportedContentError
from csi_oras.oci import manifest as manifests
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.glob import Glob
from csi_oras.oci.manifest import Manifest
from csi_oras.oci.plan import Plan
from csi_oras.oci.reference import Reference, Repository
from csi_oras.oci.selection import Selection
from csi_oras.pack.merge import first_uncarriable
from csi_oras.pack.walk import given
from csi_oras.registry.credentials import Credential
from csi_oras.registry.sources import Readable, Source, in_file
from csi_oras.store.content import ContentStore
from csi_oras.store.trees import TreeStore
from csi_oras.store.writable import Base
from csi_oras.transfer.pull import Puller
from csi_oras.transfer.request import Planned, PulledArtifact, PullPolicy, PullRequest
from csi_oras.transfer.resolve import ManifestLimits

EMPTY = Digest.of(b"{}")
"""The usual config, which everybody has: volumes do not need it, and no pull fetches it."""

Hold = Callable[[Iterable[Digest]], None]
"""Holds exactly these in the store from now on."""


@dataclass(frozen=True, kw_only=True)
class FoundBase:
    """A base, the bytes of its manifest, and the tree that shows it; `credential` reads it, if anything has to be.

    What is `absent` is neither in the store nor can it be asked for, since no credential for its registry was kept.
    """

    base: Base
    planned: Planned
    content: bytes
    tree: Path
    credential: Credential | None
    absent: frozenset[Digest] = frozenset()

    @property
    def repository(self) -> Repository:
        """Where it is."""
        return self.base.reference.repository

    @property
    def manifest(self) -> Manifest:
        """Its manifest."""
        return self.planned.artifact.manifest

    @property
    def plan(self) -> Plan:
        """What of it the volume shows."""
        return self.planned.plan

    @property
    def blobs(self) -> list[Descriptor]:
        """All that it is made of, but for what everybody has."""
        return [blob for blob in (self.manifest.config, *self.manifest.layers) if blob.digest != EMPTY]

    @cached_property
    def digests(self) -> frozenset[Digest]:
        """What its layers are."""
        return frozenset(layer.digest for layer in self.manifest.layers)

    def has_just(self, layers: Iterable[Descriptor]) -> bool:
        """Say whether its manifest can be pushed, and has these layers."""
        return not self.absent and set(layers) == set(self.manifest.layers)

    def is_shown_by(self, reference: Reference) -> bool:
        """Say whether its manifest can be pushed as `reference`, and a whole volume of that shows just the same."""
        if self.absent:
            return False
        artifact = replace(self.planned.artifact, reference=reference)
        with suppress(CsiOrasError):
            return planner.plan(artifact, self.planned.kind, Selection()).digest == self.plan.digest
        return False


def in_store(content: ContentStore, blob: Descriptor) -> Source:
    """Return the source of a blob of the store, which leaves the store if it turns out to have rotted there."""

    @contextmanager
    def opened(offset: int) -> Iterator[Readable]:
        with in_file(content.path(blob.digest))(offset) as file:
            try:
                yield file
            except ContentChangedError:
                content.check(blob)
                raise

    return opened


def pushed(include: Iterable[str], exclude: Iterable[str]) -> Selection:
    """Return what is pushed of what a volume shows last."""
    included, excluded = (
        tuple(Glob.parse(pattern.removeprefix("./").rstrip("/")) for pattern in patterns)
        for patterns in (include, exclude)
    )
    return Selection(include=included, exclude=excluded)


def check_carriable(artifact: PulledArtifact, selection: Selection) -> None:
    """Let an artifact pass that can be pushed on, as far as selected, with what will be written above it.

    Raises:
        UnsupportedContentError: it shows what no artifact can carry.
    """
    subject = str(artifact.reference)
    try:
        tree = os.open(artifact.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):  # it was collected, or is a single file: whoever mounts it will see
        return
    try:
        found = first_uncarriable(given(tree, selection, frozenset(), subject), selection)
    finally:
        os.close(tree)
    if found:
        cause = f'holds "{found.name}", which {found.reason}: no artifact can carry that'
        remedy = "leave it out with exclude or writeBackExclude, or name a directory as path"
        raise UnsupportedContentError(subject, cause, remedy)


class Bases:
    """Finds bases."""

    def __init__(
        self, content: ContentStore, trees: TreeStore, puller: Puller, limits: Callable[[], ManifestLimits]
    ) -> None:
        self._content = content
        self._trees = trees
        self._puller = puller
        self._limits = limits

    def find(self, base: Base, credential: Credential | None, hold: Hold, *, is_elsewhere: bool) -> FoundBase:
        """Return a base, of which `hold` is told what has to stay; what has gone of it is pulled again.

        One that `is_elsewhere` is of another registry than what is pushed: nothing but its tree is counted on.

        Raises:
            UnobtainableError, UnacceptableError, RequestError: as for a pull.
        """
        request = PullRequest(
            reference=base.reference,
            platform=base.platform,
            selection=base.selection,
            policy=PullPolicy.IF_NOT_PRESENT,
            credential=credential,
        )
        hold([base.artifact, base.plan])
        planned = self._kept(base) or self._puller.plan(request)
        packed = [archive.blob.digest for archive in planned.plan.archives]  # as long as they are there, they stay
        hold([base.artifact, base.plan, planned.plan.digest, *packed])
        if not self._trees.has(planned.plan.digest):
            job = self._puller.start(request)
            with self._puller.jobs.waiting(job):
                job.future.result()
        content = self._content.read(base.artifact, self._limits().manifest_bytes)
        if content is None:
            raise StoreBrokenError(f"manifest {base.artifact}", "is not in the store", "it is fetched again")
        tree = self._trees.path(planned.plan.digest)
        found = FoundBase(base=base, planned=planned, content=content, tree=tree, credential=credential)
        gone = (blob.digest for blob in found.blobs if not self._content.has(blob))
        return replace(found, absent=frozenset(gone)) if is_elsewhere else found

    def _kept(self, base: Base) -> Planned | None:
        """Plan a base from what the store has, if that is enough."""
        limits, subject = self._limits(), str(base.reference)
        content = self._content.read(base.artifact, limits.manifest_bytes)
        if content is None:
            return None
        manifest = manifests.parse(content, "", subject, most_layers=limits.layers)
        if not isinstance(manifest, Manifest):
            return None
        kind = kind_of(manifest)
        config = self._content.read(manifest.config.digest, limits.manifest_bytes) if kind.reads_config else b""
        if config is None:
            return None
        artifact = Artifact(
            reference=base.reference,
            root=base.reference.digest or base.artifact,
            digest=base.artifact,
            size=len(content),
            manifest=manifest,
            config=config,
        )
        return Planned(artifact=artifact, kind=kind, plan=planner.plan(artifact, kind, base.selection))
