"""Volumes that are written back: what has to be known before a pod may write, and what becomes of what it wrote.

Whatever would stop a push in the end is asked before the pod begins. What it wrote is taken into the outbox when
nothing shows it any more, and never thrown away: not when the database is lost, nor the node is rebooted, nor the
volume is asked for again with another base.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from csi_oras.errors import (
    CsiOrasError,
    InvalidRequestError,
    NoSpaceError,
    StoreBrokenError,
    VolumeBusyError,
    VolumeNotFoundError,
    printable,
)
from csi_oras.mount import overlay
from csi_oras.mount.target import Target
from csi_oras.oci.digest import Digest
from csi_oras.oci.platform import Platform
from csi_oras.oci.reference import Reference
from csi_oras.policy.access import RepositoryRules
from csi_oras.policy.write_back import WriteBackRules
from csi_oras.registry import credentials
from csi_oras.registry.client import RepositoryClient
from csi_oras.registry.keychain import Keychain
from csi_oras.store.leases import Leases
from csi_oras.store.measure import measure
from csi_oras.store.outbox import OutboxEntry
from csi_oras.store.writable import Base, WritableVolume, WritableVolumes, Writing
from csi_oras.telemetry.logs import logger
from csi_oras.telemetry.secrets import Secret
from csi_oras.transfer.access import Access
from csi_oras.transfer.bases import check_carriable, pushed
from csi_oras.transfer.request import PulledArtifact
from csi_oras.transfer.turns import Turns
from csi_oras.volume.request import PublishRequest

_MOST_COUNTED = 100_000
"""Entries that statistics look at: a pod may have written millions, and the kubelet asks each minute."""

Push = Callable[[Writing], Future[Digest]]
"""Begins to push an entry of the outbox; the future has the digest of what was pushed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What is known when a pod may begin to write: what is below, what the tag means, and the credential to push by."""

    artifact: PulledArtifact | None
    tag_meant: Digest | None
    credential: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class PushRights:
    """Who may push where: node policy for repositories and for writing back, and what it is found out by."""

    repositories: Callable[[], RepositoryRules]
    rules: Callable[[], WriteBackRules]
    access: Access
    keychain: Keychain
    turns: Turns

    def check(self, request: PublishRequest) -> None:
        """Let a volume pass that node policy lets its pod write back.

        Raises:
            AccessDeniedError: it does not.
        """
        if request.attributes.write_back:
            reference = request.attributes.write_back.reference
            self.rules().check(request.owner.namespace if request.owner else "", reference)
            self.repositories().check(reference.repository)

    def ask(self, reference: Reference, request: PublishRequest, artifact: PulledArtifact | None) -> Future[Prepared]:
        """Ask the registry whether it will take the push, and what the tag means until then; None: nothing."""
        work = partial(self._ask, reference, request, artifact)
        return self.turns.submit(reference.repository.registry, (request.volume_id, request.target), work)

    def _ask(self, reference: Reference, request: PublishRequest, artifact: PulledArtifact | None) -> Prepared:
        def look(client: RepositoryClient) -> Digest | None:
            pushes = client.pushes()
            pushes.may_push()
            return pushes.tag_digest(reference.identifier)

        wanted = request.attributes.write_back
        if artifact and wanted:
            check_carriable(artifact, pushed(wanted.include, wanted.exclude))
        brought = self.keychain.of_volume(request.secret, request.tokens, reference.repository)
        return Prepared(
            artifact=artifact,
            tag_meant=self.access.use(reference.repository, brought, look),
            credential=credentials.to_text(brought.credential),
        )


class WriteBack:
    """The writable volumes of this node."""

    def __init__(
        self, volumes: WritableVolumes, rights: PushRights, leases: Leases, push: Push, platform: Platform
    ) -> None:
        self._volumes = volumes
        self._rights = rights
        self._leases = leases
        self._push = push
        self._platform = platform

    def check(self, request: PublishRequest) -> None:
        """Let a volume pass that is not to be written back, or may be by node policy.

        Raises:
            AccessDeniedError: it may not.
        """
        self._rights.check(request)

    def ask(self, request: PublishRequest, artifact: PulledArtifact | None) -> Future[Prepared]:
        """Ask the registry for all that has to be known before the pod may write above `artifact`, or from nothing."""
        return self._rights.ask(_reference(request), request, artifact)

    def attach(self, request: PublishRequest, prepared: Prepared, target: Target) -> None:
        """Show what is below and what is written above it; a volume that was interrupted goes on where it was.

        Raises:
            InvalidRequestError: what is below is a single file.
            NoSpaceError, StoreBrokenError: the store or the mount fails; nothing is left of it.
        """
        artifact = prepared.artifact
        if artifact and not artifact.path.is_dir():
            cause = "is a single file, which cannot be written back"
            raise InvalidRequestError(str(artifact.reference), cause, "name a directory as path, or leave it out")
        volume = self._volume(request, prepared)
        before = self.find(request.volume_id, request.target)
        if before and not _goes_on(before, volume):
            logger.warning("a volume begins anew, what was written before is pushed", volume_id=request.volume_id)
            self.capture(request.volume_id, request.target)
            before = None
        trees = [artifact.path] if artifact else []
        writing = self._volumes.make(volume, prepared.credential, *trees)
        lower, noexec = [writing.skeleton, *trees], request.attributes.noexec
        try:
            overlay.attach(lower, writing.upper, writing.work, target, noexec=noexec)
        except BaseException:
            if before is None:
                writing.remove()
            raise

    def _volume(self, request: PublishRequest, prepared: Prepared) -> WritableVolume:
        wanted, pod = request.attributes.write_back, request.owner
        return WritableVolume(
            volume_id=request.volume_id,
            target=request.target,
            reference=_reference(request),
            tag_meant=prepared.tag_meant,
            base=self._base(request, prepared.artifact) if prepared.artifact else None,
            include=wanted.include if wanted else (),
            exclude=wanted.exclude if wanted else (),
            namespace=pod.namespace if pod else "",
            pod=pod.name if pod else "",
            uid=pod.uid if pod else "",
        )

    def _base(self, request: PublishRequest, artifact: PulledArtifact) -> Base:
        return Base(
            reference=artifact.reference,
            artifact=artifact.artifact,
            plan=artifact.plan,
            platform=request.attributes.platform or self._platform,
            selection=request.attributes.selection,
        )

    def find(self, volume_id: str, target: str) -> Writing | None:
        """Return what a volume writes to, if it is there."""
        return self._volumes.find(volume_id, target)

    def asks_for(self, request: PublishRequest) -> WritableVolume | None:
        """Return what is known of the volume if it shows what is asked for, and becomes that."""
        writing = self.find(request.volume_id, request.target)
        wanted = request.attributes.write_back
        if writing is None or wanted is None:
            return None
        volume = writing.volume()
        below = volume.base and volume.base.reference.repository
        repository = None if wanted.starts_empty else request.attributes.reference.repository
        is_same = (volume.reference, below) == (wanted.reference, repository)
        return volume if is_same else None

    def capture(self, volume_id: str, target: str) -> Future[Digest] | None:
        """Take what a volume wrote into the outbox, once nothing shows it any more, and begin to push it.

        Raises:
            StoreBrokenError: the store fails; it is where it was.
        """
        writing = self.find(volume_id, target)
        if writing is None:
            return None
        if not any(writing.work.iterdir()):  # the kernel makes a directory there before anything can be written
            writing.remove()
            return None
        captured = self._volumes.capture(writing)
        self._hold(captured)
        logger.info("captured", volume_id=volume_id, entry=captured.directory.name)
        return self._push(captured)

    def _hold(self, captured: Writing) -> None:
        entry = OutboxEntry(captured)
        try:
            with suppress(VolumeBusyError, VolumeNotFoundError), entry.locked():  # else it is pushed already
                base = captured.volume().base
                self._leases.of_outbox(entry.id, (base.artifact, base.plan) if base else ())
        except (NoSpaceError, StoreBrokenError) as error:  # a full disk keeps no pod from going
            logger.warning("the base of what was captured may be collected", cause=error.message)

    def sweep(self) -> None:
        """Remove what a killed process has not made whole; call it before any publish."""
        self._volumes.sweep()

    def live(self) -> Iterator[WritableVolume]:
        """Yield what is known of each volume that nobody has captured, mounted or not."""
        for writing in self._volumes.live():
            try:
                yield writing.volume()
            except StoreBrokenError as error:
                logger.error("nothing tells what a volume is that was written, it stays", cause=error.message)

    def written(self, volume_id: str, target: str) -> tuple[int, int]:
        """Return the bytes and the number of files that a volume has written; of very many, what the first take."""
        writing = self.find(volume_id, target)
        try:
            return measure(writing.upper, _MOST_COUNTED) if writing else (0, 0)
        except OSError:  # it was captured meanwhile
            return 0, 0


def _reference(request: PublishRequest) -> Reference:
    if request.attributes.write_back is None:
        raise InvalidRequestError(printable(request.volume_id, 130), "is not to be written back")
    return request.attributes.write_back.reference


def _goes_on(before: Writing, volume: WritableVolume) -> bool:
    """Say whether a volume is what it was, so that what was written before fits what is below now."""
    try:
        known = before.volume()
    except CsiOrasError:
        return False
    plans = [base and base.plan for base in (known.base, volume.base)]
    return plans[0] == plans[1] and (known.reference, known.include, known.exclude) == (
        volume.reference, volume.include, volume.exclude,
    )  # fmt: skip
