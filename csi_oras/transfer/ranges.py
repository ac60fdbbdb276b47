"""One blob from a repository into an ingest: in one stream, or in ranges with the hash behind the writers.

Range writers put bytes into the page cache in any order; one hasher follows the frontier and looks at them
there, so that the digest costs no wait at the end and no blob is ever held in memory.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace

from csi_oras.errors import RegistryUnavailableError, SizeMismatchError
from csi_oras.oci.digest import Digest
from csi_oras.registry.answers import BlobStream
from csi_oras.registry.client import RepositoryClient
from csi_oras.registry.retries import retried
from csi_oras.store.ingest import Ingest
from csi_oras.telemetry.progress import Counter
from csi_oras.transfer.pieces import Pieces
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


class EndedError(Exception):
    """The fetch is over; what it fetched into is committed, or given up."""


class RangedFetch:
    """Fetches what is missing of an ingest in several ranges at once, and first what somebody waits for."""

    def __init__(self, transfer: Transfer, pieces: Pieces, is_held_back: Callable[[], bool] = lambda: False) -> None:
        """Fetch `pieces`; while `is_held_back`, only what somebody waits for, or is about to."""
        self._transfer = transfer
        self._pieces = pieces
        self._is_held_back = is_held_back
        self._stragglers = Stragglers()
        self._idle = threading.Condition()
        self._users = 0
        self._is_over = False
        self._is_hashed_anew = False
        self._are_ignored = False

    def run(self, begin: _Begin) -> Digest:
        """Fetch all there is, and return the digest of the whole; when it is over, nobody uses the ingest any more.

        Raises:
            RangesIgnoredError: the registry does not serve ranges.
            UnobtainableError: it cannot be got.
        """
        ingest = self._transfer.ingest
        self._transfer.counter.resume(ingest.covered)
        self._regulate(0)
        running = [begin(self._fetch_pieces) for _ in range(self._pieces.parallel)]
        try:
            digest = self._hash_behind(running)
        finally:
            self._pieces.stop()
            errors = [writer.exception() for writer in running]  # waits until nobody writes any more
            self._end()
        for error in errors:
            if error:
                raise error
        if self._are_ignored:
            raise RangesIgnoredError
        if ingest.missing:  # what somebody waits for did not come, or was rejected, when nobody was left to fetch it
            raise RegistryUnavailableError(f"blob {ingest.blob.digest}", "did not come whole", "it is tried again")
        return digest

    @contextmanager
    def using(self) -> Iterator[Ingest]:
        """Keep the ingest open in a with statement.

        Raises:
            EndedError: it is closed, or about to be.
        """
        with self._idle:
            if self._is_over or self._pieces.stopped:  # who came now would only put off its end
                raise EndedError
            self._users += 1
        try:
            yield self._transfer.ingest
        finally:
            with self._idle:
                self._users -= 1
                self._idle.notify_all()

    def cover(self, start: int, end: int, client: RepositoryClient) -> None:
        """Return when the bytes from `start` up to `end` are there; whoever calls is `using` it.

        What nobody has asked for yet is asked for by `client`, the caller's own way to the same source.

        Raises:
            EndedError: they are not, and will not come this way.
            UnobtainableError: they cannot be got.
        """
        transfer, is_covered = replace(self._transfer, client=client), False
        while not is_covered:
            for piece in self._pieces.claim(start, end):
                self._fetch_claimed(transfer, piece)
            # who fetches some of it may give it back, and the rest may be held back until we have it: claim again
            is_covered = self._transfer.ingest.wait_covered(start, end, _PATIENCE_SECONDS)
            if self._pieces.stopped and not is_covered:
                raise EndedError

    def _fetch_claimed(self, transfer: Transfer, piece: tuple[int, int]) -> None:
        try:
            with Stragglers().watched() as reader:
                _fetch_piece(transfer, reader, *piece)
        except RangesIgnoredError:
            self._are_ignored = True
            self._pieces.stop()
            raise EndedError from None
        except BaseException:
            self._pieces.give_back(*piece)
            raise

    def wait_covered(self, start: int, end: int, seconds: float) -> None:
        """Return when somebody has fetched the bytes from `start` up to `end`; whoever calls is `using` it.

        Raises:
            EndedError: they are not there, and will not come this way, or not within `seconds`.
        """
        until = time.monotonic() + seconds
        while not self._transfer.ingest.wait_covered(start, end, _PATIENCE_SECONDS):
            if self._pieces.stopped or time.monotonic() > until:
                raise EndedError

    def reject(self, start: int, end: int) -> None:
        """Fetch the bytes from `start` up to `end` once more, for they are wrong; whoever calls is `using` it."""
        self._transfer.ingest.forget(start, end)
        self._pieces.give_back(start, end)
        self._is_hashed_anew = True

    def advance(self, start: int, end: int) -> None:
        """Fetch the bytes from `start` up to `end` before all that nobody waits for."""
        self._pieces.advance(start, end)

    def _fetch_pieces(self) -> None:
        try:
            with self._stragglers.watched() as reader:
                while piece := self._pieces.take():
                    _fetch_piece(self._transfer, reader, *piece)
        except BaseException:
            self._pieces.stop()
            raise

    def _regulate(self, lag: int) -> None:
        self._pieces.flow(on=lag <= _LAG_BYTES and not self._is_held_back())

    def _hash_behind(self, writers: list[Future[None]]) -> Digest:
        """Hash everything in order as it arrives, until the blob is complete or the writers have ended."""
        ingest = self._transfer.ingest
        hasher, position = ingest.blob.digest.hasher(), 0
        while position < ingest.blob.size:
            self._stragglers.look()
            ended = all(writer.done() for writer in writers) and not self._users
            frontier = ingest.wait_beyond(position, 0 if ended else _PATIENCE_SECONDS)
            self._regulate(frontier - position)
            if self._is_hashed_anew:
                self._is_hashed_anew = False
                hasher, position = ingest.blob.digest.hasher(), 0
            elif frontier > position:
                end = min(frontier, position + _HASH_BYTES)
                with ingest.view(position, end) as view:
                    hasher.update(view)
                position = end
            elif ended:
                break
        return Digest(ingest.blob.digest.algorithm, hasher.hexdigest())

    def _end(self) -> None:
        with self._idle:
            self._is_over = True
            while self._users:
                self._idle.wait()


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
