"""Tarballs: what ORAS packs, the same bytes every time, in bounded memory."""

import gzip
import io
import tarfile
import tracemalloc

import pytest

from csi_oras.errors import ContentChangedError
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.name import Name
from csi_oras.oci.plan import Compression
from csi_oras.oci.view import File as Shown
from csi_oras.pack.found import File
from csi_oras.pack.layers import PackedDirectory
from csi_oras.pack.merge import Carried
from csi_oras.pack.tarball import Source, pack
from tests.support.artifacts import sha256
from tests.support.changes import UPPER, a_directory, a_file, a_link
from tests.support.unpacking import Contents, extract, source

_PINNED = "sha256:f768ab1e62f2d44e71e9e177610205d6d39a62286dbe987aa8735ecb47ed3777"
_LONG = "d/" + "/".join(["n" * 250] * 5)


def packed(title: str, members: dict[str, Carried]) -> tuple[Descriptor, bytes]:
    """A directory whose files are full of the byte that their names end with."""
    target = io.BytesIO()
    ordered = tuple((Name.parse(name), members[name]) for name in sorted(members))
    descriptor = pack(PackedDirectory(title=title, members=ordered), _open, target)
    return descriptor, target.getvalue()


def _open(name: Name, file: File) -> Source:
    return io.BytesIO(str(name).encode()[-1:] * file.size)


MEMBERS: dict[str, Carried] = {
    "d/b/run": a_file(UPPER, 3, executable=True),
    "d/b/x": a_file(UPPER, 512),
    "d/empty": a_directory(UPPER),
    "d/file": a_file(UPPER, 0),
    "d/link": a_link(UPPER, "b/x"),
    "d/ünï": a_file(UPPER, 2),
    _LONG: a_file(UPPER, 1),
}


def test_tarball_holds_what_oras_packs() -> None:
    _, content = packed("d", {name: MEMBERS[name] for name in ("d/b/run", "d/b/x", "d/empty", "d/link")})
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        found = [(one.name, one.type, one.mode, one.size, one.linkname) for one in tar]
        owners = {(one.mtime, one.uid, one.gid, one.uname, one.gname) for one in tar.getmembers()}
    assert found == [
        ("d", tarfile.DIRTYPE, 0o755, 0, ""),
        ("d/b", tarfile.DIRTYPE, 0o755, 0, ""),
        ("d/b/run", tarfile.REGTYPE, 0o755, 3, ""),
        ("d/b/x", tarfile.REGTYPE, 0o644, 512, ""),
        ("d/empty", tarfile.DIRTYPE, 0o755, 0, ""),
        ("d/link", tarfile.SYMTYPE, 0o777, 0, "b/x"),
    ]
    assert owners == {(0, 0, 0, "", "")}


def test_tarball_of_the_root_begins_with_it() -> None:
    _, content = packed(".", {"d/link": a_link(UPPER, "../x"), "x": a_file(UPPER)})
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        assert tar.getnames() == [".", "d", "d/link", "x"]


def test_descriptor_says_what_oras_reads() -> None:
    descriptor, content = packed("d", MEMBERS)
    assert descriptor.to_json() == {
        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
        "digest": sha256(content),
        "size": len(content),
        "annotations": {
            "org.opencontainers.image.title": "d",
            "io.deis.oras.content.digest": sha256(gzip.decompress(content)),
            "io.deis.oras.content.unpack": "true",
        },
    }


def test_tarball_is_the_same_in_every_release_that_packs_alike() -> None:
    """Another digest means that nothing packed before is found in a registry: that is a decision, no accident."""
    descriptor, content = packed("d", MEMBERS)
    assert content[:10] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\x03", "no time, no name"
    assert descriptor.annotations["io.deis.oras.content.digest"] == _PINNED
    assert packed("d", MEMBERS) == (descriptor, content)


def test_tarball_reads_back_as_it_was() -> None:
    _, content = packed("d", MEMBERS)
    sink = Contents()
    view = extract([source(content, Compression.GZIP, prefix=Name.parse("d"))], sink).view
    shown = {name: what for name, what in sink.shown(view).items() if what is not None or name == "d/empty"}
    assert shown == {
        "d/b/run": b"nnn",
        "d/b/x": b"x" * 512,
        "d/empty": None,
        "d/file": b"",
        "d/link": "-> b/x",
        "d/ünï": b"\xaf\xaf",
        _LONG: b"n",
    }
    modes = {"/".join(at): node.mode for at, node in view.walk() if isinstance(node, Shown)}
    assert {name for name, mode in modes.items() if mode == 0o555} == {"d/b/run"}


def test_tarball_takes_memory_for_a_piece_of_a_file_only() -> None:
    class Nothing(io.RawIOBase):
        def write(self, _content: object, /) -> int:
            return 0

    size = 64 << 20
    tracemalloc.start()
    pack(
        PackedDirectory(title="d", members=((Name.parse("d/x"), a_file(UPPER, size)),)),
        lambda _name, _file: _Zeros(size),
        Nothing(),  # type: ignore[arg-type]
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


class _Zeros:
    def __init__(self, size: int) -> None:
        self._left = size

    def readinto(self, buffer: bytearray, /) -> int:
        """Say that zeros were read."""
        count = min(len(buffer), self._left)
        self._left -= count
        return count

    def close(self) -> None:
        """Do nothing."""


def test_file_that_changed_ends_the_packing() -> None:
    closed = []

    class Changed(_Zeros):
        def readinto(self, _buffer: bytearray, /) -> int:
            raise ContentChangedError("x", "changed")

        def close(self) -> None:
            closed.append(self)

    directory = PackedDirectory(title="d", members=((Name.parse("d/x"), a_file(UPPER)),))
    with pytest.raises(ContentChangedError):
        pack(directory, lambda _name, _file: Changed(1), io.BytesIO())
    assert closed
