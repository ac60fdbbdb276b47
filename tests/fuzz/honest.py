"""Honest archives of any tree, in every format that Python's tarfile writes: they must come out as they went in."""

from hypothesis import strategies as st

from csi_oras.errors import printable
from tests.support.unpacking import FORMATS, Contents, extract, reg, source, sym, tar

__all__ = ["FORMATS", "packed", "trees", "unpacked"]
_LETTERS = st.characters(categories=["L", "N", "P", "S"], exclude_characters="/\\:")
_COMPONENTS = (
    st.text(_LETTERS, min_size=1, max_size=8)
    .filter(lambda text: text.strip(".") and not text.startswith((".wh.", ".oci", ".csi-oras")))
    .filter(lambda text: text.isprintable() and printable(text) == text)
    | st.sampled_from(["a" * 90, "b" * 150, "c" * 255, "..a", "a..b"])
)  # fmt: skip
trees = st.dictionaries(
    st.lists(_COMPONENTS, min_size=1, max_size=3).map("/".join),
    st.binary(max_size=700),
    min_size=1,
    max_size=5,
).filter(lambda tree: not any(other.startswith(f"{name}/") for name in tree for other in tree))


def packed(tree: dict[str, bytes], how: str) -> bytes:
    """Return a tree as tarfile packs it, with a link to each file beside it."""
    links = (sym(f"links/{number}", f"../{name}") for number, name in enumerate(tree))
    return tar(*(reg(name, content) for name, content in tree.items()), *links, how=how)


def unpacked(data: bytes) -> dict[str, str | bytes | None]:
    """Return what comes out, directories aside."""
    sink = Contents()
    found = sink.shown(extract([source(data)], sink).view)
    return {name: content for name, content in found.items() if content is not None}
