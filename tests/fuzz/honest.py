"""Honest archives of any tree, in every format that Python's tarfile writes: they must come out as they went in."""

import io
import tarfile
from collections.abc import Iterable

from hypothesis import strategies as st

from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.plan import Compression, PlanArchive
from csi_oras.oci.selection import Selection
from csi_oras.oci.view import File, Link
from csi_oras.unpack.extract import Extractor
from tests.fuzz.archives import LIMITS, SUBJECT

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
_LETTERS = st.characters(categories=["L", "N", "P", "S"], exclude_characters="/\\:")
_COMPONENTS = (
    st.text(_LETTERS, min_size=1, max_size=8)
    .filter(lambda text: text.strip(".") and not text.startswith((".wh.", ".oci", ".csi-oras")))
    .filter(lambda text: text.isprintable())
    | st.sampled_from(["a" * 90, "b" * 150, "c" * 255, "..a", "a..b"])
)  # fmt: skip
trees = st.dictionaries(
    st.lists(_COMPONENTS, min_size=1, max_size=3).map("/".join),
    st.binary(max_size=700),
    min_size=1,
    max_size=5,
).filter(lambda tree: not any(other.startswith(f"{name}/") for name in tree for other in tree))


class Keeping:
    """A sink that keeps contents by digest."""

    def __init__(self) -> None:
        self.kept: dict[Digest, bytes] = {}

    def add(self, content: Iterable[memoryview], size: int, mode: int) -> File:
        """Take a file's content."""
        data = b"".join(content)
        digest = Digest.of(data)
        self.kept[digest] = data
        return File(digest, size, mode)


def packed(tree: dict[str, bytes], how: str) -> bytes:
    """Return a tree as tarfile packs it, with a link to each file beside it."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w", format=FORMATS[how]) as archive:
        for name, content in tree.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for number, name in enumerate(tree):
            link = tarfile.TarInfo(f"links/{number}")
            link.type, link.linkname = tarfile.SYMTYPE, f"../{name}"
            archive.addfile(link)
    return held.getvalue()


def unpacked(data: bytes) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the files and the links that come out."""
    sink = Keeping()
    extractor = Extractor(Selection(), sink, LIMITS)
    blob = Descriptor.of(data, "a/b")
    archive = PlanArchive(blob=blob, layer=0, rule="fuzz", compression=Compression.NONE)
    extractor.extract(archive, lambda: io.BytesIO(data), SUBJECT)
    found = {"/".join(components): node for components, node in extractor.view.walk()}
    files = {name: sink.kept[node.content] for name, node in found.items() if isinstance(node, File)}
    return files, {name: node.target for name, node in found.items() if isinstance(node, Link)}
