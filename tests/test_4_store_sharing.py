"""What is stored once, on file systems that share blocks and on others, held against what du(1) and df(1) say."""

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from csi_oras import kernel
from csi_oras.errors import StoreBrokenError
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.name import Name
from csi_oras.oci.platform import Platform
from csi_oras.oci.reference import Reference
from csi_oras.oci.selection import Selection
from csi_oras.oci.view import File, View
from csi_oras.store.candidates import Decision, Kind
from csi_oras.store.catalogue import Catalogue, CataloguedPlan, LaidOut
from csi_oras.store.clones import clone
from csi_oras.store.content import ContentStore
from csi_oras.store.database import Database
from csi_oras.store.grants import Grants
from csi_oras.store.leases import Leases
from csi_oras.store.objects import ObjectStore
from csi_oras.store.paths import StatePaths
from csi_oras.store.removal import Remover
from csi_oras.store.sharing import Share, Shares, measure, on_disk
from csi_oras.store.trees import TreeStore
from tests.support.descriptors import opened_below
from tests.support.loop_disk import loop_disk

_KEY = (Platform("linux", "amd64"), Selection().key)
_DISK_MEBIBYTES = 320
"""mkfs.xfs makes nothing below 300; the file is sparse."""
_LARGE = 3 << 20
"""So many bytes that their blocks are what counts."""

needs_root = pytest.mark.needs("root")


class Shelf:
    """A store without a registry: artifacts are put into it as a pull would."""

    def __init__(self, state: Path) -> None:
        self.paths = StatePaths.create(state)
        self.database = Database(self.paths.database)
        self.catalogue = Catalogue(self.database)
        self.content = ContentStore(self.paths, Grants(self.database))
        self.trees = TreeStore(self.paths)

    def blob(self, content: bytes) -> Descriptor:
        blob = Descriptor.of(content, "text/plain")
        self.content.put(blob, content)
        return blob

    def put(
        self,
        name: str,
        *,
        packed: tuple[bytes, ...] = (),
        programs: tuple[bytes, ...] = (),
        files: Mapping[str, bytes] | None = None,
        **more: bytes,
    ) -> Digest:
        """Have an artifact of files, of programs, which have another mode, and of blobs that no tree shows."""
        contents = {**(files or {}), **more}
        view, blobs = View(), [self.blob(content) for content in packed]
        for title, content in contents.items():
            blobs.append(self.blob(content))
            view.add(Name.parse(title), File(blobs[-1].digest, len(content), 0o444, is_blob=True))
        with ObjectStore(self.paths).batch() as batch:
            for number, content in enumerate(programs):
                blobs.append(self.blob(content))
                view.add(Name.parse(f"bin/{number}"), batch.add_blob(blobs[-1], 0o555))
            with batch.committed():
                plan = Digest.of(repr((packed, programs, sorted(contents.items()))).encode())
                self.trees.lay_out(plan, view)
        artifact = Digest.of(name.encode())
        laid_out = LaidOut(plan=plan, size=view.size, files=view.files)
        found = CataloguedPlan(artifact=artifact, laid_out=laid_out)
        digests = [blob.digest for blob in blobs]
        self.catalogue.add(Reference.parse(f"reg.example/{name}:v1"), artifact, found, _KEY, digests)
        return artifact

    def share(self, artifact: Digest) -> Share:
        return Shares(self.paths, self.database).of(artifact)


@contextlib.contextmanager
def opened(state: Path) -> Iterator[Shelf]:
    shelf = Shelf(state)
    yield shelf
    shelf.database.close()  # or the file system below lives on


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    with opened(tmp_path / "state") as shelf:
        yield shelf


@pytest.fixture(params=["btrfs", "xfs"])
def sharing_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with loop_disk(tmp_path / "disk", f"mkfs.{request.param}", "-q", mebibytes=_DISK_MEBIBYTES):
        yield tmp_path / "disk"
        assert opened_below(tmp_path) == [], "the disk would live on"


