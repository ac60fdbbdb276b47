"""Pushes: an artifact's blobs, then its manifest by digest; its tag is moved last, by whoever has it pushed.

What the layers are made of is not known here: files that a person names (`files`), or what a pod wrote.
"""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future, as_completed, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from csi_oras.errors import ArtifactNotFoundError, PushRefusedError, RegistryUnavailableError, UnwantedError
from csi_oras.oci import media_types
from csi_oras.oci.chunk_index import BlobIndex, ChunkIndex
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.reference import Repository
from csi_oras.registry.answers import BlobStream
from csi_oras.registry.client import RepositoryClient
from csi_oras.registry.pushes import PushClient
from csi_oras.registry.sources import Readable, Source, in_memory
from csi_oras.telemetry.progress import Counter, Progress
from csi_oras.transfer.index_push import try_index
from csi_oras.transfer.turns import Turns

_SHARE = 4
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PushedLayer:
    """A blob that an artifact needs, and where its bytes are."""

    blob: Descriptor
    source: Source
    mount_from: Repository | None = None
    """A repository that has it, from which the registry may take it instead."""
    chunks: BlobIndex | None = None


def in_repository(client: RepositoryClient, blob: Descriptor) -> Source:
    """Return the source of what another repository has and the registry does not mount, such as that of another one."""

    @contextmanager
    def opened(offset: int) -> Iterator[Readable]:
        with client.blob(blob, offset) as stream:
            whole = _Whole(stream, blob, client.repository.at(str(blob.digest)))
            whole.skip(offset - stream.start)  # of a registry that ignores ranges, all of it comes
            yield whole

    return opened


