import hashlib
import os
import stat
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest

from csi_oras.errors import DigestMismatchError, SizeMismatchError, StoreBrokenError
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.reference import Repository
from csi_oras.store.content import ContentStore, require
from csi_oras.store.database import Database
from csi_oras.store.grants import Grant, Grants
from csi_oras.store.ingest import Ingest
from csi_oras.store.paths import StatePaths
from tests.support.stores import content_store

_TYPE = "application/octet-stream"
_REPOSITORY = Repository(registry="here.test", name="model")


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return StatePaths.create(tmp_path / "state")


@pytest.fixture
def content(paths: StatePaths) -> ContentStore:
    return content_store(paths)


def written(content: ContentStore, claimed: Descriptor, data: bytes) -> tuple[Ingest, Digest]:
    """An ingest of `claimed` that holds `data`, and the digest of it."""
    ingest = content.ingest(claimed)
    assert ingest is not None
    ingest.write(memoryview(data), 0)
    ingest.keep(0, len(data))
    return ingest, Digest.of(data)


def granted(digest: Digest) -> Grant:
    """A grant that names the blob with `digest`."""
    return Grant(_REPOSITORY, digest, "somebody")


def commit_in_group(content: ContentStore, claimed: Descriptor, data: bytes) -> Future[None]:
    """The commit of `data` as `claimed`, together with others."""
    ingest, digest = written(content, claimed, data)
    return content.commit_in_group(ingest, digest, granted(digest))


def test_commit_makes_the_blob_visible_read_only_and_ends_the_ingest(content: ContentStore, paths: StatePaths) -> None:
    blob = Descriptor.of(b"good bytes", _TYPE)
    ingest, digest = written(content, blob, b"good bytes")
    assert not content.has(blob)
    content.commit(ingest, digest)
    assert content.has(blob)
    path = content.path(blob.digest)
    assert path.read_bytes() == b"good bytes"
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert list(paths.ingests.iterdir()) == []


def test_commit_with_wrong_digest_leaves_no_blob(content: ContentStore, paths: StatePaths) -> None:
    blob = Descriptor.of(b"good bytes", _TYPE)
    ingest, digest = written(content, blob, b"evil bytes")
    with pytest.raises(DigestMismatchError, match=blob.digest.encoded):
        content.commit(ingest, digest)
    assert not content.has(blob)
    assert list(paths.ingests.iterdir()) == []
    assert [path for path in paths.blobs.rglob("*") if path.is_file()] == []


def test_commit_of_too_few_bytes_leaves_no_blob(content: ContentStore, paths: StatePaths) -> None:
    blob = Descriptor.of(b"good bytes", _TYPE)
    ingest, digest = written(content, blob, b"good")
    with pytest.raises(SizeMismatchError, match="has 4 bytes instead of 10"):
        content.commit(ingest, digest)
    assert not content.has(blob)
    assert list(paths.ingests.iterdir()) == []


def test_write_beyond_the_size_is_refused(content: ContentStore) -> None:
    ingest = content.ingest(Descriptor.of(b"four", _TYPE))
    assert ingest is not None
    with pytest.raises(SizeMismatchError):
        ingest.write(memoryview(b"fives"), 0)
    with pytest.raises(SizeMismatchError):
        ingest.write(memoryview(b"xy"), 3)
    ingest.close()


