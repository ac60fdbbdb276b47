"""Corruption: who is told of what has rotted in the store, whoever found it.

The log, a metric, and each pod that still shows it. After a start they are told again of what is still so. What nobody
shows any more is freed.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from csi_oras.errors import InvalidRequestError
from csi_oras.lazy.tree import LazyTree
from csi_oras.mount import fuse
from csi_oras.mount.target import canonical
from csi_oras.oci.digest import Digest
from csi_oras.store.catalogue import Catalogue
from csi_oras.store.quarantine import Corruption, Quarantine
from csi_oras.store.volumes import VolumeRecord, VolumeRecords
from csi_oras.telemetry.events import Pod
from csi_oras.telemetry.logs import logger
from csi_oras.telemetry.metrics import Metrics
from csi_oras.volume.adopt import shown_quarantined
from csi_oras.volume.notices import Notices

_POD = re.compile(r"/pods/([^/]+)/volumes/")
"""Where the kubelet's targets have the uid of their pod."""


class CorruptionReports:
    """Tells of what is in the quarantine, once each."""

    def __init__(
        self,
        *,
        quarantine: Quarantine,
        catalogue: Catalogue,
        records: VolumeRecords,
        kubelet_dir: Path,
        trees: Path,
        replace: Callable[[Digest], set[str]],
        notices: Notices,
        metrics: Metrics,
    ) -> None:
        """Have `replace` take what has rotted from under lazy volumes; it returns the names of their trees."""
        self._quarantine = quarantine
        self._catalogue = catalogue
        self._records = records
        self._kubelet_dir = kubelet_dir
        self._trees = trees
        self._replace = replace
        self._notices = notices
        self._metrics = metrics
        self._told: set[str] = set()

    def look(self) -> None:
        """Tell of what is new in the quarantine, and free what nobody shows any more.

        Raises:
            NoSpaceError, StoreBrokenError: the store fails.
        """
        if self._quarantine.found(self._told):
            self._quarantine.finish()  # whoever found it may have been killed before its trees were out of the store
        for corruption in self._quarantine.found(self._told):
            self._tell(corruption)
            self._told.add(corruption.name)
        self._quarantine.sweep(lambda: shown_quarantined(self._trees))

    def _tell(self, corruption: Corruption) -> None:
        volumes = list(self._volumes(corruption))
        logger.error(
            "content of the store was corrupt and is set aside: the next volume fetches it again",
            kind=corruption.kind,
            digest=str(corruption.digest),
            artifacts=self._catalogue.owners(corruption.digest, corruption.trees.values()),
            volumes=[volume.volume_id for volume in volumes],
        )
        self._metrics.observe_corruption(corruption.kind)
        for volume in volumes:
            self._notices.corrupt(_pod(volume), volume.reference, str(corruption.digest))

    def tell_poisoned(self, tree: LazyTree, digest: Digest) -> None:
        """Tell of a blob that turned out to be wrong when all of it was read, after pods had read some."""
        mounted = {mount.target for mount in fuse.mounts() if mount.tree == tree.artifact.tree}
        volumes = list(self._mounted_at(mounted))
        reference = str(tree.artifact.reference)
        logger.error(
            "a registry sent other bytes than a manifest names: reads of them fail from now on",
            reference=reference,
            digest=str(digest),
            volumes=[volume.volume_id for volume in volumes],
        )
        self._metrics.verify_failures.inc()
        for volume in volumes:
            self._notices.poisoned(_pod(volume), reference, str(digest))

    def _volumes(self, corruption: Corruption) -> Iterator[VolumeRecord]:
        """Yield the records of volumes that still show something that has rotted, or have shown it lazily."""
        lazy = self._replace(corruption.digest) if corruption.kind == "blob" else set()
        if corruption.trees:
            mounted = shown_quarantined(self._trees)
            yield from self._mounted_at(set().union(*(mounted.get(tree, ()) for tree in corruption.trees)))
        if lazy:
            yield from self._mounted_at({mount.target for mount in fuse.mounts() if mount.tree in lazy})

    def _mounted_at(self, places: Iterable[str]) -> Iterator[VolumeRecord]:
        targets = set()
        for target in places:
            try:
                targets.add(canonical(target, self._kubelet_dir))
            except InvalidRequestError:  # a person's mount, or one of another namespace
                continue
        yield from (record for record in self._records.all() if record.target in targets)


def _pod(volume: VolumeRecord) -> Pod | None:
    """Return the pod of a volume, as far as its record and its target name it."""
    namespace, _, name = volume.pod.rpartition("/")
    uid = _POD.search(volume.target)
    return Pod.find(name, namespace, uid[1]) if uid else None
