"""The bytes of an archive in the pieces that its reader asks for, and a member's content as a part of them."""

from collections.abc import Iterator
from typing import Self

from csi_oras.errors import HostileContentError
from csi_oras.unpack.header import BLOCK_BYTES

PUSH_AGAIN = "push the artifact again"


class Stream:
    """Chunks of any length, of which whatever is asked for is taken next."""

    __slots__ = ("_chunk", "_chunks", "_position", "_subject")

    def __init__(self, chunks: Iterator[bytes], subject: str) -> None:
        self._chunks = chunks
        self._subject = subject
        self._chunk = memoryview(b"")
        self._position = 0

    def piece(self, most: int) -> memoryview:
        """Return the next bytes without copying them: `most` of them at most, and none only at the end."""
        while self._position == len(self._chunk):
            if (chunk := next(self._chunks, None)) is None:
                return memoryview(b"")
            self._chunk = memoryview(chunk)
            self._position = 0
        piece = self._chunk[self._position : self._position + most]
        self._position += len(piece)
        return piece

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes, which are few; fewer only at the end."""
        content = bytes(self.piece(count))
        if len(content) == count:
            return content
        pieces = [content]
        missing = count - len(content)
        while missing and (piece := self.piece(missing)):
            pieces.append(bytes(piece))
            missing -= len(piece)
        return b"".join(pieces)

    def content(self, size: int, owner: str) -> "Content":
        """Return the next `size` bytes as the content of their `owner`, as an error would name it."""
        return Content(self, size, owner)

    def cut_short(self, owner: str) -> HostileContentError:
        """Return what to raise when there is less than belongs to `owner`."""
        return HostileContentError(self._subject, f"the archive ends in the middle of {owner}", PUSH_AGAIN)


class Content:
    """The bytes of one member, each of them once; none are left once it is finished."""

    __slots__ = ("_left", "_owner", "_padding", "_stream")

    def __init__(self, stream: Stream, size: int, owner: str) -> None:
        self._stream = stream
        self._owner = owner
        self._left = size
        self._padding = -size % BLOCK_BYTES

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> memoryview:
        if not self._left:
            raise StopIteration
        piece = self._stream.piece(self._left)
        if not piece:
            raise self._stream.cut_short(self._owner)
        self._left -= len(piece)
        return piece

    def finish(self) -> None:
        """Pass over what nobody read, and over what fills the last block.

        That may be missing at the very end, as it may for Go: umoci 0.4.7 leaves it out of the layers that it inserts.
        """
        for _ in self:
            pass
        padding, self._padding = self._padding, 0
        self._stream.take(padding)
