"""Lazy trees of this process: an application that shows bytes of artifacts which are not local, without any mount."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from csi_oras import config
from csi_oras.app import Application
from csi_oras.lazy.blob import Shown
from csi_oras.lazy.tree import LazyTree
from csi_oras.oci.chunk_index import BlobIndex, ChunkHasher, ChunkIndex
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.registry.credentials import Credential
from csi_oras.telemetry.secrets import Secret
from csi_oras.transfer.request import LazyArtifact, PulledArtifact, PullRequest
from csi_oras.volume import attributes
from tests.support.planted import planted

if TYPE_CHECKING:
    from csi_oras.lazy.proofs import Proof

MIB = 1 << 20


class Lazies:
    """An application with lazy trees; ends with `close`."""

    def __init__(self, directory: Path, policy: str = "pulls: {rangeBytes: 4Mi, parallelRanges: 2}\n") -> None:
        file = directory / "policy.yaml"
        file.write_text(policy)
        self.app = Application(directory / "state", config.load(file))
        self.proofs: list[Proof] = []
        self.trees = self.app.lazy_trees(lambda _, proof: self.proofs.append(proof))

    def pull(self, reference: str, password: str = "") -> PulledArtifact:
        """Pull an artifact as a volume does that is not lazy, with a credential of its own or none."""
        credential = credential_of("user", password) if password else None
        return self.app.puller.start(replace(self._request(reference), credential=credential)).future.result(60)

    def refusal(self, reference: str) -> str:
        """Pull an artifact as a lazy volume does which is no lazy one, and return why it is none."""
        job = self.app.puller.start(replace(self._request(reference), lazy=True))
        assert job.future.result(60).lazy is None
        return job.progress.begun.result(60)

    def _request(self, reference: str) -> PullRequest:
        wanted = attributes.parse({"reference": reference}, {})
        return PullRequest(
            reference=wanted.reference,
            platform=self.app.platform,
            selection=wanted.selection,
            policy=wanted.pull_policy,
            credential=None,
        )

    def artifact(
        self, reference: str, index: ChunkIndex | None = None, credential: Credential | None = None
    ) -> LazyArtifact:
        """Ask what `reference` means, and what a lazy tree of it is."""
        request = replace(self._request(reference), credential=credential)
        planned = self.app.puller.plan(request)
        _, holder = self.app.puller.connect(request.reference.repository, credential)
        return LazyArtifact(
            reference=request.reference.pinned(planned.artifact.root),
            artifact=planned.artifact.digest,
            plan=planned.plan,
            holder=holder,
            index=index,
        )

    def open(self, reference: str, index: ChunkIndex | None = None, credential: Credential | None = None) -> LazyTree:
        """Open the lazy tree of an artifact."""
        return self.trees.open(self.artifact(reference, index, credential), credential)

    def connect(self, tree: LazyTree, credential: Credential) -> None:
        """Have a tree ask with another credential, whatever that may read."""
        tree.renew(partial(self.app.puller.connect, tree.artifact.reference.repository, credential))

    def close(self) -> None:
        """End it."""
        for tree in self.trees.all():
            self.trees.close(tree.artifact.tree)
        self.app.close()


def credential_of(user: str, password: str) -> Credential:
    """Return a credential that a volume may bring."""
    return Credential(username=user, password=Secret(planted(password)), source="test")


def index_of(*contents: bytes) -> ChunkIndex:
    """Return the chunk index of blobs."""
    found = ChunkIndex.of(map(_blob_index, contents))
    assert found
    return found


def _blob_index(content: bytes) -> BlobIndex | None:
    hasher = ChunkHasher(len(content))
    hasher.update(content)
    return hasher.index(Digest.of(content))


def read(shown: Shown, start: int, end: int) -> bytes:
    """Read bytes that are shown, of a file that the reader has not had so far."""
    assert shown.descriptor is not None
    assert shown.start <= start
    assert shown.end >= end
    try:
        assert os.fstat(shown.descriptor).st_ino == shown.inode
        return os.pread(shown.descriptor, end - start, start)
    finally:
        os.close(shown.descriptor)


def blob_of(content: bytes) -> Descriptor:
    """Describe a blob."""
    return Descriptor.of(content, "application/octet-stream")
