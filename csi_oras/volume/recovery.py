"""Recovery: what a start does with the records of the process before it."""

from pathlib import Path

from csi_oras.errors import InvalidRequestError, NoSpaceError
from csi_oras.mount.target import Target
from csi_oras.store.volumes import VolumeRecord, VolumeRecords, VolumeState
from csi_oras.telemetry.logs import logger
from csi_oras.volume.locks import KeyedLocks


class Recovery:
    """Finds the volumes of before, and drops the records of those that are no more."""

    def __init__(self, records: VolumeRecords, kubelet_dir: Path, locks: KeyedLocks) -> None:
        self._records = records
        self._kubelet_dir = kubelet_dir
        self._locks = locks

    def take_stock(self) -> list[VolumeRecord]:
        """Return the volumes that were published before this start, and drop intents: their pulls are dead.

        Call it before any publish: an intent that a new call has put may look the same as the old one.
        """
        found = self._records.all()
        try:
            for record in found:
                if record.state is VolumeState.PUBLISHING:
                    self._records.drop(record.volume_id, record.target)
        except NoSpaceError as error:  # they do no harm, and a start that makes room must not fail
            logger.warning("records of publishes that never ended stay until the next start", cause=error.message)
        return [record for record in found if record.state is VolumeState.PUBLISHED]

    def reconcile(self, published: list[VolumeRecord]) -> None:
        """Drop those of `published` whose mounts are gone; their pods are, or will ask again."""
        for record in published:
            with self._locks.hold(record.target):
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