def test_commit_syncs_the_file_then_renames_then_syncs_the_directory(
    content: ContentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = Descriptor.of(b"ordered", _TYPE)
    ingest, digest = written(content, blob, b"ordered")
    events: list[str] = []
    real_sync, real_rename = os.fsync, os.rename

    def sync(descriptor: int) -> None:
        events.append("sync directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
        real_sync(descriptor)

    def rename(path: str, target: str) -> None:
        events.append("rename")
        real_rename(path, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "rename", rename)
    content.commit(ingest, digest)
    assert events == ["sync file", "rename", "sync directory"]


def test_group_commit_syncs_a_directory_once_for_many(content: ContentStore, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = [Descriptor.of(b"blob %d" % number, _TYPE) for number in range(40)]
    all_wait, directories = threading.Event(), 0
    real_sync = os.fsync

    def sync(descriptor: int) -> None:
        nonlocal directories
        assert all_wait.wait(30)  # the first group is held until everything else waits for the second
        directories += stat.S_ISDIR(os.fstat(descriptor).st_mode)
        real_sync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    pairs = [written(content, blob, b"blob %d" % number) for number, blob in enumerate(blobs)]
    commits = [content.commit_in_group(ingest, digest, granted(digest)) for ingest, digest in pairs]
    all_wait.set()
    for commit in commits:
        commit.result(30)
    assert all(content.has(blob) for blob in blobs)
    assert directories <= 2


def test_grant_is_there_before_its_blob_is(
    content: ContentStore, paths: StatePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = Descriptor.of(b"seen", _TYPE)
    allowed = []
    real_rename = os.rename

    def rename(path: str, target: str) -> None:
        allowed.append(Grants(Database(paths.database)).allow(_REPOSITORY, blob.digest, "somebody"))
        real_rename(path, target)

    monkeypatch.setattr(os, "rename", rename)
    ingest, digest = written(content, blob, b"seen")
    content.commit(ingest, digest, granted(digest))
    assert allowed == [True]


def test_wrong_blob_brings_no_grant(content: ContentStore, paths: StatePaths) -> None:
    blob = Descriptor.of(b"promised", _TYPE)
    ingest, digest = written(content, blob, b"imposter")
    with pytest.raises(DigestMismatchError):
        content.commit(ingest, digest, granted(blob.digest))
    assert not Grants(Database(paths.database)).allow(_REPOSITORY, blob.digest, "somebody")


def test_group_commit_fails_only_the_blob_that_is_wrong(content: ContentStore) -> None:
    good = [Descriptor.of(b"blob %d" % number, _TYPE) for number in range(20)]
    bad = Descriptor.of(b"promised", _TYPE)
    commits = [commit_in_group(content, blob, b"blob %d" % n) for n, blob in enumerate(good)]
    wrong = commit_in_group(content, bad, b"imposter")
    with pytest.raises(DigestMismatchError):
        wrong.result(30)
    for commit in commits:
        commit.result(30)
    assert all(content.has(blob) for blob in good)
    assert not content.has(bad)


def test_close_commits_what_waits(content: ContentStore) -> None:
    blob = Descriptor.of(b"last", _TYPE)
    commit = commit_in_group(content, blob, b"last")
    content.close()
    assert commit.done()
    assert content.has(blob)


def test_put_of_what_is_there_changes_nothing(content: ContentStore) -> None:
    blob = Descriptor.of(b"{}", _TYPE)
    content.put(blob, b"{}")
    before = content.path(blob.digest).stat()
    content.put(blob, b"{}")
    after = content.path(blob.digest).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_ingest_of_what_is_there_is_none(content: ContentStore) -> None:
    blob = Descriptor.of(b"{}", _TYPE)
    content.put(blob, b"{}")
    assert content.ingest(blob) is None


def test_read_of_a_damaged_blob_is_none(content: ContentStore) -> None:
    blob = Descriptor.of(b'{"a": 1}', _TYPE)
    content.put(blob, b'{"a": 1}')
    assert content.read(blob.digest, 100) == b'{"a": 1}'
    path = content.path(blob.digest)
    path.chmod(0o644)
    path.write_bytes(b'{"a": 2}')
    assert content.read(blob.digest, 100) is None


def test_read_beyond_the_limit_is_none(content: ContentStore) -> None:
    blob = Descriptor.of(b"0123456789", _TYPE)
    content.put(blob, b"0123456789")
    assert content.read(blob.digest, 9) is None
    assert content.read(blob.digest, 10) == b"0123456789"


def test_has_is_false_for_a_blob_of_another_size(content: ContentStore) -> None:
    blob = Descriptor.of(b"0123456789", _TYPE)
    content.put(blob, b"0123456789")
    assert not content.has(Descriptor(media_type=_TYPE, digest=blob.digest, size=9))


def test_require_of_an_absent_blob_says_which(content: ContentStore) -> None:
    blob = Descriptor.of(b"absent", _TYPE)
    with pytest.raises(StoreBrokenError, match=blob.digest.encoded):
        require(content, blob)


def test_sha512_blobs_stand_beside_sha256_blobs(content: ContentStore) -> None:
    digest = Digest("sha512", hashlib.sha512(b"wide").hexdigest())
    blob = Descriptor(media_type=_TYPE, digest=digest, size=4)
    content.put(blob, b"wide")
    assert content.has(blob)
    assert content.path(digest).parent.name == "sha512"


def test_state_directory_is_for_root_alone(paths: StatePaths) -> None:
    assert stat.S_IMODE(paths.root.stat().st_mode) == 0o700


def test_state_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreBrokenError, match="state directory"):
        StatePaths.create(tmp_path / "file")