class _Whole:
    """The bytes of a blob in a stream, of which an early end is no end but a failure."""

    def __init__(self, stream: BlobStream, blob: Descriptor, subject: str) -> None:
        self._stream = stream
        self._left = blob.size - stream.start
        self._subject = subject

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill `buffer` as far as it goes and return the count; 0 is the end."""
        count = self._stream.readinto(buffer)
        self._left -= count
        if not count and self._left > 0 and len(buffer):
            raise RegistryUnavailableError(self._subject, "the registry broke off", "it is tried again")
        return count

    def skip(self, count: int) -> None:
        """Read so many bytes for nothing."""
        buffer = memoryview(bytearray(min(count, _BLOCK_BYTES)))
        while count > 0:
            count -= self.readinto(buffer[:count])


@dataclass(frozen=True, slots=True, kw_only=True)
class NewManifest:
    """A manifest to be pushed, byte by byte, and its config."""

    content: bytes
    media_type: str
    config: PushedLayer
    index: ChunkIndex | None = None
    """Its chunk index, which it names."""

    @property
    def digest(self) -> Digest:
        """What it will be known by."""
        return Digest.of(self.content)


@dataclass(frozen=True, slots=True, kw_only=True)
class PushedArtifact:
    """What a push made; bytes of all layers, and of those that had to be sent."""

    digest: Digest
    size: int
    sent: int


def manifest_of(
    layers: Sequence[Descriptor],
    artifact_type: str = "",
    annotations: Mapping[str, str] | None = None,
    index: ChunkIndex | None = None,
) -> NewManifest:
    """Return the manifest of an artifact as `oras push` writes it, with its chunk index bound to it if there is one.

    It is the same of the same layers.
    """
    config = Descriptor.of(b"{}", media_types.EMPTY)
    bound = {media_types.CHUNK_INDEX_DIGEST: str(index.descriptor.digest)} if index else {}
    every = {**(annotations or {}), **bound}
    document = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "artifactType": artifact_type or media_types.UNKNOWN_ARTIFACT,
        "config": config.to_json(),
        "layers": [layer.to_json() for layer in layers],
        **({"annotations": every} if every else {}),
    }
    return NewManifest(
        content=json.dumps(document, separators=(",", ":")).encode(),
        media_type=media_types.OCI_MANIFEST,
        config=PushedLayer(blob=config, source=in_memory(b"{}")),
        index=index,
    )


class Pusher:
    """Pushes artifacts, so many blobs to a registry at once; those who push to it take turns."""

    def __init__(self, share: int = _SHARE) -> None:
        """Push up to `share` blobs to a registry at once."""
        self._turns = Turns("push", share)

    def push(
        self, client: PushClient, layers: Sequence[PushedLayer], manifest: NewManifest, progress: Progress
    ) -> PushedArtifact:
        """Push what is missing of an artifact; all but its tag is there then.

        Raises:
            UnobtainableError: the registry does not take it, or the bytes of a layer cannot be read.
            UnacceptableError: the registry does not behave.
        """
        with self.pushing(client, progress) as begun:
            for layer in layers:
                begun.begin(layer)
            return begun.finish(manifest)

    @contextmanager
    def pushing(
        self, client: PushClient, progress: Progress, there: AbstractSet[Digest] = frozenset()
    ) -> Iterator["Pushing"]:
        """Push an artifact in a with statement, layer by layer as they are made; `there` is what the registry has."""
        begun = Pushing(self._turns, client, progress, there)
        try:
            yield begun
        except BaseException:
            begun.abandon()
            raise


class Pushing:
    """A push under way: blobs are sent while others are still made."""

    def __init__(self, turns: Turns, client: PushClient, progress: Progress, there: AbstractSet[Digest]) -> None:
        self._turns = turns
        self._client = client
        self._progress = progress
        self._there = there
        self._believed: list[PushedLayer] = []
        """What is not pushed, since the registry is said to have it."""
        self._seen: set[Digest] = set()
        self._size = 0
        self._is_over = threading.Event()
        self._work: list[Future[int]] = []
        self._failed: Future[int] | None = None

    def begin(self, layer: PushedLayer) -> None:
        """Push a layer soon, if it is missing.

        Raises:
            CsiOrasError: another one could not be pushed.
        """
        if self._failed:
            self._failed.result()
        self._size += layer.blob.size
        if layer.blob.digest in self._seen:
            return
        self._seen.add(layer.blob.digest)
        if layer.blob.digest in self._there:
            self._believed.append(layer)
        else:
            self._submit(layer)

    def finish(self, manifest: NewManifest) -> PushedArtifact:
        """Wait for all layers, then push the config and the manifest by digest.

        Raises:
            UnobtainableError, UnacceptableError: as for `Pusher.push`.
        """
        sent = self._sent()
        _send(self._client, manifest.config, Counter(manifest.config.blob.size))
        try:
            digest = self._put(manifest)
        except (ArtifactNotFoundError, PushRefusedError):
            if not self._believed:
                raise
            for layer in self._believed:  # it may have lost what it is said to have
                self._submit(layer)
            sent = self._sent()
            digest = self._put(manifest)
        if manifest.index:
            try_index(self._client, manifest.index, Descriptor.of(manifest.content, manifest.media_type))
        return PushedArtifact(digest=digest, size=self._size, sent=sent)

    def abandon(self) -> None:
        """Begin nothing more, and wait until nothing is read or sent behind the caller's back."""
        self._is_over.set()
        wait([future for future in self._work if not future.cancel()])

    def _submit(self, layer: PushedLayer) -> None:
        counter = Counter(layer.blob.size)
        self._progress.join(layer.blob.digest, counter, layer.blob.annotations.get(media_types.TITLE, ""))
        wanted = replace(layer, source=_until(self._is_over, layer.source))
        registry = self._client.repository.registry
        work = self._turns.submit(registry, self, partial(_send, self._client, wanted, counter))
        self._work.append(work)
        work.add_done_callback(self._note)

    def _note(self, work: "Future[int]") -> None:
        if not work.cancelled() and work.exception():
            self._failed = work

    def _sent(self) -> int:
        return sum(future.result() for future in as_completed(self._work))

    def _put(self, manifest: NewManifest) -> Digest:
        return self._client.put_manifest(str(manifest.digest), manifest.content, manifest.media_type)


def _send(client: PushClient, layer: PushedLayer, counter: Counter) -> int:
    """Push a blob if it is missing, and return how many bytes had to be sent."""
    if client.has_blob(layer.blob.digest):
        counter.finish()
        return 0
    is_sent = client.upload(layer.blob, layer.source, counter, layer.mount_from)
    return layer.blob.size if is_sent else 0


def _until(is_over: threading.Event, source: Source) -> Source:
    """Return a source that ends with an error when nobody wants the push any more."""

    @contextmanager
    def opened(offset: int) -> Iterator[Readable]:
        with source(offset) as stream:
            yield _Wanted(stream, is_over)

    return opened


class _Wanted:
    def __init__(self, stream: Readable, is_over: threading.Event) -> None:
        self._stream = stream
        self._is_over = is_over

    def readinto(self, buffer: memoryview, /) -> int | None:
        if self._is_over.is_set():
            raise UnwantedError("push", "another part of it has failed", "see there")
        return self._stream.readinto(buffer)
