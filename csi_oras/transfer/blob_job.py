"""The job of one blob: who wants it, how much, and what of it can be read while it comes."""

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

from csi_oras.oci.descriptor import Descriptor
from csi_oras.telemetry.progress import Counter
from csi_oras.transfer.demand import Demand
from csi_oras.transfer.ranges import RangedFetch

if TYPE_CHECKING:
    from csi_oras.transfer.asker import Asker


class BlobJob:
    """A blob that is being fetched for all who want it from one source with one credential."""

    def __init__(self, blob: Descriptor, source: str, holder: str) -> None:
        self.blob = blob
        # the size, too: of two manifests of a repository, one may be wrong about it
        self.ingest = (source, blob.digest, blob.size)
        """What it fetches into: one job at a time has it."""
        self.key = (holder, *self.ingest)
        self.counter = Counter(blob.size)
        self.askers: dict[Asker, Future[bool]] = {}
        self.is_begun = False
        self.is_read = False
        """Whether somebody reads it while it comes."""
        self.comes_whole = False
        """Whether it comes in one stream, of which nothing is shown before its end."""
        self.over: Future[bool] = Future()
        """How it ended, for others than those who asked."""
        self.rivals: list[BlobJob] = []
        """Those that wait for the same ingest with another credential."""
        self._opened = threading.Condition()
        self._ranged: RangedFetch | None = None

    def demand(self) -> Demand:
        """Return how much those want it who want it most."""
        own = max((asker.demand() for asker in tuple(self.askers)), default=Demand.NONE)
        return max([own, *(rival.demand() for rival in tuple(self.rivals))]) if own else own

    def open(self, ranged: RangedFetch) -> None:
        """Let those in who read it."""
        with self._opened:
            self._ranged = ranged
            self._opened.notify_all()

    def wait_opened(self, timeout: float) -> RangedFetch | None:
        """Return what may be read by now, or within `timeout` seconds, if there is anything."""
        with self._opened:
            self._opened.wait_for(lambda: self._ranged, timeout)
            return self._ranged
