"""Volumes: publish, unpublish and statistics of what is shown to pods.

A publish has two short halves, `begin` and `finish`, with the pull between them; no lock is held across the
network. The record is written before the mount and dropped after the unmount, so a crash leaves at most a
record without a mount, never a mount that nobody knows of.
"""

import os
import stat
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from csi_oras.errors import (
    InvalidRequestError,
    NoSpaceError,
    UnauthenticatedError,
    VolumeBusyError,
    VolumeConflictError,
    VolumeNotFoundError,
    printable,
)
from csi_oras.mount.bind import bind, unbind
from csi_oras.mount.target import Target, canonical
from csi_oras.oci.platform import Platform
from csi_oras.registry.keychain import Keychain
from csi_oras.store.volumes import VolumeRecord, VolumeRecords, VolumeState
from csi_oras.telemetry.logs import logger
from csi_oras.transfer.jobs import Job
from csi_oras.transfer.pull import Puller
from csi_oras.transfer.request import PulledArtifact, PullRequest
from csi_oras.volume.adopt import mounts_at, tree_size
from csi_oras.volume.locks import KeyedLocks
from csi_oras.volume.notices import Notices
from csi_oras.volume.request import PublishRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeStatistics:
    """Bytes and files that a volume shows."""

    size: int
    files: int


