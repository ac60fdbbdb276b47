"""Verification: whatever the store has is read again, and held against the digest that is its name.

In the driver at a rate that nobody notices, once a week; by `store verify` as fast as it goes. Reading goes around the
page cache where the kernel can (RWF_DONTCACHE, Linux 6.14): what pods read stays there, and what nobody reads does not
come in. Pages that are there are what is read, as pods read them; the disk behind them has its turn when they are gone.
Older kernels read as anybody does: to drop pages afterwards would drop those of pods, too.
"""

import errno
import heapq
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from csi_oras.errors import NoSpaceError, StoreBrokenError
from csi_oras.oci.digest import Digest
from csi_oras.store.database import Database
from csi_oras.store.paths import StatePaths, store_errors
from csi_oras.store.quarantine import Quarantine
from csi_oras.store.verity import Sealer
from csi_oras.telemetry.logs import logger

_FOLDERS = ("blobs/sha256", "blobs/sha512", "objects/sha256")
"""Where there is something to verify, in the order in which it is."""
_NAME = re.compile(r"(blob|object)s/(sha256|sha512)/([0-9a-f]{64}(?:[0-9a-f]{64})?)(?:-[0-7]{4})?")
_NAMES = 10_000
"""How many names are held at a time: a store may have millions of files."""
_PIECE_BYTES = 1 << 20
_RWF_DONTCACHE = 0x80
_ROT = frozenset({errno.EIO, errno.EUCLEAN, errno.EBADMSG})
"""How the disk, the file system or fs-verity say themselves that bytes are lost."""
_WEEK_SECONDS = 7 * 24 * 3600.0
_BYTES_PER_SECOND = 16 << 20
_LEAST_BYTES = 64 << 10
"""What each file counts for, so that small ones are 256 a second: each costs some 0.05 ms of a processor."""
_SAVE_SECONDS = 10.0
_WEEKLY = "verify"
_END = "~"
"""The position after the last name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A blob or object, by its digest and by its place below the state directory."""

    kind: str
    digest: Digest
    place: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What was read of a blob or object, in bytes, and whether it is what its name says."""

    size: int
    is_true: bool


class ContentVerifier:
    """Verifies blobs and objects, seals what is true, and quarantines what is not."""

    def __init__(self, paths: StatePaths, quarantine: Quarantine, sealer: Sealer) -> None:
        self._paths = paths
        self._quarantine = quarantine
        self._sealer = sealer
        self._flags = _RWF_DONTCACHE

    def stored(self, after: str = "") -> Iterator[Stored]:
        """Yield what there is in the order of places, those that come after one; what comes meanwhile may be missing.

        Raises:
            StoreBrokenError: the store fails.
        """
        for folder in _FOLDERS:
            while places := self._places(folder, after):
                after = places[-1]
                for place in places:
                    if match := _NAME.fullmatch(place):
                        yield Stored(kind=match[1], digest=Digest(match[2], match[3]), place=place)

    def _places(self, folder: str, after: str) -> list[str]:
        with store_errors("store"), os.scandir(self._paths.root / folder) as entries:
            names = (f"{folder}/{entry.name}" for entry in entries)
            return heapq.nsmallest(_NAMES, (name for name in names if name > after))

    def size(self, item: Stored) -> int:
        """Return the bytes of a file that is to be verified; 0 if it is gone by now."""
        try:
            return os.lstat(self._paths.root / item.place).st_size
        except OSError:
            return 0

    def check(self, item: Stored, read: Callable[[int], None] = lambda _: None) -> Checked | None:
        """Verify one file, or return None where it is gone by now; `read` is told of bytes as they are read.

        Raises:
            StoreBrokenError: the store fails, though the file may be whole.
        """
        path = self._paths.root / item.place
        with store_errors(f"{item.kind} {item.digest}"):
            try:
                # neither a link nor a FIFO that somebody has put there is followed or waited for
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno not in {*_ROT, errno.ELOOP, errno.ENXIO}:
                    raise
                return self._rotten(item, path, 0, 0)
            try:
                size, is_true = self._is_true(descriptor, item.digest, read)
                if is_true:
                    if self._sealer.seal(descriptor):
                        read(size)  # the kernel has read it once more
                    return Checked(size=size, is_true=True)
                return self._rotten(item, path, os.fstat(descriptor).st_ino, size)
            finally:
                os.close(descriptor)

    def _is_true(self, descriptor: int, digest: Digest, read: Callable[[int], None]) -> tuple[int, bool]:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return 0, False
        hasher, position = digest.hasher(), 0
        buffer = memoryview(bytearray(min(status.st_size + 1, _PIECE_BYTES)))
        try:
            while count := self._read(descriptor, buffer, position):
                hasher.update(buffer[:count])
                position += count
                read(count)
        except OSError as error:
            if error.errno not in _ROT:
                raise
            return position, False
        return position, hasher.hexdigest() == digest.encoded

    def _read(self, descriptor: int, buffer: memoryview, position: int) -> int:
        if self._flags:
            try:
                return os.preadv(descriptor, [buffer], position, self._flags)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                    raise
                self._flags = 0  # an older kernel, or a file system that cannot
        return os.preadv(descriptor, [buffer], position)

    def _rotten(self, item: Stored, path: Path, inode: int, size: int) -> Checked | None:
        try:
            if not self._quarantine.take(item.kind, item.digest, path, inode):
                return None
        except (NoSpaceError, StoreBrokenError) as error:
            about = f"{item.kind} {item.digest}"
            logger.error("content is corrupt and cannot be set aside", content=about, cause=error.message)
        return Checked(size=size, is_true=False)


class Pace:
    """So many bytes per second and no more; what was not used before counts for nothing."""

    def __init__(
        self,
        rate: int = _BYTES_PER_SECOND,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._due = clock()

    def spend(self, count: int) -> None:
        """Count bytes that were read, and wait as long as they should have taken."""
        now = self._clock()
        self._due = max(self._due, now) + count / self._rate
        self._sleep(self._due - now)


class WeeklyPass:
    """Verifies all of the store once a week, from where the process before was interrupted.

    A file that takes longer than processes live is begun again by each.
    """

    def __init__(
        self, database: Database, verifier: ContentVerifier, pace: Pace, save_seconds: float = _SAVE_SECONDS
    ) -> None:
        self._database = database
        self._verifier = verifier
        self._pace = pace
        self._save_seconds = save_seconds

    def run(self, found: Callable[[], None]) -> None:
        """Go on with a pass to its end, or begin one if it is time to; call `found` when something has rotted.

        Raises:
            NoSpaceError, StoreBrokenError: the store fails; the next run goes on.
        """
        began, position = self._load()
        if position == _END:
            if 0 <= time.time() - began < _WEEK_SECONDS:
                return
            began, position = time.time(), ""
            self._save(began, position)
        saved, corrupt = time.monotonic(), 0
        for item in self._verifier.stored(position):
            checked = self._verifier.check(item, self._pace.spend)
            self._pace.spend(_LEAST_BYTES)
            if checked and not checked.is_true:
                corrupt += 1
                found()
            if time.monotonic() - saved >= self._save_seconds:
                self._save(began, item.place)
                saved = time.monotonic()
        self._save(began, _END)
        logger.info("the store is verified", corrupt=corrupt, seconds=round(time.time() - began))

    def _load(self) -> tuple[float, str]:
        rows = self._database.query("SELECT began, position FROM passes WHERE name = ?", _WEEKLY)
        return (float(rows[0][0]), str(rows[0][1])) if rows else (0.0, _END)

    def _save(self, began: float, position: str) -> None:
        self._database.query("INSERT OR REPLACE INTO passes VALUES (?, ?, ?)", _WEEKLY, began, position)
