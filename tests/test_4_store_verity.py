"""fs-verity: sealed behind the commit where kernel and file system can, and told where they cannot."""

import ctypes
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_oras import kernel
from csi_oras.errors import InvalidConfigError
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.store.content import ContentStore
from csi_oras.store.database import Database
from csi_oras.store.grants import Grants
from csi_oras.store.objects import ObjectStore
from csi_oras.store.paths import StatePaths
from csi_oras.store.quarantine import Quarantine
from csi_oras.store.verification import ContentVerifier
from csi_oras.store.verity import Sealer
from tests.support.loop_disk import loop_disk
from tests.support.pods import wait_for

KERNEL_CAN = Path("/sys/fs/ext4/features/verity").exists()
"""What the kernel says itself; it says nothing where it was built without."""


class Sealed:
    """A kernel that can seal: as strict as the real one, and what it has sealed is known by its inode."""

    def __init__(self) -> None:
        self.inodes: set[int] = set()

    def seal(self, descriptor: int, block_size: int) -> None:
        inode = os.fstat(descriptor).st_ino
        if inode in self.inodes:
            raise OSError(errno.EEXIST, "sealed")
        if inode in _written():
            raise OSError(errno.ETXTBSY, "somebody writes it")
        assert block_size in (1024, 4096)
        self.inodes.add(inode)

    def is_sealed(self, descriptor: int) -> bool:
        return os.fstat(descriptor).st_ino in self.inodes


def _written() -> set[int]:
    """The inodes that this process has open for writing."""
    found = set()
    for info in Path("/proc/self/fdinfo").iterdir():
        try:
            if int(info.read_text().split("flags:")[1].split()[0], 8) & os.O_ACCMODE:
                found.add((Path("/proc/self/fd") / info.name).stat().st_ino)
        except FileNotFoundError:  # closed meanwhile
            continue
    return found


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return StatePaths.create(tmp_path / "state")


@pytest.fixture
def sealed(monkeypatch: pytest.MonkeyPatch) -> Sealed:
    able = Sealed()
    monkeypatch.setattr(kernel, "seal", able.seal)
    monkeypatch.setattr(kernel, "is_sealed", able.is_sealed)
    return able


@pytest.fixture
def verity_disk(short_path: Path) -> Iterator[StatePaths]:
    with loop_disk(short_path / "disk", "mkfs.ext4", "-q", "-b", "4096", "-O", "verity"):
        yield StatePaths.create(short_path / "disk" / "state")


def store_blob(paths: StatePaths, sealer: Sealer, data: bytes) -> Path:
    content = ContentStore(paths, Grants(Database(paths.database)), sealer.add)
    blob = Descriptor.of(data, "application/octet-stream")
    content.put(blob, data)
    return content.path(blob.digest)


def test_arguments_are_those_of_the_header() -> None:
    fields = {name: getattr(kernel.VerityArguments, name).offset for name, *_ in kernel.VerityArguments._fields_}
    assert fields == {  # linux/fsverity.h, struct fsverity_enable_arg
        "version": 0, "hash_algorithm": 4, "block_size": 8, "salt_size": 12, "salt_ptr": 16, "sig_size": 24,
        "_reserved1": 28, "sig_ptr": 32, "_reserved2": 40,
    }  # fmt: skip
    size = ctypes.sizeof(kernel.VerityArguments)
    assert 1 << 30 | size << 16 | ord("f") << 8 | 133 == kernel.FS_IOC_ENABLE_VERITY  # _IOW('f', 133, …)


@pytest.mark.needs("root")
def test_blob_on_a_file_system_with_verity_is_sealed_where_the_kernel_can(verity_disk: StatePaths) -> None:
    sealer = Sealer(verity_disk, lambda: "auto")
    assert (sealer.obstacle() == "") is KERNEL_CAN
    blob = store_blob(verity_disk, sealer, b"x" * 100_000)
    if KERNEL_CAN:
        wait_for(lambda: is_sealed(blob))
        with pytest.raises(PermissionError):
            blob.open("r+b")
    else:
        assert sealer.obstacle() == os.strerror(errno.EOPNOTSUPP)
        assert not is_sealed(blob)
    assert blob.read_bytes() == b"x" * 100_000


