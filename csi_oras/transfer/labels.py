"""Labels: what the prefetch list keeps on this node, said on its Node object, for a scheduler to go by.

A label has the name of a reference and the beginning of the digest that it means here. No other labels are touched.
"""

import hashlib
import re
import time
from collections.abc import Callable, Mapping

from csi_oras.oci.reference import Reference
from csi_oras.store.catalogue import Catalogue
from csi_oras.store.wishes import WishRecord, WishRecords
from csi_oras.telemetry.logs import logger
from csi_oras.telemetry.metrics import EventOutcome

PREFIX = "prefetch.csi.oras.land"
MOST_LABELS = 100
"""A Node object is read by everybody, and often."""
TICK_SECONDS = 5.0
_AGAIN_SECONDS = 600.0
"""How often the labels are set though nothing has changed here, for others may have removed them."""
_REST_SECONDS = 30.0
_LONGEST_NAME, _HASH, _DIGEST = 63, 12, 12
_PLAIN = re.compile(r"[a-z0-9.-]+(/[a-z0-9.-]+)+:[A-Za-z0-9.-]*[A-Za-z0-9]")

Apply = Callable[[str, Mapping[str, str]], tuple[EventOutcome, str]]
"""Sets all labels under a prefix, and says what became of it and why."""


def label_of(reference: Reference) -> str:
    """Return the label of a reference: `ghcr.io/acme/llama:v3` is `prefetch.csi.oras.land/ghcr.io_acme_llama_v3`.

    What does not fit, or could be read in two ways (with a port, a digest or a `_`), ends with a dot and a hash of it.
    """
    text = str(reference)
    name = re.sub(r"[^A-Za-z0-9.-]", "_", text)
    if len(name) > _LONGEST_NAME or not _PLAIN.fullmatch(text):
        digest = hashlib.sha256(text.encode()).hexdigest()[:_HASH]
        name = f"{name[: _LONGEST_NAME - _HASH - 1].strip('_.-')}.{digest}"
    return f"{PREFIX}/{name}"


class NodeLabels:
    """Keeps the labels of this node as the records say."""

    def __init__(
        self, records: WishRecords, catalogue: Catalogue, apply: Apply, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._records = records
        self._catalogue = catalogue
        self._apply = apply
        self._clock = clock
        self._set: dict[str, str] | None = None
        self._again = 0.0
        self._cause = ""

    def sync(self) -> None:
        """Set the labels if they have changed, or were not set for a while.

        Raises:
            StoreBrokenError: the records cannot be read.
        """
        wanted = self._wanted()
        if self._clock() < self._again and (wanted == self._set or self._set is None):
            return
        outcome, cause = self._apply(PREFIX, wanted)
        is_set = outcome is EventOutcome.SENT
        if not is_set and cause != self._cause:
            logger.warning("the labels of the node are not set, it is tried again", outcome=str(outcome), cause=cause)
        self._cause = "" if is_set else cause
        self._set = wanted if is_set else None
        self._again = self._clock() + (_AGAIN_SECONDS if is_set else _REST_SECONDS)

    def _wanted(self) -> dict[str, str]:
        kept = sorted((record for record in self._records.all() if record.digest), key=lambda kept: kept.reference)
        labels = dict(self._label(record) for record in kept)
        return dict(list(labels.items())[:MOST_LABELS])

    def _label(self, record: WishRecord) -> tuple[str, str]:
        reference = Reference.parse(record.reference)
        digest = self._catalogue.root(reference) or record.digest  # the root is what people know a tag by
        return label_of(reference), digest.encoded[:_DIGEST] if digest else ""
