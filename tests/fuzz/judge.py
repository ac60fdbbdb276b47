"""What must hold of everything that comes out of the unpacker, whatever went in."""

from collections.abc import Iterable, Sequence

from csi_oras.errors import MESSAGE_LIMIT, CsiOrasError
from csi_oras.oci.digest import Digest
from csi_oras.oci.name import Name
from csi_oras.oci.view import Directory, File, Link, Node, View

MOST_BYTES = 8 << 20
MOST_MEMBERS = 500
_MOST_LINKS = 40
_CONTROL = frozenset(map(chr, (*range(32), *range(127, 160))))


class Contents:
    """A sink that keeps nothing, and holds each file to its size."""

    def __init__(self) -> None:
        self.size = 0

    def add(self, content: Iterable[memoryview], size: int, mode: int) -> File:
        """Take a file's content."""
        data = b"".join(content)
        assert len(data) == size
        assert mode in (0o444, 0o555)
        self.size += size
        assert self.size <= MOST_BYTES
        return File(Digest.of(data), size, mode)


def assert_refusal(error: CsiOrasError, subject: str) -> None:
    """Hold a refusal to a message that a person can read on a pod, and that names what it is about."""
    assert subject in error.message
    assert not _CONTROL & set(error.message)
    assert len(error.message.encode()) <= MESSAGE_LIMIT
    assert error.cause


def assert_view(view: View) -> None:
    """Hold a view to names that are safe and links that never lead out, whichever of them are followed."""
    for count, (components, node) in enumerate(view.walk()):
        assert count <= MOST_MEMBERS * 64
        assert Name.parse("/".join(components), portable=False).components == components
        if isinstance(node, File):
            assert node.mode in (0o444, 0o555)
        elif isinstance(node, Link):
            assert node.target
            assert not node.target.startswith("/")
            _follow(view, components[:-1], node.target)


def _follow(view: View, here: tuple[str, ...], target: str) -> None:
    """Walk as the kernel would, links on the way and all; leaving the root is the failure."""
    at, left, links = list(here), target.split("/"), 0
    while left:
        component = left.pop(0)
        if component in ("", "."):
            continue
        if component == "..":
            assert at, f"{'/'.join(here)} -> {target} leaves the volume"
            at.pop()
            continue
        node = _node(view, [*at, component])
        if isinstance(node, Link):
            links += 1
            if links > _MOST_LINKS:
                return
            left = [*node.target.split("/"), *left]
        elif node is None:
            # nothing is there, so that the kernel stops; what is left must not lead out either
            at.append(component)
        else:
            at.append(component)


def _node(view: View, components: Sequence[str]) -> Node | None:
    node: Node | None = view.root
    for component in components:
        node = node.children.get(component) if isinstance(node, Directory) else None
    return node
