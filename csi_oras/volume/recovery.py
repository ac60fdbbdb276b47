"""Recovery: what a start does with what the process before it has left, and what is looked after from then on.

Nothing is ever unmounted here: what is mounted may be in use, whatever is known or not known of it (ADR 20).
"""

import time
from collections.abc import Callable
from pathlib import Path

from csi_oras.errors import InvalidRequestError, NoSpaceError, printable
from csi_oras.mount.target import Target, canonical
from csi_oras.store.volumes import VolumeRecord, VolumeRecords, VolumeState
from csi_oras.store.writable import WritableVolume
from csi_oras.telemetry.logs import logger
from csi_oras.volume import kubelet_data
from csi_oras.volume.adopt import all_mounts, tree_size, writable_mounts
from csi_oras.volume.locks import KeyedLocks
from csi_oras.volume.write_back import WriteBack

_INTENT_SECONDS = 300.0
"""How long a publish may be left alone: a call waits 100 s, and the kubelet comes back 2 min 3 s after it."""
_SUBPATHS = "/volume-subpaths/"
"""Where the kubelet binds what pods want of a volume by `subPath`; it takes that away itself."""


class Recovery:
    """Finds the volumes of before, and drops the records of those that are no more."""

    def __init__(
        self,
        *,
        records: VolumeRecords,
        kubelet_dir: Path,
        trees: Path,
        driver_name: str,
        locks: KeyedLocks,
        leave: Callable[[tuple[str, str]], None],
        write_back: WriteBack,
    ) -> None:
        """`leave` is told of a volume id and target that no pull is for any more."""
        self._records = records
        self._kubelet_dir = kubelet_dir
        self._trees = trees
        self._driver_name = driver_name
        self._locks = locks
        self._leave = leave
        self._write_back = write_back

    def take_stock(self) -> None:
        """Drop the intents of before: their pulls are dead.

        Call it before any publish: an intent that a new call has put may look the same as the old one.
        """
        try:
            self._write_back.sweep()
            self._records.drop_intents(float("inf"))
        except NoSpaceError as error:  # they do no harm, and a start that makes room must not fail
            logger.warning("records of publishes that never ended stay for now", cause=error.message)

    def adopt(self) -> None:
        """Record again what is mounted and has no record, as far as the kubelet says which volume it is."""
        self._look_after_written()
        known = {record.target for record in self._records.all()}
        sizes: dict[str, tuple[int, int]] = {}
        for place, shown in all_mounts(self._trees).items():
            try:
                path = canonical(place, self._kubelet_dir)
            except InvalidRequestError:  # no volume of ours is ever there: it is a person's, or another namespace's
                continue
            if path in known or shown.is_deleted or _SUBPATHS in path:
                continue
            if shown.plan not in sizes:  # counted without a lock: a call waits for nothing of this
                sizes[shown.plan] = tree_size(Path(path))
            with self._locks.hold(path):
                self._adopt_at(path, shown.plan, sizes[shown.plan])

    def _adopt_at(self, path: str, plan: str, size: tuple[int, int]) -> None:
        target = Target.open(path, self._kubelet_dir)
        if target is None:
            return
        with target:
            volume_id = kubelet_data.volume_id(target, self._driver_name)
            if not target.is_mounted() or self._records.others_at("", path):  # a call was faster
                return
        if volume_id is None:
            logger.warning("nothing says which volume a mount is that has no record, it stays", target=printable(path))
            return
        self._records.put(
            VolumeRecord(
                volume_id=volume_id,
                target=path,
                state=VolumeState.PUBLISHED,
                fingerprint="",
                reference="",
                plan=plan,
                size=size[0],
                files=size[1],
            )
        )
        logger.warning("adopted a mount whose record was lost", volume_id=volume_id, plan=plan)

    def _look_after_written(self) -> None:
        """Keep what is below each volume that was written; one whose pod is gone, with its mount, is captured."""
        for volume in self._write_back.live():
            with self._locks.hold(volume.target):
                if self._write_back.find(volume.volume_id, volume.target) is None:  # a call was faster
                    continue
                if self._is_over(volume):
                    logger.warning("the pod of a volume is gone, what it wrote is captured", volume_id=volume.volume_id)
                    self._write_back.capture(volume.volume_id, volume.target)
                    self._records.drop(volume.volume_id, volume.target)
                elif self._records.get(volume.volume_id, volume.target) is None:
                    self._records.put(_record(volume))
                    logger.warning("the record of a written volume was lost", volume_id=volume.volume_id)

    def _is_over(self, volume: WritableVolume) -> bool:
        """Say whether nobody can write any more, nor will: nothing is mounted, and the pod's directory is gone."""
        if any(mount.key == volume.key for mount in writable_mounts()):
            return False
        try:
            target = Target.open(volume.target, self._kubelet_dir)
        except InvalidRequestError:  # the kubelet directory was another one
            return True
        if target is None:
            return True
        with target:
            return False

    def reconcile(self) -> None:
        """Drop the records of mounts that are gone, and of publishes that nobody asks for any more.

        Whoever wants such a volume asks again, and it is published anew.
        """
        self._look_after_written()
        for record in self._records.all():
            if record.state is VolumeState.PUBLISHED:
                self._drop_unless_mounted(record)
        for volume_id, target in self._records.drop_intents(time.time() - _INTENT_SECONDS):
            logger.info("nobody asks for a volume any more, its record goes", volume_id=volume_id)
            with self._locks.hold(target):
                if self._records.get(volume_id, target) is None:  # nor has a call that came just now
                    self._leave((volume_id, target))

    def _drop_unless_mounted(self, record: VolumeRecord) -> None:
        with self._locks.hold(record.target):
            if self._write_back.find(record.volume_id, record.target):  # its record goes with what it wrote
                return
            if self._records.get(record.volume_id, record.target) == record and not self._is_mounted(record.target):
                logger.info("volume is no longer mounted, its record goes", volume_id=record.volume_id)
                self._records.drop(record.volume_id, record.target)

    def _is_mounted(self, path: str) -> bool:
        try:
            target = Target.open(path, self._kubelet_dir)
        except InvalidRequestError:  # the kubelet directory was another one
            return False
        if target is None:
            return False
        with target:
            return target.is_mounted()


def _record(volume: WritableVolume) -> VolumeRecord:
    base = volume.base
    return VolumeRecord(
        volume_id=volume.volume_id,
        target=volume.target,
        state=VolumeState.PUBLISHED,
        fingerprint="",
        reference=str(base.reference if base else volume.reference),
        artifact=str(base.artifact) if base else "",
        plan=str(base.plan) if base else "",
        pod="/".join(filter(None, (volume.namespace, volume.pod))),
    )
