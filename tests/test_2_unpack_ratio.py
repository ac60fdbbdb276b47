"""The ratio of packed to unpacked bytes holds for an artifact, not for each of its layers anew."""

from collections.abc import Iterable

import pytest

from csi_oras.errors import LimitExceededError
from csi_oras.oci.digest import Digest
from csi_oras.oci.glob import Glob
from csi_oras.oci.plan import Compression
from csi_oras.oci.selection import Selection
from csi_oras.oci.view import File
from tests.support import tars
from tests.support.unpacking import EVERYTHING, extract, source


class Nowhere:
    """A sink that forgets."""

    def add(self, content: Iterable[memoryview], size: int, mode: int) -> File:
        assert sum(map(len, content)) == size
        return File(Digest.of(b""), size, mode)


def unpack(contents: list[bytes], selection: Selection = EVERYTHING) -> int:
    """Unpack image layers, and return how many files are there."""
    sources = [
        source(content, Compression.GZIP, layer=number, is_image_layer=True) for number, content in enumerate(contents)
    ]
    return extract(sources, Nowhere(), selection).view.files


def bomb(name: str, size: int = 40 << 20) -> bytes:
    return tars.gzip(tars.tar([{"name": name, "zeros": size}]))


def test_layers_of_zeros_are_refused_together_where_each_would_pass() -> None:
    assert unpack([bomb("a")]) == 1
    with pytest.raises(LimitExceededError, match=r"layer 1 .*: the archives up to here hold more than 200 times their"):
        unpack([bomb("a"), bomb("b")])


def test_layer_that_comes_again_is_packed_once() -> None:
    with pytest.raises(LimitExceededError, match="layer 1"):
        unpack([bomb("a")] * 1000)


def test_layers_of_honest_ratios_are_taken_however_many_there_are() -> None:
    assert unpack([bomb(str(number), 1 << 20) for number in range(60)]) == 60


def test_layer_that_is_read_twice_for_its_hard_links_counts_once() -> None:
    assert unpack([bomb("a")], Selection(include=(Glob.parse("a"),))) == 1
