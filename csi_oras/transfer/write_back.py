"""Write-back: one captured volume becomes an artifact, and its tag means it.

Whatever is in the way is said before a byte is hashed, as far as it can be; the tag is moved last, and only from what
it meant when the volume was published. What somebody else has moved meanwhile stays his: then the artifact gets a tag
of its own. Killed at any moment, the same push makes the same artifact, and sends only what is not there yet.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar
from weakref import WeakValueDictionary

from csi_oras.errors import (
    ContentChangedError,
    PushRefusedError,
    UnauthenticatedError,
    UnobtainableError,
    UnsupportedContentError,
)
from csi_oras.oci import media_types
from csi_oras.oci.chunk_index import indexed
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.reference import Reference
from csi_oras.oci.selection import Selection
from csi_oras.pack.layers import PackedDirectory
from csi_oras.pack.merge import Uncarriable, described
from csi_oras.pack.survey import Survey, Volume, check_unchanged, survey
from csi_oras.pack.walk import WalkLimits
from csi_oras.registry import credentials
from csi_oras.registry.client import RepositoryClient
from csi_oras.registry.credentials import Credential
from csi_oras.registry.keychain import Found
from csi_oras.registry.pushes import PushClient
from csi_oras.registry.sources import Source, in_file
from csi_oras.store.content import ContentStore
from csi_oras.store.leases import Leases
from csi_oras.store.paths import StatePaths, store_errors
from csi_oras.store.staging import staging
from csi_oras.store.writable import WritableVolume, Writing
from csi_oras.telemetry.progress import Progress
from csi_oras.transfer.access import Access
from csi_oras.transfer.bases import Bases, FoundBase, Hold, in_store, pushed
from csi_oras.transfer.chunk_indexes import ChunkIndexes, FoundIndexes
from csi_oras.transfer.compose import Composed, Composer
from csi_oras.transfer.export import NO_LIMITS, new_directory
from csi_oras.transfer.image_layout import write_layout
from csi_oras.transfer.making import MOST_FILES, LayerMaker
from csi_oras.transfer.push import NewManifest, PushedLayer, Pusher, in_repository

_DIGITS = 12
_LONGEST_TAG = 128
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenBack:
    """What a push made: `reference` has the tag that means it, which `is_second` if the volume's own had been moved."""

    reference: Reference
    sent: int
    is_second: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedLayout:
    """What an export made: the artifact, the tag that it has in the layout, and what was left out."""

    digest: Digest
    tag: str
    left: tuple[Uncarriable, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    """A captured volume that can be pushed, as far as can be told without its registry."""

    volume: WritableVolume
    base: FoundBase | None
    opened: Volume
    selection: Selection
    found: Survey
    directory: Path | None
    """For what is packed, if anything is."""


class VolumePusher:
    """Pushes captured volumes."""

    def __init__(
        self,
        *,
        access: Access,
        bases: Bases,
        indexes: ChunkIndexes,
        content: ContentStore,
        leases: Leases,
        paths: StatePaths,
        pusher: Pusher,
        limits: Callable[[], WalkLimits],
    ) -> None:
        self._access = access
        self._bases = bases
        self._indexes = indexes
        self._content = content
        self._leases = leases
        self._paths = paths
        self._pusher = pusher
        self._limits = limits
        self._lock = threading.Lock()
        self._turns: WeakValueDictionary[Reference, threading.Lock] = WeakValueDictionary()

    def push(self, writing: Writing) -> WrittenBack:
        """Push a captured volume, and have its tag, or a second one, mean it; only one push of it may run.

        Raises:
            ContentChangedError: somebody still writes to it.
            UnobtainableError: something is not to be had now; the message says what.
            UnacceptableError: it holds what cannot be pushed.
        """
        volume, limits = writing.volume(), self._limits()
        credential = credentials.from_text(writing.credential())
        with _kept_credential(), self._ready(writing, volume, limits) as ready:
            if ready.found.uncarriable:
                raise _uncarriable(volume, ready.found.uncarriable)
            action = partial(self._push, ready)
            written = self._access.use(volume.reference.repository, Found(credential=credential), action)
            try:
                check_unchanged(ready.opened, ready.selection, limits, ready.found)
            except ContentChangedError:
                if written.reference.digest and not written.is_second:
                    writing.note_tag(written.reference.digest)
                raise
            return written

    def export(self, writing: Writing, directory: Path) -> ExportedLayout:
        """Write what would be pushed of a captured volume as an OCI layout, whatever the limits.

        What cannot be carried is left out.

        Raises:
            InvalidRequestError: the directory is not empty, or cannot be written.
            UnobtainableError, UnacceptableError: the volume cannot be read.
        """
        volume = writing.volume()
        with self._ready(writing, volume, NO_LIMITS) as ready, new_directory(directory):
            composed = self._with_base(ready, partial(self._laid_out, ready, directory))
            return ExportedLayout(digest=composed.manifest.digest, tag=_tag(volume), left=ready.found.uncarriable)

    @contextmanager
    def opened(self, writing: Writing) -> Iterator[tuple[FoundBase | None, Volume]]:
        """Open the directories of a captured volume in a with statement; what has gone of its base is pulled again.

        The base stays in the store as long as the volume is in the outbox.

        Raises:
            UnobtainableError, UnacceptableError: it cannot be had.
        """
        volume = writing.volume()
        hold = partial(self._leases.of_outbox, writing.directory.name)
        with _kept_credential():
            base = self._base(volume, credentials.from_text(writing.credential()), hold)
        with _opened(writing, volume, base) as opened:
            yield base, opened

    @contextmanager
    def _ready(self, writing: Writing, volume: WritableVolume, limits: WalkLimits) -> Iterator[_Ready]:
        with self.opened(writing) as (base, opened), ExitStack() as stack:
            selection = pushed(volume.include, volume.exclude)
            found = survey(opened, selection, limits, MOST_FILES)
            packs = any(isinstance(layer, PackedDirectory) for layer in found.layers)
            with store_errors(f"{opened.subject}, packing"):  # only if need be: the disk may be full of what is pushed
                directory = stack.enter_context(staging(self._paths)) if packs else None
            yield _Ready(volume=volume, base=base, opened=opened, selection=selection, found=found, directory=directory)

    def _base(self, volume: WritableVolume, credential: Credential | None, hold: Hold) -> FoundBase | None:
        if volume.base is None:
            return None
        is_elsewhere = volume.base.reference.repository.registry != volume.reference.repository.registry
        return self._bases.find(volume.base, None if is_elsewhere else credential, hold, is_elsewhere=is_elsewhere)

    def _push(self, ready: _Ready, client: RepositoryClient) -> WrittenBack:
        pushes = client.pushes()
        pushes.tag_digest(_tag(ready.volume))  # who is not there need not be hashed for
        return self._with_base(ready, partial(self._send, ready, pushes))

    def _with_base(self, ready: _Ready, action: Callable[[RepositoryClient | None], _Result]) -> _Result:
        """Do `action` with the base's repository, or with None where nothing has to be read, or can be read, there."""
        base = ready.base
        if base is None or base.absent or all(map(self._content.has, base.blobs)):
            return action(None)
        return self._access.use(base.repository, Found(credential=base.credential), action)

    def _send(self, ready: _Ready, pushes: PushClient, reading: RepositoryClient | None) -> WrittenBack:
        with self._pusher.pushing(pushes, Progress(), _there(ready.base, pushes)) as pushing:
            composed = self._composed(ready, reading, pushing.begin)
            sent = pushing.finish(composed.manifest).sent
        return self._tagged(ready.volume, pushes, composed, sent)

    def _laid_out(self, ready: _Ready, directory: Path, reading: RepositoryClient | None) -> Composed:
        composed = self._composed(ready, reading, lambda _: None)
        write_layout(composed, _tag(ready.volume), directory)
        return composed

    def _composed(
        self, ready: _Ready, reading: RepositoryClient | None, made: Callable[[PushedLayer], None]
    ) -> Composed:
        composer = Composer(
            volume=ready.volume,
            base=ready.base,
            maker=LayerMaker(open_file=ready.opened.open, directory=ready.directory, subject=ready.opened.subject),
            base_source=partial(self._base_source, ready, reading),
            base_chunks=self._base_indexes(ready.base, reading).index_of,
        )
        for left in ready.directory.iterdir() if ready.directory else ():  # with another credential it is done again
            left.unlink()
        return composer.compose(ready.found, made)

    def _base_indexes(self, base: FoundBase | None, reading: RepositoryClient | None) -> FoundIndexes:
        """Find the chunk index of the base, which its registry is asked for only where it says that it has one."""
        if base is None or not indexed(base.manifest.layers):
            return FoundIndexes(blobs={})

        def find(client: RepositoryClient | None) -> FoundIndexes:
            return self._indexes.find(client, base.manifest, base.base.artifact, hints=False)

        if reading or base.absent or base.manifest.chunk_index is None:
            return find(reading)
        try:
            return self._access.use(base.repository, Found(credential=base.credential), find)
        except UnobtainableError:
            return find(None)

    def _base_source(self, ready: _Ready, reading: RepositoryClient | None, blob: Descriptor) -> Source:
        if self._content.has(blob):
            return in_store(self._content, blob)
        if reading:
            return in_repository(reading, blob)
        title = blob.annotations.get(media_types.TITLE, "")
        return in_file(ready.base.tree / title if ready.base else self._content.path(blob.digest))

    def _tagged(self, volume: WritableVolume, pushes: PushClient, composed: Composed, sent: int) -> WrittenBack:
        manifest, tag = composed.manifest, _tag(volume)
        with self._turn(volume.reference):
            is_moved = pushes.move_tag(tag, manifest.content, manifest.media_type, volume.tag_meant)
        if not is_moved:
            tag = _second(tag, manifest)
            if not pushes.move_tag(tag, manifest.content, manifest.media_type, None):
                subject = pushes.repository.at(tag)
                raise PushRefusedError(subject, "is taken, as is the tag that it stands in for", "remove that tag")
        reference = Reference(repository=volume.reference.repository, tag=tag, digest=manifest.digest)
        return WrittenBack(reference=reference, sent=sent, is_second=not is_moved)

    def _turn(self, reference: Reference) -> threading.Lock:
        with self._lock:
            return self._turns.setdefault(reference, threading.Lock())


def _there(base: FoundBase | None, pushes: PushClient) -> frozenset[Digest]:
    """Return the layers of a base that the repository has: a manifest that is there keeps its blobs from collection."""
    if base is None or base.repository != pushes.repository:
        return frozenset()
    digest = base.base.artifact
    return base.digests if pushes.tag_digest(str(digest)) == digest else frozenset()


@contextmanager
def _kept_credential() -> Iterator[None]:
    """Say what helps when the credential of the publish is refused: another one reaches no volume that is captured."""
    try:
        yield
    except UnauthenticatedError as error:
        remedy = (
            "the credential is that of the publish, whatever becomes of the secret: have the registry take it again, "
            "and csi-oras outbox retry; or csi-oras outbox export --oci (or --written), and push that"
        )
        raise UnauthenticatedError(error.subject, error.cause, remedy) from error


@contextmanager
def opened_written(writing: Writing) -> Iterator[Volume]:
    """Open what a pod wrote in a with statement, without what is below, and whatever else is known of it."""
    subject = f"outbox entry {writing.directory.name}"
    with _directory(writing.upper, subject) as upper:
        yield Volume(upper=upper, subject=subject)


@contextmanager
def _opened(writing: Writing, volume: WritableVolume, base: FoundBase | None) -> Iterator[Volume]:
    subject = f"volume of {volume.reference}"
    with _directory(writing.upper, subject) as upper:
        if base is None:
            yield Volume(upper=upper, subject=subject)
            return
        with _directory(base.tree, subject) as tree:
            yield Volume(upper=upper, tree=tree, plan=base.plan, absent=base.absent, subject=subject)


@contextmanager
def _directory(path: Path, subject: str) -> Iterator[int]:
    with store_errors(subject):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _tag(volume: WritableVolume) -> str:
    return volume.reference.tag or "latest"


def _second(tag: str, manifest: NewManifest) -> str:
    """Return the tag of what lost a race, which says whose place it would have taken and what it is."""
    return f"{tag[: _LONGEST_TAG - _DIGITS - 1]}-{manifest.digest.encoded[:_DIGITS]}"


def _uncarriable(volume: WritableVolume, found: tuple[Uncarriable, ...]) -> UnsupportedContentError:
    return UnsupportedContentError(
        f"volume of {volume.reference}",
        described(found),
        "export the files; or leave these out with writeBackExclude the next time",
    )
