"""Blobs: reads from what the driver called local, and waits for what it has not.

The invariant: no byte is read that the driver did not call local on that very file, and nobody gets fewer bytes than
he asked for. What was local stays so: once all of a blob is, the driver is asked nothing more about it.
"""

import os
from collections import OrderedDict
from collections.abc import Callable

import trio

from csi_oras.errors import CsiOrasError, DigestMismatchError, StoreBrokenError, UnobtainableError
from csi_oras.fuse.driver import Answer, Driver
from csi_oras.fuse.messages import Came
from csi_oras.fuse.opened import Means, Opened
from csi_oras.fuse.statistics import Statistics
from csi_oras.oci.digest import Digest
from csi_oras.telemetry.logs import logger

PATIENCE_SECONDS = 38.0
"""How long a read waits for its bytes: before a reader hears of an error the kernel asks up to three times, 120 s.

It begins anew whenever the driver says that they are still coming.
"""
_SOON_SECONDS = 0.1
"""How long bytes that were announced are given to come without being asked for, each time at the cost of an answer."""
_MOST_OPENED = 512
_MOST_ATTEMPTS = 4
"""How often the driver may show a file that turns out not to have the bytes, or is another one by then."""


class Blobs:
    """The blobs of one tree, as far as they are local."""

    def __init__(self, driver: Driver, statistics: Statistics, patience: float = PATIENCE_SECONDS) -> None:
        """Wait for what is not local for `patience` seconds."""
        self._driver = driver
        self._statistics = statistics
        self._patience = patience
        self._means = Means()
        self._opened: OrderedDict[Digest, Opened] = OrderedDict()
        self._poisoned: set[Digest] = set()
        self._failing: set[Digest] = set()

    async def read(self, blob: Digest, start: int, end: int) -> bytes | memoryview:
        """Return the bytes from `start` up to `end`, to be used before anything else is awaited.

        Raises:
            NoSpaceError: the node has no room for them.
            CsiOrasError: they cannot be had, or not now.
        """
        try:
            content = self._cached(blob, start, end) or await self._awaited(blob, start, end)
        except CsiOrasError as error:
            if blob not in self._failing:  # one line for all the reads until it can be read again
                self._failing.add(blob)
                logger.warning("cannot be read", cause=error.message)
            raise
        if self._failing and blob in self._failing:
            self._failing.remove(blob)
            logger.info("can be read again", blob=str(blob))
        return content

    def expect(self, blob: Digest, start: int, end: int) -> None:
        """Have the driver fetch bytes that will be read soon, if they are not known to be local."""
        opened = self._opened.get(blob)
        if blob not in self._poisoned and not (opened and opened.local.covers(start, end)):
            told = self._driver.tell({"op": "ahead", "blob": str(blob), "start": start, "end": end})
            if told and opened:
                opened.announced.add(start, end)

    def note(self, came: Came) -> None:
        """Take in what the driver says unasked; of a file that is not open, or another by now, it says nothing."""
        opened = self._opened.get(came.blob)
        if opened and opened.inode == came.inode:
            opened.add(came.start, came.end)

    def poison(self, blob: Digest) -> bool:
        """Show nothing of a blob any more; say whether that is new."""
        is_new = blob not in self._poisoned
        self._poisoned.add(blob)
        self.drop(blob)
        return is_new

    def drop(self, blob: Digest) -> None:
        """Read nothing more of the file that was a blob's, and ask for it anew."""
        if opened := self._opened.pop(blob, None):
            opened.close()

    def _cached(self, blob: Digest, start: int, end: int) -> memoryview | None:
        opened = self._opened.get(blob)
        if opened is None or not opened.local.covers(start, end):
            return None
        self._opened.move_to_end(blob)
        return opened.read_cached(start, end)

    async def _awaited(self, blob: Digest, start: int, end: int) -> bytes | memoryview:
        try:
            with trio.fail_after(self._patience) as waiting:

                def still_coming() -> None:
                    waiting.deadline = trio.current_time() + self._patience

                for _ in range(_MOST_ATTEMPTS):
                    if content := await self._attempt(blob, start, end, still_coming):
                        return content
        except trio.TooSlowError:
            cause = f"bytes {start} to {end} did not come within {self._patience:g} s"
            raise UnobtainableError(f"blob {blob}", cause, "reading them again asks for them again") from None
        raise StoreBrokenError(f"blob {blob}", f"bytes {start} to {end} are not where the driver says")

    async def _attempt(
        self, blob: Digest, start: int, end: int, still_coming: Callable[[], None]
    ) -> bytes | memoryview | None:
        """Return bytes, or None where the file that should have them has not."""
        self._refuse_poisoned(blob)
        opened: Opened | None = self._opened.get(blob)
        if opened is None or not opened.local.covers(start, end):
            with self._statistics.waiting():
                opened = await self._asked(blob, start, end, still_coming)
        if opened is None:
            return None
        content = opened.read_cached(start, end) or await _from_disk(opened, start, end)
        self._refuse_poisoned(blob)
        if self._opened.get(blob) is not opened:  # dropped in the meantime
            return None
        if len(content) == end - start:
            return content
        self.drop(blob)
        return None

    async def _asked(self, blob: Digest, start: int, end: int, still_coming: Callable[[], None]) -> Opened | None:
        """Return the file that has the bytes by now, or None where the driver speaks of another one."""
        opened = self._opened.get(blob)
        if opened and opened.announced.covers(start, end):
            with trio.move_on_after(_SOON_SECONDS):
                await opened.wait(start, end)
                return opened
            opened = self._opened.get(blob)
        have = opened.inode if opened else 0
        return self._learn(blob, await self._driver.need(blob, start, end, have, still_coming=still_coming))

    def _learn(self, blob: Digest, answer: Answer) -> Opened | None:
        """Take in what the driver says; return the file that it speaks of, if that is the one that we have by now."""
        opened = self._opened.get(blob)
        if answer.descriptor is not None:
            if blob in self._poisoned or (opened and opened.inode == answer.inode):
                os.close(answer.descriptor)
            else:
                self.drop(blob)
                opened = self._opened[blob] = Opened(answer.descriptor, answer.inode, self._means)
        if opened is None or opened.inode != answer.inode:
            return None
        opened.add(answer.start, answer.end)
        if len(self._opened) > _MOST_OPENED:
            self.drop(next(iter(self._opened)))
        return opened

    def _refuse_poisoned(self, blob: Digest) -> None:
        if blob in self._poisoned:
            raise DigestMismatchError(
                f"blob {blob}", "is not what its digest says", "the artifact is to be pulled anew"
            )


async def _from_disk(opened: Opened, start: int, end: int) -> bytes:
    try:
        return await opened.read(start, end)
    except OSError as error:  # another file may be had of the driver
        logger.warning("the store cannot be read", cause=error.strerror)
        return b""
