"""Adoption: a mount of ours without a record becomes the volume that is asked for at its target (ADR 14)."""

from dataclasses import replace
from pathlib import Path

from csi_oras.errors import VolumeConflictError, printable
from csi_oras.mount.bind import unbind
from csi_oras.mount.target import Target
from csi_oras.store.volumes import VolumeRecords, VolumeState
from csi_oras.store.writable import key_of
from csi_oras.telemetry.logs import logger
from csi_oras.volume.adopt import mounts_at, tree_size, writable_at
from csi_oras.volume.lazy import LazyVolumes
from csi_oras.volume.request import PublishRequest
from csi_oras.volume.write_back import WriteBack


class Adoption:
    """Adopts what is mounted, or says why not."""

    def __init__(self, records: VolumeRecords, trees: Path, write_back: WriteBack, lazy: LazyVolumes) -> None:
        self._records = records
        self._trees = trees
        self._write_back = write_back
        self._lazy = lazy

    def adopt(self, request: PublishRequest, target: Target) -> bool:
        """Record what is mounted as what is asked for, and say whether it is; what shows nothing any more goes.

        Raises:
            VolumeConflictError: it is another volume's, or not of this driver.
        """
        if self._adopts_writable(request, target):
            return True
        others = self._records.others_at(request.volume_id, request.target)
        if not others and self._lazy.is_at(target):
            return self._adopts_lazy(request, target)
        shown = next(reversed(mounts_at(target.path, self._trees)), None)
        if others or shown is None:
            self._records.drop(request.volume_id, request.target)  # the intent: this answer is a final one
            raise VolumeConflictError(
                f"target {printable(target.path, 300)}",
                f"holds volume {printable(others[0], 130)}" if others else "has a mount that is not of this driver",
                "unpublish that one first" if others else "unmount it first",
            )
        if shown.is_deleted:
            logger.warning("takes away a mount whose tree was deleted", volume_id=request.volume_id, plan=shown.plan)
            unbind(target)
            return False
        size, files = tree_size(Path(target.path))
        self._records.put(replace(request.record(VolumeState.PUBLISHED), plan=shown.plan, size=size, files=files))
        _tell(request, shown.plan)
        return True

    def _adopts_lazy(self, request: PublishRequest, target: Target) -> bool:
        artifact = self._lazy.artifact_at(target)
        if artifact is None:
            logger.warning("takes away a lazy volume that is dead", volume_id=request.volume_id)
            self._lazy.detach(target)
            return False
        plan = artifact.plan
        record = replace(request.record(VolumeState.PUBLISHED), plan=str(plan.digest), artifact=str(artifact.artifact))
        self._records.put(replace(record, size=plan.size, files=len(plan.entries)))
        _tell(request, str(plan.digest))
        return True

    def _adopts_writable(self, request: PublishRequest, target: Target) -> bool:
        if writable_at(target.path) != key_of(request.volume_id, request.target):
            return False
        volume = self._write_back.asks_for(request)
        if volume is None:
            return False
        plan = volume.base.plan if volume.base else None
        size, files = tree_size(self._trees / plan.encoded) if plan else (0, 0)
        record = replace(request.record(VolumeState.PUBLISHED), plan=str(plan or ""), size=size, files=files)
        self._records.put(replace(record, artifact=str(volume.base.artifact) if volume.base else ""))
        _tell(request, str(plan or ""))
        return True


def _tell(request: PublishRequest, plan: str) -> None:
    logger.warning("adopted a mount whose record was lost", volume_id=request.volume_id, plan=plan)