@pytest.fixture
def sharing_shelf(sharing_disk: Path) -> Iterator[Shelf]:
    with opened(sharing_disk / "state") as shelf:
        yield shelf


def du(*paths: Path) -> int:
    """Bytes on disk, each file once."""
    command = ["du", "--block-size=1", "--summarize", "--total", *map(str, paths)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(said.splitlines()[-1].split()[0])


def used(directory: Path) -> int:
    """Bytes of the whole file system that are taken."""
    os.sync()
    status = os.statvfs(directory)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


# -- copies


@needs_root
def test_clone_shares_all_blocks_where_the_file_system_can(sharing_disk: Path) -> None:
    source, copy = sharing_disk / "source", sharing_disk / "copy"
    content = os.urandom(_LARGE + 17)
    source.write_bytes(content)
    before = used(sharing_disk)
    assert clone(str(source), str(copy), 0o555) == len(content)
    assert used(sharing_disk) - before < _LARGE / 4
    assert copy.read_bytes() == content
    assert copy.stat().st_mode & 0o777 == 0o555
    with source.open("rb") as ours, copy.open("rb") as theirs:
        places = kernel.shared_extents(ours.fileno())
        assert places == kernel.shared_extents(theirs.fileno())
    assert sum(size for _, size in places) >= len(content)


def cannot(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize("after", [0, 5])
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL])
def test_clone_is_a_copy_where_the_kernel_cannot_or_stops_half_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, after: int
) -> None:
    (tmp_path / "source").write_bytes(b"0123456789")
    done: list[int] = []

    def copy_some(source: int, target: int, _count: int) -> int:
        if done or not after:
            raise cannot(number)
        done.append(os.write(target, os.read(source, after)))
        return after

    monkeypatch.setattr(os, "copy_file_range", copy_some)
    assert clone(str(tmp_path / "source"), str(tmp_path / "copy"), 0o555) == 10
    assert (tmp_path / "copy").read_bytes() == b"0123456789"


def test_clone_of_what_cannot_be_read_whole_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").write_bytes(b"0123456789")
    monkeypatch.setattr(os, "copy_file_range", lambda *_: 0)
    with pytest.raises(StoreBrokenError, match="cannot be copied whole"):
        clone(str(tmp_path / "source"), str(tmp_path / "copy"), 0o555)


def test_clone_takes_the_place_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"new")
    (tmp_path / "copy").symlink_to(tmp_path / "canary")
    (tmp_path / "canary").write_bytes(b"alive")
    with pytest.raises(FileExistsError):
        clone(str(tmp_path / "source"), str(tmp_path / "copy"), 0o555)
    assert (tmp_path / "canary").read_bytes() == b"alive"


def test_program_is_an_object_with_the_blobs_bytes(shelf: Shelf) -> None:
    content = os.urandom(_LARGE)
    shelf.put("a", programs=(content,))
    (tree,) = shelf.paths.trees.iterdir()
    assert (tree / "bin/0").read_bytes() == content
    assert (tree / "bin/0").stat().st_mode & 0o777 == 0o555
    blob = Path(shelf.paths.blob(Digest.of(content)))
    assert (blob.stat().st_mode & 0o777, blob.stat().st_nlink) == (0o444, 1)
    assert Path(shelf.paths.object(Digest.of(content), 0o555)).samefile(tree / "bin/0")


def test_program_with_another_digest_than_sha256_is_an_object_by_sha256(shelf: Shelf) -> None:
    hasher = Digest("sha512", "0" * 128).hasher()
    hasher.update(b"#!/bin/sh")
    blob = Descriptor(media_type="text/plain", digest=Digest("sha512", hasher.hexdigest()), size=9)
    shelf.content.put(blob, b"#!/bin/sh")
    with ObjectStore(shelf.paths).batch() as batch:
        assert batch.add_blob(blob, 0o555) == File(Digest.of(b"#!/bin/sh"), 9, 0o555)
        with batch.committed():
            pass
    assert Path(shelf.paths.object(Digest.of(b"#!/bin/sh"), 0o555)).read_bytes() == b"#!/bin/sh"


