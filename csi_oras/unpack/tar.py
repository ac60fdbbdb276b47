"""Tar archives as a stream of members: ustar, GNU and PAX headers, read once and never trusted.

Python's tarfile is never used: it has been escaped from, hung and exhausted too often (attacks of CVE-2007-4559 and
after). Where readers of tar disagree, Go's archive/tar is followed, because what pushes and unpacks artifacts is
written in Go; what no honest tool writes is refused. Names are handed on as they are: what they may be, and where
links may lead, is for the extractor to say.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from csi_oras.errors import HostileContentError, printable
from csi_oras.unpack import header, pax
from csi_oras.unpack.header import BLOCK_BYTES, Header, MalformedHeaderError
from csi_oras.unpack.pax import Overrides
from csi_oras.unpack.stream import PUSH_AGAIN, Stream

MOST_EXTENSION_BYTES = 1 << 20
"""The largest PAX header or GNU long name."""
MOST_GLOBAL_HEADERS = 16
"""Global PAX headers in a row; git archive writes one."""
_END = bytes(BLOCK_BYTES)
_MODE_BITS = 0o7777
_NAME_LIMIT = 80
_WITHOUT_IT = "leave it out of the archive and push again"


class MemberKind(StrEnum):
    """What a member is: nothing else is ever yielded."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symbolic link"
    HARDLINK = "hard link"
    SPECIAL = "special file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A member as its headers have it: the name unchecked, with any slash at its end; a size where content follows.

    `target` is what a link leads to: a path for a symbolic link, an earlier member's name for a hard one. Of a special
    file, which nobody may make, it is what kind of one it is; sparse files are such, for nobody reads their maps.
    """

    name: str
    kind: MemberKind
    mode: int
    size: int = 0
    target: str = ""


_KINDS = {
    b"0": MemberKind.FILE,
    b"\0": MemberKind.FILE,
    b"7": MemberKind.FILE,  # contiguous: a file to everybody else
    b"1": MemberKind.HARDLINK,
    b"2": MemberKind.SYMLINK,
    b"5": MemberKind.DIRECTORY,
    b"3": MemberKind.SPECIAL,
    b"4": MemberKind.SPECIAL,
    b"6": MemberKind.SPECIAL,
    b"S": MemberKind.SPECIAL,
}
_A_SPARSE_FILE = "a sparse file, which tar makes with --sparse"
_SPECIAL = {b"3": "a character device", b"4": "a block device", b"6": "a FIFO", b"S": _A_SPARSE_FILE}
_REFUSED = {
    b"D": "a GNU directory dump",
    b"M": "the rest of a file in another volume",
    b"V": "a volume label",
}
_SPARSE, _GLOBAL, _PAX, _LONG_NAME, _LONG_TARGET = b"S", b"g", b"x", b"L", b"K"
_EXTENSIONS = frozenset((_PAX, _LONG_NAME, _LONG_TARGET))
_LINKS = frozenset((MemberKind.SYMLINK, MemberKind.HARDLINK))


def members(chunks: Iterator[bytes], subject: str) -> Iterator[tuple[Member, Iterator[memoryview]]]:
    """Yield each member with its content, which is skipped as far as nobody reads it before the next is asked for.

    `chunks` are read to their end, beyond the end of the archive, unless the caller stops before.

    Raises:
        HostileContentError: it is no tar, is cut short, or holds what no honest tool writes.
    """
    stream = Stream(chunks, subject)
    headers = _Headers(stream, subject)
    while (member := headers.next_member()) is not None:
        content = stream.content(member.size, _quoted(member.name))
        yield member, content
        content.finish()
    for _ in chunks:
        pass


class _Headers:
    """The headers of an archive, several of which may make one member."""

    def __init__(self, stream: Stream, subject: str) -> None:
        self._stream = stream
        self._subject = subject
        self._place = "at the beginning of the archive"
        self._is_first = True
        self._extensions: dict[bytes, bytes] = {}

    def next_member(self) -> Member | None:
        """Read up to the next member's content; None is the end of the archive."""
        global_headers = 0
        while (found := self._next_header()) is not None:
            if found.kind == _GLOBAL:
                global_headers += 1
                self._pass_global(found, global_headers)
            elif found.kind in _EXTENSIONS:
                self._take_extension(found)
            else:
                return self._member(found)
        if self._extensions:
            raise self._refused(f"{self._place} is a header that belongs to no member")
        return None

    def _next_header(self) -> Header | None:
        block = self._stream.take(BLOCK_BYTES)
        if not block:
            return None  # no end marker: both Go and GNU tar accept that between members
        if len(block) < BLOCK_BYTES:
            raise self._no_header() if self._is_first else self._stream.cut_short(f"a header {self._place}")
        if block == _END:
            self._check_end()
            return None
        if not header.is_checksum_right(block):
            raise self._no_header()
        self._is_first = False
        try:
            return header.parse(block)
        except MalformedHeaderError as error:
            raise self._refused(f"the member {self._place} {error}") from None

    def _check_end(self) -> None:
        """Let less than the second block of zeros be enough at the very end, as GNU tar does."""
        if any(self._stream.take(BLOCK_BYTES)):
            raise self._refused(f"a lone block of zeros is {self._place}")

    def _no_header(self) -> HostileContentError:
        if self._is_first:
            remedy = "push it with the media type of what it is"
            return HostileContentError(self._subject, "is no tar archive", remedy)
        return self._refused(f"the header {self._place} has a wrong checksum")

    def _pass_global(self, found: Header, count: int) -> None:
        """Check that a global header changes no member: comments may be (git archive writes one), names may not."""
        if self._extensions or count > MOST_GLOBAL_HEADERS:
            raise self._refused(f"too many headers for one member are {self._place}")
        body = self._extension_body(found)
        if self._pax(body, f"the global header {self._place}"):
            raise self._refused(f"a global header {self._place} sets the name or size of every member")

    def _take_extension(self, found: Header) -> None:
        if found.kind in self._extensions:
            raise self._refused(f"two headers for one thing are {self._place}")
        self._extensions[found.kind] = self._extension_body(found)

    def _extension_body(self, found: Header) -> bytes:
        if found.size > MOST_EXTENSION_BYTES:
            cause = f"a header {self._place} is larger than the {MOST_EXTENSION_BYTES:,} bytes that are allowed"
            raise HostileContentError(self._subject, cause, PUSH_AGAIN)
        content = self._stream.content(found.size, f"a header {self._place}")
        body = b"".join(content)
        content.finish()
        return body

    def _pax(self, body: bytes, owner: str) -> Overrides:
        try:
            return pax.parse(body)
        except MalformedHeaderError as error:
            raise self._refused(f"{owner} {error}") from None

    def _member(self, found: Header) -> Member:
        """Make a member of its header and of those before it."""
        overrides = self._pax(self._extensions.pop(_PAX, b""), f"the member {self._place}")
        name = self._name(overrides.path, self._extensions.pop(_LONG_NAME, None), found.name)
        target = self._name(overrides.target, self._extensions.pop(_LONG_TARGET, None), found.target)
        self._place = f"after {_quoted(name)}"
        kind = self._kind(found.kind, name)
        has_content = kind is MemberKind.FILE or found.kind == _SPARSE  # Go: whatever a link says, none follows it
        size = (found.size if overrides.size is None else overrides.size) if has_content else 0
        if kind is MemberKind.FILE and name.endswith("/"):
            if size:  # a directory to some, a file to others
                raise self._refused(f"{_quoted(name)} is a directory with content")
            kind = MemberKind.DIRECTORY
        if found.kind == _SPARSE:
            self._pass_map(found, name)
        what = _SPECIAL.get(found.kind, "")
        if overrides.is_sparse:
            kind, what = MemberKind.SPECIAL, _A_SPARSE_FILE
        return Member(
            name=name, kind=kind, mode=found.mode & _MODE_BITS, size=size, target=target if kind in _LINKS else what
        )

    def _pass_map(self, found: Header, name: str) -> None:
        """Pass over the blocks in which GNU's sparse map goes on, and which no size tells of."""
        has_more = found.has_more_map
        if has_more is None:
            raise self._refused(f"{_quoted(name)} is a sparse file, and not as GNU tar writes it")
        while has_more:
            block = self._stream.take(BLOCK_BYTES)
            if len(block) < BLOCK_BYTES:
                raise self._stream.cut_short(_quoted(name))
            has_more = block[504] != 0

    def _name(self, by_pax: bytes | None, by_gnu: bytes | None, field: bytes) -> str:
        if by_pax is not None and by_gnu is not None:
            raise self._refused(f"the member {self._place} has two names")
        name = field
        if by_gnu is not None:
            name, _, rest = by_gnu.partition(b"\0")
            if rest.strip(b"\0"):
                raise self._refused(f"the member {self._place} has a NUL in its name")
        elif by_pax is not None:
            name = by_pax
        try:
            return name.decode()
        except UnicodeDecodeError:
            text = _quoted(name.decode("utf-8", "backslashreplace"))
            raise self._refused(f"the name {text} is not UTF-8") from None

    def _kind(self, flag: bytes, name: str) -> MemberKind:
        if (kind := _KINDS.get(flag)) is not None:
            return kind
        what = _REFUSED.get(flag) or f"of the unknown type {_quoted(flag.decode('latin-1'))}"
        raise HostileContentError(self._subject, f"{_quoted(name)} is {what}", _WITHOUT_IT)

    def _refused(self, cause: str) -> HostileContentError:
        return HostileContentError(self._subject, cause, PUSH_AGAIN)


def _quoted(name: str) -> str:
    return f'"{printable(name, _NAME_LIMIT)}"'
