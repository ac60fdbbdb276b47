"""Volumes: publish, unpublish and statistics of what is shown to pods.

A publish has two short halves, `begin` and `finish`, with the pull between them; no lock is held across the
network. The record is written before the mount and dropped after the unmount, so a crash leaves at most a
record without a mount, never a mount that nobody knows of.
"""

import os
import stat
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from csi_oras.errors import (
    InvalidRequestError,
    NoSpaceError,
    StoreBrokenError,
    VolumeBusyError,
    VolumeConflictError,
    VolumeInUseError,
    VolumeNotFoundError,
    printable,
)
from csi_oras.mount import overlay
from csi_oras.mount.bind import bind, unbind
from csi_oras.mount.target import Target, canonical
from csi_oras.oci.digest import Digest
from csi_oras.store.volumes import VolumeRecord, VolumeRecords, VolumeState
from csi_oras.store.writable import key_of
from csi_oras.telemetry.logs import logger
from csi_oras.transfer.jobs import Job
from csi_oras.transfer.pull import Puller
from csi_oras.transfer.request import PulledArtifact, PullRequest
from csi_oras.volume.adopt import mounts_at, writable_at
from csi_oras.volume.adoption import Adoption
from csi_oras.volume.lazy import LazyVolumes
from csi_oras.volume.locks import KeyedLocks
from csi_oras.volume.notices import Notices
from csi_oras.volume.request import PublishRequest
from csi_oras.volume.wanted import Wanted
from csi_oras.volume.write_back import Prepared, WriteBack

