"""What becomes of volumes that pods have written to: overlays of a real kernel, packed, and unpacked again."""

import gzip
import os
import random
import re
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from csi_oras.oci.glob import Glob
from csi_oras.oci.selection import Selection
from csi_oras.pack.layers import Reused
from tests.support.artifacts import Layer, files
from tests.support.kinds import Shown, as_volume, shown
from tests.support.kinds_archives import oras_directory
from tests.support.overlays import Base, Overlay
from tests.support.unpacking import directory, reg, sym, tar

pytestmark = pytest.mark.needs("root")


_DIRECTORY = "application/vnd.oci.image.layer.v1.tar+gzip"


def titles(base: Base) -> list[str]:
    return [layer.title or layer.annotations["org.opencontainers.image.title"] for layer in base.layers]


def laid_out(base: Base, directory: Path) -> dict[str, Shown]:
    directory.mkdir()
    base.lay_out(directory)
    return shown(directory)


class Pod:
    """Does this and that to a directory; links it makes stay inside."""

    def __init__(self, root: Path, chance: random.Random) -> None:
        self._root = root
        self._chance = chance

    def act(self) -> None:
        try:
            self._chance.choice(
                [self._write, self._write, self._remove, self._rename, self._mkdir, self._link, self._hard_link,
                 self._mode, self._replace]
            )()  # fmt: skip
        except OSError:  # what is no directory, is not there, or is in the way
            return

    def _some(self) -> Path:
        depth = self._chance.randint(1, 3)
        return self._root.joinpath(*(self._chance.choice("abc") for _ in range(depth)))

    def _write(self) -> None:
        path = self._some()
        if path.is_symlink():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self._chance.randbytes(self._chance.choice([0, 1, 700])))

    def _remove(self) -> None:
        path = self._some()
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()

    def _rename(self) -> None:
        source, target = self._some(), self._some()
        if source.is_dir() and not source.is_symlink():
            if target not in source.parents and source not in target.parents:  # as mv(1) where rename(2) is not had
                shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
                shutil.rmtree(source)
        elif not source.is_symlink():
            source.rename(target)

    def _mkdir(self) -> None:
        self._some().mkdir(parents=True)

    def _link(self) -> None:
        path, target = self._some(), self._some()
        if os.path.realpath(path.parent) == str(path.parent) and path.parent.is_dir():
            path.symlink_to(os.path.relpath(target, path.parent))

    def _hard_link(self) -> None:
        self._some().hardlink_to(self._some())

    def _mode(self) -> None:
        path = self._some()
        if not path.is_symlink():
            path.chmod(self._chance.choice([0o755, 0o600, 0o6711]))

    def _replace(self) -> None:
        path = self._some()
        self._remove_quietly(path)
        if self._chance.random() < 0.5:
            path.mkdir()
        else:
            path.touch()

    def _remove_quietly(self, path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def remove_strays(root: Path) -> None:
    """Take links away that lead out since they were moved."""
    for path, names, others in os.walk(root):
        for place in (Path(path, name) for name in (*names, *others)):
            if place.is_symlink() and os.path.normpath(place.parent.relative_to(root) / place.readlink())[:2] == "..":
                place.unlink()


_NESTED = [
    oras_directory("a/b", tar(directory("a/b"), reg("a/b/a"), sym("a/b/c", "a"))),
    oras_directory("a", tar(directory("a"), reg("a/a"), directory("a/c"))),
    *files(c=b"whole"),
    Layer(content=b"beside the archive", title="a/b/b"),
]
_PACKED = [
    oras_directory(".", tar(directory("."), reg("a"), directory("b/c"), sym("b/a", "../a"))),
    oras_directory("c", tar(directory("c"), reg("c/a", mode=0o755))),
    Layer(content=b"beside the archive", title="c/b"),
]
_OF_ORAS_PY = [
    Layer(content=gzip.compress(tar(reg("b/a"), reg("b/b/c"))), title="a/b", media_type=_DIRECTORY),
    *files(b=b"whole"),
]


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What is pushed: as globs, and as an expression that every name of it or a directory above it matches."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    included: str = ".*"
    excluded: str = "(?!)"

    @property
    def selection(self) -> Selection:
        return Selection(include=tuple(map(Glob.parse, self.include)), exclude=tuple(map(Glob.parse, self.exclude)))

    def of(self, tree: dict[str, Shown]) -> dict[str, Shown]:
        """Leave of a tree what passes, and the directories above that."""
        passing = {name for name in tree if self._passes(name)}
        above = {str(parent) for name in passing for parent in Path(name).parents}
        return {name: found for name, found in tree.items() if name in passing | above | {"."}}

    def _passes(self, name: str) -> bool:
        at = [name, *map(str, Path(name).parents)]
        return any(re.fullmatch(self.included, one) for one in at) and not any(
            re.fullmatch(self.excluded, one) for one in at if one != "."
        )


_PUSHED = [
    Pushed(),
    Pushed(),
    Pushed(exclude=("c", "a/b"), excluded="c|a/b"),
    Pushed(exclude=("*/c",), excluded="[^/]+/c"),
    Pushed(exclude=("a/**",), excluded="a/.+"),
    Pushed(exclude=("**/a",), excluded="(.*/)?a"),
    Pushed(include=("a", "b/*/c"), included="a|b/[^/]+/c"),
    Pushed(include=("**/b",), exclude=("b/a",), included="(.*/)?b", excluded="b/a"),
    Pushed(include=("a/b/**", "c"), exclude=("**/c/c",), included="a/b/.+|c", excluded="(.*/)?c/c"),
]


@pytest.mark.parametrize("seed", range(40))
def test_volume_is_shown_by_what_is_pushed_as_the_kernel_showed_it_last(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 (which things a pod does)
    base = Base(layers=chance.choice([[], _NESTED, _PACKED, _OF_ORAS_PY]))
    for generation in range(3):
        overlay = Overlay(tmp_path / str(generation), base)
        with overlay.mounted() as root:
            pod = Pod(root, chance)
            for _ in range(chance.choice([1, 6, 20])):
                pod.act()
            remove_strays(root)
            left = as_volume(root)
        pushed = chance.choice(_PUSHED)
        before, expected = shown(overlay.tree), pushed.of(left)
        assert overlay.survey(pushed.selection).is_changed or expected == before
        base = overlay.pushed(pushed.selection, most_files=chance.choice([0, 3, 100]))
        assert laid_out(base, tmp_path / f"{generation}-after") == expected
        assert max(Counter(titles(base)).values(), default=1) == 1


def test_packed_directory_that_nothing_touches_is_not_looked_into(tmp_path: Path) -> None:
    overlay = Overlay(tmp_path / "volume", Base(layers=_NESTED[1:3]))
    shutil.rmtree(overlay.tree / "a" / "c")
    (overlay.tree / "a" / "unseen").touch()
    with overlay.mounted() as root:
        (root / "c").unlink()
        (root / "new").touch()
    assert [layer.title for layer in overlay.survey().layers] == ["a", "new"]
    assert overlay.pushed().layers[0].content == _NESTED[1].content


@pytest.mark.parametrize(
    ("exclude", "is_seen"), [("*.tmp", False), ("c/*/x", False), ("c", False), ("**/x", True), ("a/x", True)]
)
def test_packed_directory_is_looked_into_where_a_part_of_it_may_be_left_out(
    tmp_path: Path, exclude: str, *, is_seen: bool
) -> None:
    overlay = Overlay(tmp_path / "volume", Base(layers=_NESTED[1:3]))
    os.mkfifo(overlay.tree / "a" / "fifo")
    found = overlay.survey(Selection(exclude=(Glob.parse(exclude),)))
    assert [one.name for one in found.uncarriable] == (["a/fifo"] if is_seen else [])
    assert isinstance(found.layers[0], Reused)


def test_volume_that_nobody_wrote_to_is_its_base_unchanged(tmp_path: Path) -> None:
    overlay = Overlay(tmp_path / "volume", Base(layers=_NESTED))
    with overlay.mounted() as root:
        (root / "a" / "new").touch()
        (root / "a" / "new").unlink()
    found = overlay.survey()
    assert not found.is_changed
    pushed = overlay.pushed()
    assert sorted(layer.content for layer in pushed.layers) == sorted(layer.content for layer in _NESTED)


def test_equal_content_makes_equal_layers(tmp_path: Path) -> None:
    made = []
    for number in range(2):
        overlay = Overlay(tmp_path / str(number))
        with overlay.mounted() as root:
            names = ["b", "a", "c"] if number else ["a", "c", "b"]
            for name in names:
                (root / "d" / name).mkdir(parents=True)
                (root / "d" / name / "file").write_bytes(name.encode())
                (root / "d" / name / "file").chmod(0o600 + number * 0o44)
            (root / "d" / "link").symlink_to("a")
        made.append(overlay.pushed())
    assert made[0] == made[1]