@pytest.mark.parametrize("damage", ["shorter", "gone"])
def test_program_whose_blob_is_damaged_becomes_no_object(shelf: Shelf, damage: str) -> None:
    blob = shelf.blob(b"#!/bin/sh")
    path = Path(shelf.paths.blob(blob.digest))
    path.unlink()
    if damage == "shorter":
        path.write_bytes(b"#!")
    with pytest.raises(StoreBrokenError), ObjectStore(shelf.paths).batch() as batch:
        batch.add_blob(blob, 0o555)
    assert list(shelf.paths.objects.iterdir()) == []
    assert list(shelf.paths.staging.iterdir()) == []


# -- what is measured


def test_links_save_what_trees_show_more_than_once(shelf: Shelf) -> None:
    shared, one, other = os.urandom(_LARGE), os.urandom(8192), os.urandom(4096)
    shelf.put("a", same=shared, again=shared, f=one)
    shelf.put("b", same=shared, f=other)
    found = measure(shelf.paths)
    assert found.shown == 3 * _LARGE + 8192 + 4096
    assert found.saved_by_links == 2 * _LARGE
    assert found.saved_by_reflinks == 0
    assert (found.blobs.count, found.blobs.size) == (3, _LARGE + 8192 + 4096)
    assert (found.hidden.count, found.objects.count) == (0, 0)


def test_blobs_that_no_tree_shows_are_told_apart(shelf: Shelf) -> None:
    shelf.put("a", packed=(os.urandom(_LARGE), os.urandom(4096)), f=os.urandom(8192))
    found = measure(shelf.paths)
    assert (found.hidden.count, found.hidden.size) == (2, _LARGE + 4096)
    assert found.shown == 8192


def test_store_on_disk_is_what_du_counts(shelf: Shelf) -> None:
    shared = os.urandom(_LARGE)
    shelf.put("a", packed=(os.urandom(9000),), programs=(b"#!/bin/sh",), same=shared, again=shared)
    shelf.put("b", same=shared, f=b"x")
    assert on_disk(shelf.paths) == du(shelf.paths.root)


@needs_root
def test_reflinks_save_what_programs_have_in_common_with_their_blobs(sharing_shelf: Shelf) -> None:
    before = used(sharing_shelf.paths.root)
    program = os.urandom(_LARGE)
    artifact = sharing_shelf.put("a", programs=(program, b"#!/bin/sh"))
    assert used(sharing_shelf.paths.root) - before < 1.5 * _LARGE
    found = measure(sharing_shelf.paths)
    assert _LARGE <= found.saved_by_reflinks <= _LARGE + 4096  # xfs shares the block of the small one, too
    assert found.saved_by_links == 0
    assert on_disk(sharing_shelf.paths) == du(sharing_shelf.paths.root) - found.saved_by_reflinks
    assert _LARGE <= sharing_shelf.share(artifact).own < 1.5 * _LARGE


@needs_root
def test_equal_files_that_are_no_clones_save_nothing(sharing_shelf: Shelf) -> None:
    """Also where a snapshot or a tool has their blocks in common with others."""
    program = os.urandom(_LARGE)
    sharing_shelf.put("a", programs=(program,))
    path = Path(sharing_shelf.paths.object(Digest.of(program), 0o555))
    path.unlink()
    path.write_bytes(program)
    os.sync()
    clone(str(path), str(sharing_shelf.paths.root.parent / "elsewhere"), 0o444)
    clone(sharing_shelf.paths.blob(Digest.of(program)), str(sharing_shelf.paths.root.parent / "elsewhere too"), 0o444)
    os.sync()
    assert measure(sharing_shelf.paths).saved_by_reflinks == 0