def is_sealed(path: Path) -> bool:
    with path.open("rb") as file:
        return kernel.is_sealed(file.fileno())


@pytest.mark.needs("root")
def test_on_refuses_a_file_system_without_verity(short_path: Path) -> None:
    with loop_disk(short_path / "disk", "mkfs.ext4", "-q", "-O", "^verity"):
        paths = StatePaths.create(short_path / "disk" / "state")
        with pytest.raises(InvalidConfigError, match=r"store.fsVerity: is on, .* not supported.* set it to auto"):
            Sealer(paths, lambda: "on").check()
        for wanted in ("auto", "off"):
            Sealer(paths, lambda wanted=wanted: wanted).check()  # type: ignore[misc]
        blob = store_blob(paths, Sealer(paths, lambda: "auto"), b"there all the same")
        assert blob.read_bytes() == b"there all the same"
        wait_for(lambda: list(paths.staging.iterdir()) == [])  # a seal behind the commit tries there


@pytest.mark.needs("root")
def test_driver_that_should_seal_and_cannot_does_not_start(short_path: Path) -> None:
    policy = short_path / "policy.yaml"
    policy.write_text("store: {fsVerity: 'on'}\n")
    with loop_disk(short_path / "disk", "mkfs.ext4", "-q", "-O", "^verity"):
        command: list[str | Path] = [
            sys.executable, "-m", "csi_oras", "serve", "--endpoint", f"unix://{short_path}/csi.sock", "--node-id", "n",
            "--state-dir", short_path / "disk" / "state", "--config", policy, "--metrics-address", "127.0.0.1:0",
        ]  # fmt: skip
        ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "store.fsVerity: is on" in ended.stderr
    assert not (short_path / "csi.sock").exists()


def test_blobs_and_objects_are_sealed_after_their_commit(paths: StatePaths, sealed: Sealed) -> None:
    sealer = Sealer(paths, lambda: "auto")
    blob = store_blob(paths, sealer, b"a blob")
    with ObjectStore(paths, sealer.add).batch() as batch:
        batch.add([memoryview(b"an object")], 9, 0o444)
        with batch.committed():
            pass
    placed = Path(paths.object(Digest.of(b"an object"), 0o444))
    wait_for(lambda: {blob.stat().st_ino, placed.stat().st_ino} <= sealed.inodes)


def test_off_seals_nothing_and_asks_nothing(paths: StatePaths, sealed: Sealed) -> None:
    sealer = Sealer(paths, lambda: "off")
    blob = store_blob(paths, sealer, b"x")
    with blob.open("rb") as file:
        assert not sealer.seal(file.fileno())
    assert sealed.inodes == set()


def test_verification_seals_what_is_true_and_has_no_seal(paths: StatePaths, sealed: Sealed) -> None:
    store_blob(paths, Sealer(paths, lambda: "off"), b"whole")
    rotten = store_blob(paths, Sealer(paths, lambda: "off"), b"rotten")
    inode = rotten.stat().st_ino
    rotten.chmod(0o600)
    rotten.write_bytes(b"ROTTEN")
    verifier = ContentVerifier(paths, Quarantine(paths), Sealer(paths, lambda: "auto"))
    for item in verifier.stored():
        verifier.check(item)
    whole = Path(paths.blob(Digest.of(b"whole")))
    assert whole.stat().st_ino in sealed.inodes
    assert inode not in sealed.inodes


def test_file_that_is_still_written_is_left_to_verification(paths: StatePaths, sealed: Sealed) -> None:
    sealer = Sealer(paths, lambda: "auto")
    path = paths.staging / "file"
    with path.open("wb") as writer, path.open("rb") as file:
        assert not sealer.seal(file.fileno())
        writer.close()
        assert sealer.seal(file.fileno())
    assert path.stat().st_ino in sealed.inodes