Outcome = PulledArtifact | Prepared
Step = Job[PulledArtifact] | Future[Prepared]
"""What a publish waits for: a pull, or a registry's word that it will take what is written."""


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
        wanted: Wanted,
        kubelet_dir: Path,
        trees: Path,
        notices: Notices,
        write_back: WriteBack,
        lazy: LazyVolumes,
    ) -> None:
        self._records = records
        self._wanted = wanted
        self._puller = puller
        self._kubelet_dir = kubelet_dir
        self._trees = trees
        self.locks = KeyedLocks()
        self._notices = notices
        self._write_back = write_back
        self._lazy = lazy
        self._adoption = Adoption(records, trees, write_back, lazy)

    def begin(self, request: PublishRequest) -> Step | None:
        """Publish at once what is local or already mounted, and return None; else return what to wait for.

        Raises:
            RequestError: the target or the request cannot be served.
            UnobtainableError, UnacceptableError: the artifact cannot be had, which is known without a pull.
        """
        request = self._canonical(request)
        with self.locks.hold(request.target), self._open(request.target) as target:
            if self._is_published(request, target):
                return None
            self._check_alone(request)
            self._write_back.check(request)
            attributes = request.attributes
            artifact = None if attributes.starts_empty else self._puller.find(self._wanted.pull(request))
            step = self._go_on(request, target, artifact)
        if isinstance(step, Job):
            self._notices.pulling(request.owner, attributes.reference, step.progress)
        return step

    def finish(self, request: PublishRequest, outcome: Outcome) -> Step | None:
        """Mount what was waited for, unless the volume was unpublished in the meantime, and return None.

        Where something is missing still, or was collected in the meantime, return what to wait for.

        Raises:
            VolumeBusyError: it was, or is wanted in another way by now.
            StoreBrokenError: the mount fails; nothing is left of it.
        """
        request = self._canonical(request)
        with self.locks.hold(request.target), self._open(request.target) as target:
            if self._is_published(request, target):
                return None
            record = self._records.get(request.volume_id, request.target)
            if record is None or record.fingerprint != request.fingerprint:
                raise VolumeBusyError(f"volume {_short(request.volume_id)}", "was unpublished during the pull")
            return self._go_on(request, target, outcome)

    def _go_on(self, request: PublishRequest, target: Target, outcome: Outcome | None) -> Step | None:
        """Mount what is ready, or record the intent and return what is to come first."""
        asks = request.attributes.write_back is not None and not isinstance(outcome, Prepared)
        if outcome and not asks and self._is_shown(request, target, outcome):
            return None
        self._records.put(request.record(VolumeState.PUBLISHING))
        if asks and (outcome is None) == request.attributes.starts_empty:
            return self._write_back.ask(request, outcome if isinstance(outcome, PulledArtifact) else None)
        return self._puller.start(self._pull_request(request), (request.volume_id, request.target))

    def abandon(self, request: PublishRequest) -> None:
        """Forget a publish whose pull failed."""
        request = self._canonical(request)
        with self.locks.hold(request.target):
            record = self._records.get(request.volume_id, request.target)
            if record and record.state is VolumeState.PUBLISHING and record.fingerprint == request.fingerprint:
                self._records.drop(request.volume_id, request.target)

    def unpublish(self, volume_id: str, path: str) -> Future[Digest] | None:
        """Take a volume away with its target, and want its pull no more; one that is unknown or gone is no error.

        What was written is in the outbox then, and the push that begins is returned.

        Raises:
            InvalidRequestError: the path is not below the kubelet directory.
            VolumeBusyError: it cannot be taken away yet.
        """
        path = canonical(path, self._kubelet_dir)
        with self.locks.hold(path):
            self._puller.jobs.leave((volume_id, path))
            record = self._records.get(volume_id, path)
            target = Target.open(path, self._kubelet_dir)
            if target is None:
                pushed = self._write_back.capture(volume_id, path)
            else:
                with target:
                    pushed = self._take_away(target, volume_id, record)
            if record:
                self._forget(record)
                _log("unpublished", record)
        return pushed

    def _forget(self, record: VolumeRecord) -> None:
        """Drop the record of what is gone; a full or broken disk keeps no pod from going."""
        try:
            self._records.drop(record.volume_id, record.target)
        except (NoSpaceError, StoreBrokenError) as error:
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
                    size, files = self._write_back.written(volume_id, path)
                    return VolumeStatistics(size=record.size + size, files=record.files + files)
        raise VolumeNotFoundError(f"volume {_short(volume_id)}", f"is not published at {printable(path, 300)}")

    def _pull_request(self, request: PublishRequest) -> PullRequest:
        lazy = request.attributes.lazy
        if lazy and (cause := self._lazy.hindrance()):
            self._notices.not_lazy(request.owner, request.attributes.reference, cause)
            lazy = False
        return self._wanted.pull(request, lazy=lazy)

    def _is_published(self, request: PublishRequest, target: Target) -> bool:
        """Say whether the volume is there as asked; a mount whose record is lost is adopted.

        Raises:
            VolumeConflictError: another volume is there, or this one as it was asked for in another way.
        """
        if not target.is_mounted():
            target.exists()
            return False
        record = self._records.get(request.volume_id, request.target)
        # an intent is no record of what is mounted, nor does what a start has found say how it was asked for
        if record is None or record.state is not VolumeState.PUBLISHED or not record.fingerprint:
            return self._adoption.adopt(request, target)
        if record.fingerprint != request.fingerprint:
            where = printable(target.path, 300)
            cause = f"is published at {where} with other attributes"
            raise VolumeConflictError(f"volume {_short(request.volume_id)}", cause, "unpublish it first")
        if self._lazy.is_at(target) and not self._lazy.renew(target, self._wanted.pull(request).credential):
            return self._adoption.adopt(request, target)  # which takes away what is dead
        return True

    def _check_alone(self, request: PublishRequest) -> None:
        others = self._records.elsewhere(request.volume_id, request.target) if request.is_exclusive else []
        if others:
            cause = f"is for one pod alone, and published at {printable(others[0], 300)}"
            raise VolumeInUseError(f"volume {_short(request.volume_id)}", cause, "delete the other pod")

    def _is_shown(self, request: PublishRequest, target: Target, outcome: Outcome) -> bool:
        """Record and mount the artifact; False if it was collected before the record could keep it."""
        artifact = outcome.artifact if isinstance(outcome, Prepared) else outcome
        record = request.record(VolumeState.PUBLISHED, artifact)
        self._records.put(record)
        is_directory = _is_directory(artifact)
        if is_directory is None:
            self._records.drop(request.volume_id, request.target)
            return False
        created = False
        try:
            if isinstance(outcome, Prepared):
                created = target.create(directory=True)
                self._write_back.attach(request, outcome, target)
            else:
                created = target.create(directory=is_directory)
                self._show(request, outcome, target)
        except BaseException:
            if created:
                target.remove()
            self._records.drop(request.volume_id, request.target)
            raise
        _log("published", record)
        if artifact:
            self._notices.shown(request.owner, artifact)
        return True

    def _show(self, request: PublishRequest, artifact: PulledArtifact, target: Target) -> None:
        noexec = request.attributes.noexec
        if artifact.lazy:
            self._lazy.attach(artifact.lazy, self._wanted.pull(request).credential, target, noexec=noexec)
        else:
            bind(artifact.path, target, noexec=noexec)

    def _take_away(self, target: Target, volume_id: str, record: VolumeRecord | None) -> Future[Digest] | None:
        """Unmount what is stacked on a target of ours, keep what was written, and remove the target.

        Raises:
            VolumeBusyError: something is mounted that is not of this driver. To leave it and say that all is gone
                would be a lie, upon which the kubelet or a person goes on to delete what is there.
        """
        path = canonical(target.path, self._kubelet_dir)
        written = writable_at(target.path)
        is_ours = record is not None and record.state is VolumeState.PUBLISHED
        is_lazy = self._lazy.is_at(target)
        if written and written != key_of(volume_id, path):
            raise VolumeBusyError(f"target {printable(target.path, 300)}", "holds another volume, which is written to")
        if not (is_ours or written or is_lazy) and self._is_foreign(target):
            where, cause = f"target {printable(target.path, 300)}", "has a mount that is not of this driver"
            raise VolumeBusyError(where, cause, "unmount it, and it is tried again")
        if is_lazy:
            self._lazy.detach(target)
        else:
            (overlay.detach if written else unbind)(target)
        pushed = self._write_back.capture(volume_id, path)
        try:
            target.remove()
        except VolumeBusyError as error:
            if is_ours or written:
                raise
            logger.warning("left a target alone that is not of this driver", cause=error.message)
        return pushed

    def _is_foreign(self, target: Target) -> bool:
        return target.is_mounted() and not any(mounts_at(target.path, self._trees))

    def _canonical(self, request: PublishRequest) -> PublishRequest:
        return replace(request, target=canonical(request.target, self._kubelet_dir))

    def _open(self, path: str) -> Target:
        target = Target.open(path, self._kubelet_dir)
        if target is None:
            raise InvalidRequestError(f"path {printable(path, 300)}", "has no parent directory", "create it first")
        return target


def _is_directory(artifact: PulledArtifact | None) -> bool | None:
    """Say whether a volume is a directory and no file; None if what it would show was collected."""
    if artifact is None:
        return True
    if artifact.lazy:
        return not artifact.lazy.plan.single
    try:
        return stat.S_ISDIR(os.stat(artifact.path).st_mode)  # noqa: PTH116 (it is asked for each volume)
    except FileNotFoundError:
        return None


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
