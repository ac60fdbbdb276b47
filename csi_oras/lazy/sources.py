"""Sources: the job that brings the bytes of a lazy blob, which may be another's that has it already.

Of those who ask a repository for a blob with several credentials, one fetches it. The others read with him as soon as
each has read some of it with his own credential; what nobody has asked for by then, each asks for with his own.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future

from csi_oras.oci.descriptor import Descriptor
from csi_oras.transfer.asker import Asker
from csi_oras.transfer.blob_job import BlobJob
from csi_oras.transfer.blobs import BlobFetcher


class Sources:
    """Who brings one blob of one lazy tree."""

    def __init__(self, blob: Descriptor, fetcher: BlobFetcher, heed: Callable[[Future[bool]], None]) -> None:
        """Have `heed` told how jobs ended that were another's and whose bytes were shown."""
        self._blob = blob
        self._fetcher = fetcher
        self._heed = heed
        self._lock = threading.Lock()
        self._lender: BlobJob | None = None
        self._proof: tuple[str, Future[None]] | None = None
        """Who was the last to prove that he may read it, and how that went; no grant, since nothing is whole yet."""

    def find(self, asker: Asker, job: BlobJob) -> BlobJob:
        """Return the job that brings the blob: that of `asker`, or the one that his waits for, if he may read it.

        Raises:
            UnobtainableError: he may not.
        """
        lender = self._fetcher.lender(job)
        if lender is None:
            return job
        self._prove(asker)
        with self._lock:
            is_new, self._lender = lender is not self._lender, lender
        if is_new:
            lender.over.add_done_callback(self._heed)
        return lender

    def _prove(self, asker: Asker) -> None:
        """Prove access once for each credential; all who read meanwhile wait for the same proof."""
        with self._lock:
            holder, proof = self._proof or ("", None)
            if proof is None or holder != asker.holder or (proof.done() and proof.exception()):
                proof = self._fetcher.prove_coming(asker, self._blob)
                self._proof = asker.holder, proof
        proof.result()
