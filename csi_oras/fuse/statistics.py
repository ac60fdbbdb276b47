"""What was read, for the driver's metrics: it is told the growth, so that nothing is counted twice."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Statistics:
    """Reads and their bytes, those that waited for the driver and how long, those that read-ahead had announced."""

    reads: int = 0
    bytes: int = 0
    waits: int = 0
    wait_seconds: float = 0.0
    ahead_hits: int = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count a read that waits, and for how long."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.waits += 1
            self.wait_seconds += time.monotonic() - begun

    def message(self) -> dict[str, Any]:
        """Return what the driver is told."""
        return {
            "op": "stats",
            "reads": self.reads,
            "bytes": self.bytes,
            "waits": self.waits,
            "waitSeconds": round(self.wait_seconds, 6),
            "aheadHits": self.ahead_hits,
        }

    def forget(self) -> None:
        """Begin anew, after the driver was told."""
        self.reads = self.bytes = self.waits = self.ahead_hits = 0
        self.wait_seconds = 0.0