class Volumes:
    """The volumes of this node."""

    def __init__(
        self,
        *,
        records: VolumeRecords,
        puller: Puller,
        keychain: Keychain,
        kubelet_dir: Path,
        trees: Path,
        platform: Platform,
        locks: KeyedLocks,
        notices: Notices,
    ) -> None:
        self._records = records
        self._keychain = keychain
        self._puller = puller
        self._kubelet_dir = kubelet_dir
        self._trees = trees
        self._platform = platform
        self._locks = locks
        self._notices = notices

    def begin(self, request: PublishRequest) -> Job[PulledArtifact] | None:
        """Publish at once what is local or already mounted, and return None; else return the pull to wait for.

        Raises:
            RequestError: the target or the request cannot be served.
            UnobtainableError, UnacceptableError: the artifact cannot be had, which is known without a pull.
        """
        request = self._canonical(request)
        with self._locks.hold(request.target), self._open(request.target) as target:
            if self._is_published(request, target):
                return None
            wanted = self._pull_request(request)
            artifact = self._puller.find(wanted)
            if artifact and self._is_shown(request, target, artifact):
                return None
            self._records.put(request.record(VolumeState.PUBLISHING))
            job = self._puller.start(wanted, (request.volume_id, request.target))
        self._notices.pulling(request.owner, wanted.reference, job.progress)
        return job

    def finish(self, request: PublishRequest, artifact: PulledArtifact) -> Job[PulledArtifact] | None:
        """Mount what was pulled, unless the volume was unpublished in the meantime, and return None.

        Where it was collected in the meantime, return the pull to wait for.

        Raises:
            VolumeBusyError: it was, or is wanted in another way by now.
            StoreBrokenError: the mount fails; nothing is left of it.
        """
        request = self._canonical(request)
        with self._locks.hold(request.target), self._open(request.target) as target:
            if self._is_published(request, target):
                return None
            record = self._records.get(request.volume_id, request.target)
            if record is None or record.fingerprint != request.fingerprint:
                raise VolumeBusyError(f"volume {_short(request.volume_id)}", "was unpublished during the pull")
            if self._is_shown(request, target, artifact):
                return None
            self._records.put(request.record(VolumeState.PUBLISHING))
            return self._puller.start(self._pull_request(request), (request.volume_id, request.target))

    def abandon(self, request: PublishRequest) -> None:
        """Forget a publish whose pull failed."""
        request = self._canonical(request)
        with self._locks.hold(request.target):
            record = self._records.get(request.volume_id, request.target)
            if record and record.state is VolumeState.PUBLISHING and record.fingerprint == request.fingerprint:
                self._records.drop(request.volume_id, request.target)

    def unpublish(self, volume_id: str, path: str) -> None:
        """Take a volume away with its target, and want its pull no more; one that is unknown or gone is no error.

        Raises:
            InvalidRequestError: the path is not below the kubelet directory.
            VolumeBusyError: it cannot be taken away yet.
        """
        path = canonical(path, self._kubelet_dir)
        with self._locks.hold(path):
            self._puller.jobs.leave((volume_id, path))
            record = self._records.get(volume_id, path)
            target = Target.open(path, self._kubelet_dir)
            if target:
                with target:
                    self._take_away(target, record)
            if record:
                self._forget(record)
                _log("unpublished", record)

    def _forget(self, record: VolumeRecord) -> None:
        """Drop the record of what is gone; a full disk keeps no pod from going, which is how it gets room."""
        try:
            self._records.drop(record.volume_id, record.target)
        except NoSpaceError as error:
            logger.warning("the record of a volume stays until the next start", cause=error.message)

    def statistics(self, volume_id: str, path: str) -> VolumeStatistics:
        """Return what a published volume shows.

        Raises:
            VolumeNotFoundError: there is no such volume at that path.
        """
        with suppress(InvalidRequestError):  # nothing is ever published elsewhere
            path = canonical(path, self._kubelet_dir)
        record = self._records.get(volume_id, path)
        target = Target.open(path, self._kubelet_dir) if record and record.state is VolumeState.PUBLISHED else None
        if record and target:
            with target:
                if target.is_mounted():
                    return VolumeStatistics(size=record.size, files=record.files)
        raise VolumeNotFoundError(f"volume {_short(volume_id)}", f"is not published at {printable(path, 300)}")

    def _pull_request(self, request: PublishRequest) -> PullRequest:
        attributes = request.attributes
        reference = attributes.reference
        try:
            found = self._keychain.of_volume(request.secret, request.tokens, reference.repository)
        except UnauthenticatedError as error:
            raise error.about(f"{reference}: {error.subject}") from error
        return PullRequest(
            reference=reference,
            platform=attributes.platform or self._platform,
            selection=attributes.selection,
            policy=attributes.pull_policy,
            credential=found.credential,
            tried=found.tried,
        )

    def _is_published(self, request: PublishRequest, target: Target) -> bool:
        """Say whether the volume is there as asked; a mount whose record is lost is adopted.

        Raises:
            VolumeConflictError: another volume is there, or this one as it was asked for in another way.
        """
        target.exists()
        if not target.is_mounted():
            return False
        record = self._records.get(request.volume_id, request.target)
        # an intent is no record of what is mounted, nor does what a start has found say how it was asked for
        if record is None or record.state is not VolumeState.PUBLISHED or not record.fingerprint:
            return self._is_adopted(request, target)
        if record.fingerprint != request.fingerprint:
            where = printable(target.path, 300)
            cause = f"is published at {where} with other attributes"
            raise VolumeConflictError(f"volume {_short(request.volume_id)}", cause, "unpublish it first")
        return True

    def _is_adopted(self, request: PublishRequest, target: Target) -> bool:
        """Record a mount of ours as what is asked for (ADR 14); one that shows nothing any more goes."""
        shown = next(reversed(mounts_at(target.path, self._trees)), None)
        others = self._records.others_at(request.volume_id, request.target)
        if others or shown is None:
            self._records.drop(request.volume_id, request.target)  # the intent: this answer is a final one
            raise VolumeConflictError(
                f"target {printable(target.path, 300)}",
                f"holds volume {_short(others[0])}" if others else "has a mount that is not of this driver",
                "unpublish that one first" if others else "unmount it first",
            )
        if shown.is_deleted:
            logger.warning("takes away a mount whose tree was deleted", volume_id=request.volume_id, plan=shown.plan)
            unbind(target)
            return False
        size, files = tree_size(Path(target.path))
        self._records.put(replace(request.record(VolumeState.PUBLISHED), plan=shown.plan, size=size, files=files))
        logger.warning("adopted a mount whose record was lost", volume_id=request.volume_id, plan=shown.plan)
        return True

    def _is_shown(self, request: PublishRequest, target: Target, artifact: PulledArtifact) -> bool:
        """Record and mount the artifact; False if it was collected before the record could keep it."""
        record = request.record(VolumeState.PUBLISHED, artifact)
        self._records.put(record)
        try:
            kind = os.stat(artifact.path).st_mode  # noqa: PTH116 (it is asked for each volume)
        except FileNotFoundError:
            self._records.drop(request.volume_id, request.target)
            return False
        created = False
        try:
            created = target.create(directory=stat.S_ISDIR(kind))
            bind(artifact.path, target, noexec=request.attributes.noexec)
        except BaseException:
            if created:
                target.remove()
            self._records.drop(request.volume_id, request.target)
            raise
        _log("published", record)
        self._notices.shown(request.owner, artifact)
        return True

    def _take_away(self, target: Target, record: VolumeRecord | None) -> None:
        """Unmount what is stacked on a target of ours, and remove it.

        Raises:
            VolumeBusyError: something is mounted that is not of this driver. To leave it and say that all is gone
                would be a lie, upon which the kubelet or a person goes on to delete what is there.
        """
        is_ours = record is not None and record.state is VolumeState.PUBLISHED
        if not is_ours and target.is_mounted() and not any(mounts_at(target.path, self._trees)):
            where, cause = f"target {printable(target.path, 300)}", "has a mount that is not of this driver"
            raise VolumeBusyError(where, cause, "unmount it, and it is tried again")
        unbind(target)
        try:
            target.remove()
        except VolumeBusyError as error:
            if is_ours:
                raise
            logger.warning("left a target alone that is not of this driver", cause=error.message)

    def _canonical(self, request: PublishRequest) -> PublishRequest:
        return replace(request, target=canonical(request.target, self._kubelet_dir))

    def _open(self, path: str) -> Target:
        target = Target.open(path, self._kubelet_dir)
        if target is None:
            raise InvalidRequestError(f"path {printable(path, 300)}", "has no parent directory", "create it first")
        return target


def _log(event: str, record: VolumeRecord) -> None:
    logger.info(
        event,
        volume_id=record.volume_id,
        pod=record.pod,
        reference=record.reference,
        bytes=record.size,
        files=record.files,
    )


def _short(volume_id: str) -> str:
    return printable(volume_id, 130)