@needs_root
def test_copies_beyond_the_most_links_share_blocks(sharing_shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def link_a_few(source: str, name: str, *, dst_dir_fd: int) -> None:
        if Path(source).stat().st_nlink > 2:
            raise cannot(errno.EMLINK)
        link(source, name, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "link", link_a_few)
    before = used(sharing_shelf.paths.root)
    content = os.urandom(_LARGE)
    sharing_shelf.put("a", files={f"f{number}": content for number in range(6)})
    (tree,) = sharing_shelf.paths.trees.iterdir()
    assert len({path.stat().st_ino for path in tree.iterdir()}) == 5
    assert {path.read_bytes() == content for path in tree.iterdir()} == {True}
    assert used(sharing_shelf.paths.root) - before < 1.5 * _LARGE


# -- the share of each artifact


def test_share_of_an_artifact_is_what_goes_with_it(shelf: Shelf) -> None:
    shared, own = os.urandom(_LARGE), os.urandom(2 * _LARGE)
    one = shelf.put("one", packed=(os.urandom(20000),), programs=(own,), same=shared, again=shared, f=own)
    other = shelf.put("other", same=shared, f=b"x")
    found = shelf.share(one)
    assert found.shown == 2 * len(own) + 2 * len(shared)
    assert found.shared == len(shared)
    before = du(shelf.paths.blobs, shelf.paths.objects, shelf.paths.trees)
    remove(shelf, one)
    assert before - du(shelf.paths.blobs, shelf.paths.objects, shelf.paths.trees) == found.own
    left = shelf.share(other)
    assert (left.shared, left.shown) == (0, len(shared) + 1)


def remove(shelf: Shelf, artifact: Digest) -> None:
    """Take an artifact away as a collection does that spares the others."""
    database, paths = shelf.database, shelf.paths
    leases = Leases(paths, database)
    others = [found.digest for found in shelf.catalogue.artifacts() if found.digest != artifact]
    leases.of_wish("others", others)
    decision = Decision(kind=Kind.ARTIFACT, digest=str(artifact), reason="", last_used=float("inf"))
    assert Remover(paths, database, leases, frozenset).remove([decision]) == [decision]


@pytest.mark.parametrize("common", ["tree", "blob"])
def test_what_two_artifacts_have_is_nobodys_own(shelf: Shelf, common: str) -> None:
    content = os.urandom(_LARGE)
    if common == "tree":
        pair = [shelf.put(name, f=content) for name in ("one", "other")]
    else:
        pair = [shelf.put("one", packed=(content,), f=b"1"), shelf.put("other", packed=(content,), f=b"2")]
    for artifact in pair:
        found = shelf.share(artifact)
        assert (found.own < 20000, _LARGE <= found.shared < _LARGE + 20000) == (True, True)
    remove(shelf, pair[0])
    assert shelf.share(pair[1]).own >= _LARGE
    assert shelf.share(pair[1]).shared == 0


def test_share_of_an_artifact_whose_blobs_no_record_names_is_its_own(shelf: Shelf) -> None:
    """As an earlier release has pulled it."""
    artifact = shelf.put("a", f=os.urandom(_LARGE))
    shelf.database.query("DELETE FROM contents")
    assert _LARGE <= shelf.share(artifact).own < _LARGE + 20000


@pytest.mark.parametrize("gone", ["trees", "blobs"])
def test_share_of_what_is_gone_is_nothing(shelf: Shelf, gone: str) -> None:
    artifact = shelf.put("a", packed=(os.urandom(4096),))
    for path in (shelf.paths.trees if gone == "trees" else shelf.paths.blobs / "sha256").iterdir():
        path.rename(shelf.paths.staging / path.name)
    found = shelf.share(artifact)
    assert found.shown == 0
    assert found.own == (4096 if gone == "trees" else du(shelf.paths.trees) - shelf.paths.trees.stat().st_blocks * 512)
