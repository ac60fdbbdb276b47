"""Unpacking without a store: archives of bytes, and a sink that keeps what comes out of them in memory."""

import io
import tarfile
from collections.abc import Iterable, Sequence
from typing import Any

from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.plan import Compression, PlanArchive
from csi_oras.oci.selection import Selection
from csi_oras.oci.view import Directory, File, Link, View
from csi_oras.unpack.extract import Extractor, Sink
from csi_oras.unpack.needed import needed
from csi_oras.unpack.reader import Source, UnpackLimits

SUBJECT = "reg.example/a/b:v1, layer 0 (0123456789ab)"
LIMITS = UnpackLimits(members=1000, size=0, ratio=200)
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
Entry = tuple[str, dict[str, Any]]
EVERYTHING = Selection()


def reg(name: str, data: bytes = b"x", mode: int = 0o644) -> Entry:
    """A file."""
    return name, {"type": tarfile.REGTYPE, "data": data, "mode": mode}


def directory(name: str) -> Entry:
    """A directory."""
    return name, {"type": tarfile.DIRTYPE, "mode": 0o755}


def sym(name: str, target: str) -> Entry:
    """A symbolic link."""
    return name, {"type": tarfile.SYMTYPE, "linkname": target}


def hard(name: str, target: str) -> Entry:
    """A hard link."""
    return name, {"type": tarfile.LNKTYPE, "linkname": target}


def tar(*entries: Entry, how: str = "pax") -> bytes:
    """Return the archive that Python's tarfile makes of these."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=FORMATS[how]) as archive:
        for name, fields in entries:
            info = tarfile.TarInfo(name)
            data = fields.get("data", b"")
            info.type, info.size = fields["type"], len(data)
            info.mode, info.linkname = fields.get("mode", 0o777), fields.get("linkname", "")
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


class Contents:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.kept: dict[Digest, bytes] = {}

    def add(self, content: Iterable[memoryview], size: int, mode: int) -> File:
        """Take a file's content."""
        data = b"".join(content)
        digest = Digest.of(data)
        self.kept[digest] = data
        return File(digest, size, mode)

    def shown(self, view: View) -> dict[str, str | bytes | None]:
        """Return what a view has by name: a file's bytes, `-> target` of a link, None for a directory."""
        found: dict[str, str | bytes | None] = {}
        for at, node in view.walk():
            match node:
                case File():
                    found["/".join(at)] = self.kept[node.content]
                case Link():
                    found["/".join(at)] = f"-> {node.target}"
                case Directory():
                    found["/".join(at)] = None
        return found


def source(packed: bytes, compression: Compression = Compression.NONE, layer: int = 0, **fields: Any) -> Source:
    """An archive of bytes; `fields` are those of the plan's."""
    blob = Descriptor.of(packed, "a/b")
    archive = PlanArchive(blob=blob, layer=layer, rule="test", compression=compression, **fields)
    return Source(archive=archive, open_blob=lambda: io.BytesIO(packed), subject=SUBJECT.replace("0", str(layer), 1))


def extract(
    sources: Sequence[Source], sink: Sink, selection: Selection = EVERYTHING, limits: UnpackLimits = LIMITS
) -> Extractor:
    """Unpack archives as a pull does."""
    extractor = Extractor(selection, sink, limits, needed(sources, selection, limits))
    for one in sources:
        extractor.extract(one)
    return extractor
