"""Uploads: how a blob gets to a registry, in one piece or in chunks, and goes on where it was interrupted.

One PUT is what every registry takes. Chunks are for registries that name their length or refuse a large PUT, and for
whatever was interrupted: a chunk that has arrived is never sent again, as far as the registry can tell that it has.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from csi_oras.errors import PushRefusedError, RegistryUnavailableError
from csi_oras.oci.descriptor import Descriptor
from csi_oras.registry.retries import retried
from csi_oras.registry.session import Session
from csi_oras.registry.sources import Body, Source, Span, opened
from csi_oras.registry.upload_session import UploadSession
from csi_oras.telemetry.progress import Counter

CHUNK_BYTES = 16 << 20
"""What is sent at once of a blob that goes in chunks; proxies let at least that pass where they let anything pass."""


class Upload:
    """One blob on its way into one repository."""

    def __init__(
        self,
        session: Session,
        subject: str,
        blob: Descriptor,
        source: Source,
        *,
        counter: Counter,
        chunk_bytes: int,
        attempts: int,
    ) -> None:
        self._session = session
        self._subject = subject
        self._blob = blob
        self._source = source
        self._counter = counter
        self._chunk_bytes = chunk_bytes
        self._attempts = attempts
        self._at: UploadSession | None = None
        self._hasher = blob.digest.hasher()
        """Of the bytes before the offset, all of which the registry has."""
        self._offset = self._sent = self._furthest = 0
        self._in_chunks = self._is_interrupted = False

    def send(self, at: UploadSession | None, is_there: Callable[[], bool]) -> None:
        """Send it all, to the session `at` if there is one; who was interrupted first asks whether it `is_there`.

        It is tried again as long as that gets it further.

        Raises:
            UnobtainableError: the registry does not take it.
            BadResponseError: the upload is to be sent to another origin.
            ContentChangedError: the source has other bytes than described; the upload is cancelled.
        """
        if at:
            self._begin(at)
        try:
            while not self._is_sent(is_there):
                pass
        except RegistryUnavailableError:
            raise  # whom we do not reach we need not tell
        except BaseException:
            if self._at:
                self._at.cancel()
            raise

    def _is_sent(self, is_there: Callable[[], bool]) -> bool:
        reached = self._furthest
        try:
            retried(lambda: self._attempt(is_there), self._attempts)
        except RegistryUnavailableError:
            if self._furthest - reached < self._chunk_bytes:
                raise
            return False
        self._counter.finish()
        return True

    def _attempt(self, is_there: Callable[[], bool]) -> None:
        if self._is_interrupted and self._is_over(is_there):
            return
        self._is_interrupted = True
        at = self._at or self._opened()
        if not (self._offset or self._in_chunks):
            if self._put(at):
                return
            at = self._opened()
        while self._offset < self._blob.size:
            self._patch(at)
        at.close(self._blob.digest, self._blob.size)

    def _opened(self) -> UploadSession:
        return self._begin(UploadSession.open(self._session, self._subject, self._blob.digest.algorithm))

    def _begin(self, at: UploadSession) -> UploadSession:
        self._at = at
        self._offset = self._sent = 0
        self._hasher = self._blob.digest.hasher()
        self._chunk_bytes = max(self._chunk_bytes, at.least_chunk)
        self._in_chunks = self._is_large and (self._in_chunks or at.least_chunk > 0)
        return at

    @property
    def _is_large(self) -> bool:
        return self._blob.size > self._chunk_bytes

    def _put(self, at: UploadSession) -> bool:
        """Send it in one piece, and say whether the registry takes it so; of what is large it may want chunks."""
        try:
            with self._body(self._blob.size, self._counter) as body:
                at.close(self._blob.digest, self._blob.size, body)
        except PushRefusedError:
            if not self._is_large:
                raise
            at.cancel()
            self._in_chunks = True
            return False
        return True

    def _patch(self, at: UploadSession) -> None:
        with self._body(min(self._chunk_bytes, self._blob.size - self._offset), self._counter) as body:
            at.patch(body)
        self._confirm(body)

    def _confirm(self, body: Body) -> None:
        """Go on after a span that the registry has."""
        self._offset, self._hasher = body.span.end, body.hasher
        self._furthest = max(self._furthest, self._offset)

    def _is_over(self, is_there: Callable[[], bool]) -> bool:
        """Find out how far it got before it was interrupted, and say whether the registry has all of it."""
        self._in_chunks = self._is_large
        taken = self._at.taken() if self._at and not self._at.is_lost else None
        if taken is not None and 1 < taken <= self._sent:  # of a first byte and of none, registries say `0-0`
            self._rewind(taken)
            return False
        if self._at and taken is not None:
            self._at.cancel()
        self._at = None
        return is_there()

    def _rewind(self, taken: int) -> None:
        """Go to another offset; the bytes before it are hashed once more, but not sent."""
        if taken == self._offset:
            return
        if taken < self._offset:
            self._offset, self._hasher = 0, self._blob.digest.hasher()
        with self._body(taken - self._offset, Counter(0)) as body:
            for _ in body:
                pass
        self._confirm(body)

    @contextmanager
    def _body(self, length: int, counter: Counter) -> Iterator[Body]:
        """Open the next `length` bytes."""
        span = Span(start=self._offset, length=length)
        counter.resume(self._offset)
        with opened(self._source, self._offset, self._subject) as stream:
            body = Body(stream, span, self._hasher.copy(), counter, blob=self._blob, subject=self._subject)
            try:
                yield body
            finally:
                self._sent = max(self._sent, body.reached)
