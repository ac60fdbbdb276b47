"""Lazy trees: an artifact as one credential sees it, whose files are fetched when they are read.

Two volumes share a tree, and so a FUSE process, where they show the same plan of the same repository with the same
credential: then neither can see by the other what it could not have pulled.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial

from csi_oras.errors import AccessDeniedError, CsiOrasError, DigestMismatchError, UnauthenticatedError
from csi_oras.lazy.blob import LazyBlob, Parts, Shown
from csi_oras.lazy.unproven import Rejection
from csi_oras.oci.chunk_index import BlobIndex
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.registry.client import RepositoryClient
from csi_oras.transfer.asker import Asker
from csi_oras.transfer.demand import Demand
from csi_oras.transfer.request import LazyArtifact

Connect = Callable[[], tuple[RepositoryClient, str]]
"""Returns a repository as a credential sees it, and what grants know that credential by."""


class LazyTree:
    """The blobs of one lazy artifact, and the repository that they come from."""

    def __init__(
        self,
        artifact: LazyArtifact,
        connect: Connect,
        parts: Parts,
        remember: Callable[[Digest, str], None] = lambda _digest, _path: None,
    ) -> None:
        """Ask for bytes by what `connect` returns, anew when the credential is refused.

        `remember` keeps of which files bytes are shown that nothing has proven.
        """
        self.artifact = artifact
        self.connect = connect
        self._lock = threading.Lock()
        self._asker: Asker | None = None
        self._is_wanted = True
        index = artifact.index
        blobs = {entry.blob.digest: entry.blob for entry in artifact.plan.entries}
        self._blobs = {
            digest: LazyBlob(blob, parts, index=index.find(blob) if index else None, remember=partial(remember, digest))
            for digest, blob in blobs.items()
        }

    @property
    def registry(self) -> str:
        """Where its bytes come from."""
        return self.artifact.reference.repository.registry

    def blobs(self) -> Iterable[Descriptor]:
        """Return what its files are made of."""
        return (blob.blob for blob in self._blobs.values())

    def lacks_index(self, blob: Descriptor) -> bool:
        """Say whether no chunk of a blob of the tree can be proven by itself."""
        known = self._blobs.get(blob.digest)
        return known is not None and known.is_unproven

    def hint(self, find: Callable[[Descriptor], BlobIndex | None]) -> None:
        """Prove chunks of blobs by what `find` returns of them, where there is nothing better."""
        for blob in self._blobs.values():
            if index := find(blob.blob):
                blob.hint(index)

    def show(
        self, digest: Digest, start: int, end: int, have: int, *, still_coming: Callable[[], None] = lambda: None
    ) -> Shown:
        """Return when bytes of a blob may be read; see `LazyBlob.show`.

        Raises:
            CsiOrasError: they may not, or not now.
        """
        blob = self._blobs[digest]
        asker = self._opened()
        try:
            return blob.show(asker, start, end, have, still_coming=still_coming)
        except (UnauthenticatedError, AccessDeniedError):
            self._forget(asker)
            return blob.show(self._opened(), start, end, have, still_coming=still_coming)

    def advance(self, digest: Digest, start: int, end: int) -> Iterator[Shown]:
        """Have bytes fetched next, if that is possible, and yield what may be read by then."""
        with suppress(CsiOrasError):  # whoever reads them will hear of it
            yield from self._blobs[digest].advance(self._opened(), start, end)

    def shows(self, digest: Digest) -> bool:
        """Say whether a file of the tree is made of a blob."""
        return digest in self._blobs

    def has(self, digest: Digest, start: int, end: int) -> bool:
        """Say whether a blob of the tree has such bytes."""
        blob = self._blobs.get(digest)
        return blob is not None and 0 <= start < end <= blob.blob.size

    def renew(self, connect: Connect) -> None:
        """Ask by what `connect` returns from now on."""
        with self._lock:
            self.connect, self._asker = connect, None

    def poison(self, digests: Iterable[Digest]) -> None:
        """Show nothing more of blobs that are known to be wrong."""
        for digest in digests:
            if blob := self._blobs.get(digest):
                cause = "was found to be wrong when it was whole"
                blob.poison = DigestMismatchError(f"blob {digest}", cause, "push it again, or report it")

    def poisoned(self) -> list[Digest]:
        """Return the blobs of which nothing may be shown any more."""
        return [digest for digest, blob in self._blobs.items() if blob.poison]

    def inherit(self, paths: Iterable[tuple[Digest, str]]) -> None:
        """Take over what a former process has shown of blobs that nothing had proven, and of which files."""
        for digest, path in paths:
            if blob := self._blobs.get(digest):
                blob.unproven.inherit(path, blob.blob.size)

    def doubtful(self) -> list[Digest]:
        """Return the blobs of which something was shown that nobody can look at any more."""
        return [digest for digest, blob in self._blobs.items() if blob.unproven.is_lost]

    def gone(self) -> list[Digest]:
        """Return the blobs that were shown whole and have been set aside since."""
        return [digest for digest, blob in self._blobs.items() if blob.has_gone]

    def reject(self, digest: Digest, rejection: Rejection) -> None:
        """Hear of bytes of a file that were found to be wrong."""
        if blob := self._blobs.get(digest):
            blob.unproven.reject(rejection)

    def settle(self) -> None:
        """Hold what was shown without a proof against what is whole by now."""
        for blob in self._blobs.values():
            if blob.unproven:
                blob.settle()

    def close(self) -> None:
        """Want nothing more; what is there of unfinished blobs stays for the next."""
        self._is_wanted = False
        for blob in self._blobs.values():
            blob.unproven.forget()

    def _opened(self) -> Asker:
        with self._lock:
            if self._asker is None:
                client, holder = self.connect()
                self._asker = Asker(client=client, holder=holder, demand=self._demand)
            return self._asker

    def _forget(self, asker: Asker) -> None:
        with self._lock:
            if self._asker is asker:
                self._asker = None

    def _demand(self) -> Demand:
        return Demand.BACKGROUND if self._is_wanted else Demand.NONE
