"""The lazy trees of this node: those that volumes show, by name."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial

from csi_oras.errors import CsiOrasError, NoSpaceError, StoreBrokenError
from csi_oras.lazy.blob import Parts
from csi_oras.lazy.kept import KeptTree, KeptTrees
from csi_oras.lazy.proofs import Proof
from csi_oras.lazy.tree import Connect as TreeConnect
from csi_oras.lazy.tree import LazyTree
from csi_oras.lazy.unproven import Rejection
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.reference import Repository
from csi_oras.registry.client import RepositoryClient
from csi_oras.registry.credentials import Credential
from csi_oras.store.leases import Leases
from csi_oras.telemetry.logs import logger
from csi_oras.transfer.chunk_indexes import FoundIndexes
from csi_oras.transfer.request import LazyArtifact
from csi_oras.transfer.turns import Turns

_SHARE = 2
"""Trees of one registry that are looked for hints at a time."""
Connect = Callable[[Repository, Credential | None], tuple[RepositoryClient, str]]
"""Returns a repository as a credential, or the node's, sees it, and what grants know that credential by."""
FindHints = Callable[[RepositoryClient, Digest], FoundIndexes]
"""Asks a repository what is said of the chunks of an artifact."""
Listener = Callable[[LazyTree, Digest], None]
"""Hears of a blob that turned out to be wrong, or is another file by now, and of a tree that has shown it."""


class LazyTrees:
    """Opens trees and lets go of them."""

    def __init__(self, kept: KeptTrees, leases: Leases, connect: Connect, parts: Parts, find_hints: FindHints) -> None:
        self.kept = kept
        self._find_hints = find_hints
        self._turns = Turns("hint", _SHARE)
        self._whole: queue.SimpleQueue[Descriptor] = queue.SimpleQueue()
        self._leases = leases
        self._connect = connect
        self._parts = replace(parts, observe=self._observe, reject=self._reject)
        self._count = parts.observe
        self._listeners: list[Listener] = []
        self._replaced: list[Listener] = []
        self._lock = threading.Lock()
        self._trees: dict[str, LazyTree] = {}

    def listen(self, listener: Listener) -> None:
        """Tell `listener` of blobs that are found to be wrong."""
        self._listeners.append(listener)

    def listen_replaced(self, listener: Listener) -> None:
        """Tell `listener` of blobs whose bytes are in another file than the one that they were shown from."""
        self._replaced.append(listener)

    def whole(self) -> Iterator[Descriptor]:
        """Yield the blobs that have come whole since this was asked last, and that no chunk index was there for."""
        with suppress(queue.Empty):
            while True:
                yield self._whole.get_nowait()

    def _observe(self, blob: Descriptor, proof: Proof) -> None:
        self._count(blob, proof)
        if proof is Proof.WHOLE and any(tree.lacks_index(blob) for tree in self.all()):
            self._whole.put(blob)
        if proof is Proof.REPLACED:
            self.replace(blob.digest)
        if proof is not Proof.POISONED:
            return
        for tree in self.all():
            if blob.digest in tree.poisoned():
                self.kept.add_poisoned(tree.artifact.tree, blob.digest)
                for listener in self._listeners:
                    listener(tree, blob.digest)

    def replace(self, digest: Digest) -> set[str]:
        """Have nobody read on in a file that was a blob's, and return the names of the trees that show it."""
        trees = [tree for tree in self.all() if tree.shows(digest)]
        for tree in trees:
            for listener in self._replaced:
                listener(tree, digest)
        return {tree.artifact.tree for tree in trees}

    def settle(self) -> None:
        """Hold what was shown without a proof against what is whole by now, whoever brought it."""
        for tree in self.all():
            tree.settle()

    def _reject(self, blob: Descriptor, rejection: Rejection) -> None:
        for tree in self.all():
            tree.reject(blob.digest, rejection)

    def open(self, artifact: LazyArtifact, credential: Credential | None) -> LazyTree:
        """Return the tree of an artifact, held from now on; `credential` is what the volume brought.

        Raises:
            NoSpaceError, StoreBrokenError: the store fails.
        """
        name = artifact.tree
        if tree := self.find(name):
            self.kept.renew(name, credential)
            tree.renew(self._connection(artifact, credential))
            for digest in tree.gone():
                self.replace(digest)
            return tree
        self.kept.save(KeptTree(artifact=artifact, credential=credential))
        tree = self._make(artifact, credential)
        self._add(tree)
        if any(map(tree.lacks_index, tree.blobs())):
            self._turns.submit(tree.registry, tree, partial(self._hint, tree))  # nobody waits for it
        return tree

    def _hint(self, tree: LazyTree) -> None:
        artifact = tree.artifact
        try:
            client, _ = tree.connect()
            tree.hint(self._find_hints(client, artifact.artifact).index_of)
        except CsiOrasError as error:
            logger.info("nothing hints at the chunks of a lazy volume", tree=artifact.tree, cause=error.message)

    def find(self, name: str) -> LazyTree | None:
        """Return a tree by its name."""
        with self._lock:
            return self._trees.get(name)

    def all(self) -> list[LazyTree]:
        """Return every tree."""
        with self._lock:
            return list(self._trees.values())

    def close(self, name: str) -> None:
        """Let go of a tree that no volume shows any more; a full or broken disk keeps no pod from going."""
        with self._lock:
            tree = self._trees.pop(name, None)
        if tree:
            tree.close()
        self.kept.remove(name)
        try:
            self._leases.of_lazy(name, [])
        except (NoSpaceError, StoreBrokenError) as error:
            logger.warning("what a lazy volume has read is held until the next start", cause=error.message)

    def load(self) -> None:
        """Serve on what a former process has kept.

        Raises:
            StoreBrokenError: the store fails.
        """
        for kept in self.kept.all():
            try:
                tree = self._make(kept.artifact, kept.credential)
                tree.poison(kept.poisoned)
                tree.inherit(kept.unproven)
                self._add(tree)
            except CsiOrasError as error:
                logger.error("a lazy volume is not served", tree=kept.artifact.tree, cause=error.message)
        self._leases.of_lazy_only(self.kept.names())

    def _make(self, artifact: LazyArtifact, credential: Credential | None) -> LazyTree:
        remember = partial(self.kept.add_unproven, artifact.tree)
        return LazyTree(artifact, self._connection(artifact, credential), self._parts, remember)

    def _add(self, tree: LazyTree) -> None:
        artifact, plan = tree.artifact, tree.artifact.plan
        digests = [artifact.artifact, plan.digest, *(entry.blob.digest for entry in plan.entries)]
        self._leases.of_lazy(artifact.tree, digests)
        with self._lock:
            self._trees[artifact.tree] = tree

    def _connection(self, artifact: LazyArtifact, credential: Credential | None) -> TreeConnect:
        return partial(self._connect, artifact.reference.repository, credential)
