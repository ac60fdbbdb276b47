"""Notices: what a pod's events say of its volumes.

Several pods may wait for one pull; each is told for its own volume. What was local is not worth an event, but an
artifact that node policy wants signed and lets through without is one each time, and one that rots while a pod has it.
"""

from concurrent.futures import Future

from csi_oras.oci.reference import Reference
from csi_oras.telemetry.events import Events, Pod, Reason
from csi_oras.telemetry.logs import logger
from csi_oras.telemetry.progress import Progress, human_size
from csi_oras.transfer.request import PulledArtifact


class Notices:
    """Tells pods of pulls and of warnings."""

    def __init__(self, events: Events) -> None:
        self._events = events

    def pulling(self, pod: Pod | None, reference: Reference, progress: Progress) -> None:
        """Say that a pull has begun as soon as it has; a look at the registry alone is none."""
        name = str(reference)

        def tell(begun: Future[str]) -> None:
            if cause := begun.result():
                self.not_lazy(pod, reference, cause)
            self._events.emit(pod, Reason.PULLING, name, f"Pulling artifact {name}")

        progress.begun.add_done_callback(tell)

    def slow(self, pod: Pod | None, reference: Reference, progress: Progress) -> None:
        """Say how far a pull is that takes long."""
        name = str(reference)
        self._events.emit(pod, Reason.SLOW, name, f"Still pulling artifact {name}: {progress.describe()}")

    def shown(self, pod: Pod | None, artifact: PulledArtifact) -> None:
        """Say what the pod sees now, if it had to be pulled, and what it was warned of."""
        name = str(artifact.reference)
        if artifact.pull_seconds is not None:
            size, fetched = human_size(artifact.size), human_size(artifact.fetched)
            text = f"{size} in {artifact.pull_seconds:.2f} s, {fetched} fetched"
            self._events.emit(pod, Reason.PULLED, name, f"Pulled artifact {name}: {text}")
        if artifact.warnings:
            text = f"Let through with a warning, as node policy says: {'; '.join(artifact.warnings)}"
            self._events.emit(pod, Reason.NOT_VERIFIED, name, text)

    def not_lazy(self, pod: Pod | None, reference: Reference, cause: str) -> None:
        """Say that a volume is pulled whole that was to be read while it comes."""
        name = str(reference)
        logger.warning("a lazy volume is pulled whole", reference=name, cause=cause)
        self._events.emit(pod, Reason.NOT_LAZY, name, f"Pulling artifact {name} whole: {cause}")

    def corrupt(self, pod: Pod | None, reference: str, digest: str) -> None:
        """Say that the disk has changed what the pod sees."""
        cause = f"The node's disk has corrupted artifact {reference} ({digest}) under this pod"
        self._events.emit(pod, Reason.CORRUPT, digest, f"{cause}; delete the pod to get it whole")

    def poisoned(self, pod: Pod | None, reference: str, digest: str) -> None:
        """Say that what the pod reads while it comes is not what the manifest says."""
        cause = f"The registry sent other bytes than artifact {reference} names ({digest}), as the whole blob shows"
        self._events.emit(pod, Reason.CORRUPT, digest, f"{cause}; every read of it fails from now on")
