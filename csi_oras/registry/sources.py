"""Sources: bytes to be pushed, which can be opened again at any offset, and the proof that they are what was described.

The invariant: the last byte of a blob is never handed over before the digest of all of it fits, so that no registry is
left with a whole upload of anything else.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from csi_oras.errors import ContentChangedError, StoreBrokenError
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Hasher
from csi_oras.telemetry.progress import Counter

_BLOCK_BYTES = 1 << 20


class Readable(Protocol):
    """What is read of an open source."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill `buffer` as far as it goes and return the count; nothing is the end."""


Source = Callable[[int], AbstractContextManager[Readable]]
"""Opens the bytes of a blob at an offset; it is called again whenever an upload goes on."""


def in_memory(content: bytes) -> Source:
    """Return the source of bytes that are there."""
    return lambda offset: io.BytesIO(content[offset:])


def in_file(path: Path) -> Source:
    """Return the source of what a file holds."""

    @contextmanager
    def opened(offset: int) -> Iterator[Readable]:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            yield file

    return opened


@contextmanager
def opened(source: Source, offset: int, subject: str) -> Iterator[Readable]:
    """Open a source.

    Raises:
        StoreBrokenError: it cannot be read.
    """
    with ExitStack() as closing:
        try:
            stream = closing.enter_context(source(offset))
        except OSError as error:
            raise _unreadable(subject, error) from error
        yield stream


def _unreadable(subject: str, error: OSError) -> StoreBrokenError:
    return StoreBrokenError(subject, f"cannot be read ({error.strerror})", "check the disk")


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A part of a blob: `length` bytes from `start`."""

    start: int
    length: int

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.start + self.length


class Body:
    """A span of a blob on its way to a registry, as http.client sends it."""

    def __init__(
        self, stream: Readable, span: Span, hasher: Hasher, counter: Counter, *, blob: Descriptor, subject: str
    ) -> None:
        """Read from `stream`, which is at the start of `span`; `hasher` has been given all before it."""
        self.hasher = hasher
        self.span = span
        self.reached = span.start
        """The first byte that was not handed over."""
        self._stream = stream
        self._blob = blob
        self._subject = subject
        self._counter = counter
        self._buffer = memoryview(bytearray(min(_BLOCK_BYTES, span.length)))

    def __iter__(self) -> Iterator[memoryview]:
        """Yield the bytes, block by block; each is good until the next.

        Raises:
            ContentChangedError: they are not the bytes of the blob.
            StoreBrokenError: they cannot be read.
        """
        if not self._blob.size:
            self._check()
        while self.reached < self.span.end:
            yield self._next()

    def _next(self) -> memoryview:
        window = self._buffer[: self.span.end - self.reached]
        count = self._read_into(window)
        if not count:
            raise self._changed(f"has {self.reached} bytes instead of {self._blob.size}")
        self.hasher.update(window[:count])
        self.reached += count
        if self.reached == self._blob.size:
            self._check()
        self._counter.advance(count)
        return window[:count]

    def _check(self) -> None:
        if self.hasher.hexdigest() != self._blob.digest.encoded:
            raise self._changed("has another digest")
        if self._read_into(memoryview(bytearray(1))):
            raise self._changed(f"has more than {self._blob.size} bytes")

    def _read_into(self, buffer: memoryview) -> int:
        try:
            return self._stream.readinto(buffer) or 0
        except OSError as error:
            raise _unreadable(self._subject, error) from error

    def _changed(self, how: str) -> ContentChangedError:
        return ContentChangedError(self._subject, f"{how}: it was changed while it was pushed", "push it again")
