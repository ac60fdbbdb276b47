"""One blob from a repository into an ingest: in one stream, or in ranges with the hash behind the writers.

Range writers put bytes into the page cache in any order; one hasher follows the frontier and looks at them
there, so that the digest costs no wait at the end and no blob is ever held in memory.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass

from csi_oras.errors import RegistryUnavailableError, SizeMismatchError
from csi_oras.oci.digest import Digest
from csi_oras.registry.answers import BlobStream
from csi_oras.registry.client import RepositoryClient
from csi_oras.registry.retries import retried
from csi_oras.store.ingest import Ingest
from csi_oras.telemetry.progress import Counter
from csi_oras.transfer.stragglers import CutOffError, Reader, Stragglers

BUFFER_BYTES = 512 << 10
"""What a connection reads at once; larger gains nothing, and there is one for each connection."""
_HASH_BYTES = 4 << 20
"""What the hasher takes at once: each time it leaves the interpreter to the writers, and has to get it back."""
_KEEP_BYTES = 2 << 20
"""How often the extents of a range are written down: what a crash costs at most, for each connection."""
_PROGRESS_BYTES = 64 << 10
"""What the attempts of a range must bring together so that it is worth others when they are used up."""
_LAG_BYTES = 32 << 20
"""How far the hasher may fall behind before no new range begins: what it lags at the end, it hashes alone."""
_PATIENCE_SECONDS = 0.2

_buffers = threading.local()

_Begin = Callable[[Callable[[], None]], Future[None]]
"""What runs a writer of ranges."""


def buffer() -> memoryview:
    """Return this thread's buffer, used again for every blob."""
    if not hasattr(_buffers, "view"):
        _buffers.view = memoryview(bytearray(BUFFER_BYTES))
    view: memoryview = _buffers.view
    return view


class RangesIgnoredError(Exception):
    """The registry answers a range with the whole blob; only one stream will do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """A blob under way: from where, into what, what counts it, who says how much may be read, and who hears of it.

    `check` raises what ends it, where nobody wants to have it any more.
    """

    client: RepositoryClient
    ingest: Ingest
    counter: Counter
    ask: Callable[[int], int]
    arrived: Callable[[int], None]
    check: Callable[[], None]


def fetch_stream(transfer: Transfer) -> Digest:
    """Fetch the whole blob in one request, hashed on the way, and return the digest of what came.

    Raises:
        UnobtainableError: it cannot be got.
        SizeMismatchError: there is more than the descriptor says.
    """
    transfer.check()
    ingest = transfer.ingest
    ingest.discard()
    transfer.counter.resume(0)
    hasher = ingest.blob.digest.hasher()
    with transfer.client.blob(ingest.blob) as stream:
        for part in _receive(transfer, stream, 0, ingest.blob.size):
            hasher.update(part)
        if stream.readinto(buffer()[:1]):
            raise SizeMismatchError(
                f"blob {ingest.blob.digest}",
                f"has more than the {ingest.blob.size} bytes it should have",
                "report it",
            )
    return Digest(ingest.blob.digest.algorithm, hasher.hexdigest())


def fetch_ranges(transfer: Transfer, pieces: "Pieces", begin: _Begin) -> Digest:
    """Fetch what is missing in several ranges at once, and return the digest of the whole.

    Raises:
        RangesIgnoredError: the registry does not serve ranges.
        UnobtainableError: it cannot be got.
    """
    ingest = transfer.ingest
    transfer.counter.resume(ingest.covered)
    hasher = ingest.blob.digest.hasher()
    stragglers = Stragglers()
    running = [begin(lambda: _fetch_pieces(transfer, pieces, stragglers)) for _ in range(pieces.parallel)]
    try:
        _hash_behind(ingest, running, pieces, stragglers, hasher.update)
    finally:
        pieces.stop()
        errors = [writer.exception() for writer in running]  # waits until nobody writes any more
    for error in errors:
        if error:
            raise error
    return Digest(ingest.blob.digest.algorithm, hasher.hexdigest())


class Pieces:
    """The gaps of an ingest, dealt out in pieces to those who fetch them, lowest first."""

    def __init__(self, missing: list[tuple[int, int]], *, size: int, parallel: int) -> None:
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._flowing = threading.Event()
        self._flowing.set()
        self._pieces = [
            (position, min(position + size, end)) for start, end in missing for position in range(start, end, size)
        ]
        self._pieces.reverse()
        self.parallel = min(parallel, len(self._pieces))

    def take(self) -> tuple[int, int] | None:
        """Return the next piece, once the flow is on, or None when there are no more or somebody failed."""
        self._flowing.wait()
        with self._lock:
            return self._pieces.pop() if self._pieces and not self._stopped.is_set() else None

    def stop(self) -> None:
        """Deal out no more."""
        self._stopped.set()
        self._flowing.set()

    def flow(self, *, on: bool) -> None:
        """Hold back the next pieces, or deal them out again."""
        if on or self.stopped:
            self._flowing.set()
        else:
            self._flowing.clear()

    @property
    def stopped(self) -> bool:
        """Whether it is over."""
        return self._stopped.is_set()


def _fetch_pieces(transfer: Transfer, pieces: Pieces, stragglers: Stragglers) -> None:
    try:
        with stragglers.watched() as reader:
            while piece := pieces.take():
                _fetch_piece(transfer, reader, *piece)
    except BaseException:
        pieces.stop()
        raise


def _fetch_piece(transfer: Transfer, reader: Reader, position: int, end: int) -> None:
    ingest = transfer.ingest

    def attempt() -> None:  # goes on from the last byte of the attempt before
        nonlocal position
        transfer.check()
        kept = position
        try:
            with transfer.client.blob(ingest.blob, position, end) as stream:
                if not stream.partial:
                    raise RangesIgnoredError
                with reader.reading(stream.peer):
                    for part in _receive(transfer, stream, position, end):
                        position += len(part)
                        if position - kept >= _KEEP_BYTES:
                            ingest.keep(kept, position)
                            kept = position
        finally:
            if position > kept:
                ingest.keep(kept, position)

    while position < end:
        begun = position
        try:
            retried(attempt)
        except CutOffError:
            continue
        except RegistryUnavailableError:
            if position - begun < _PROGRESS_BYTES:
                raise


def _receive(transfer: Transfer, stream: BlobStream, position: int, end: int) -> Iterator[memoryview]:
    """Write down the bytes from `position` up to `end`, and yield them as they come."""
    view, ingest = buffer(), transfer.ingest
    while position < end:
        count = stream.readinto(view[: transfer.ask(min(BUFFER_BYTES, end - position))])
        if not count:
            raise RegistryUnavailableError(
                f"blob {ingest.blob.digest}",
                f"broke off at {position} of {ingest.blob.size} bytes",
                "it is tried again",
            )
        ingest.write(view[:count], position)
        transfer.counter.advance(count)
        transfer.arrived(count)
        position += count
        yield view[:count]


def _hash_behind(
    ingest: Ingest,
    writers: list[Future[None]],
    pieces: Pieces,
    stragglers: Stragglers,
    update: Callable[[memoryview], None],
) -> None:
    """Hash everything in order as it arrives, until the blob is complete or the writers have ended."""
    position = 0
    while position < ingest.blob.size:
        stragglers.look()
        ended = all(writer.done() for writer in writers)
        frontier = ingest.wait_beyond(position, 0 if ended else _PATIENCE_SECONDS)
        if frontier == position:
            if ended:
                return
            continue
        pieces.flow(on=frontier - position <= _LAG_BYTES)
        end = min(frontier, position + _HASH_BYTES)
        with ingest.view(position, end) as view:
            update(view)
        position = end
