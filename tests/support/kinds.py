"""What a volume shows, and what a tool's own directory would be as one: every name with all that a pod sees of it."""

import errno
import gzip
import io
import json
import os
import stat
import tarfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from tests.support.artifacts import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Layer, Pusher, sha256

DIRECTORY = 0o555
"""The mode of every directory of a volume."""
COMPRESSIONS = ("", "gzip", "zstd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One name: what it is, its mode (a link has none), a file's bytes or a link's target."""

    kind: str
    mode: int = 0
    content: bytes = b""
    owner: tuple[int, int] = (0, 0)
    attributes: tuple[str, ...] = ()


def shown(root: Path) -> dict[str, Shown]:
    """Read everything below `root`, which is "." itself; a single file is "." too."""
    return {os.path.relpath(path, root): _read(path) for path in _walk(root)}


def as_volume(root: Path) -> dict[str, Shown]:
    """What a volume shows of a directory that a tool has made: modes masked, links the shortest way inside of it."""
    expected = {}
    for path in _walk(root):
        name = os.path.relpath(path, root)
        found = _read(path)
        if found.kind == "link":
            target = os.path.join("/", os.path.dirname(name), os.fsdecode(found.content))  # noqa: PTH118, PTH120 (text)
            here = os.path.join("/", os.path.dirname(name))  # noqa: PTH118, PTH120 (the same)
            expected[name] = Shown(kind="link", content=os.path.relpath(target, here).encode())
        elif found.kind == "directory":
            expected[name] = Shown(kind="directory", mode=DIRECTORY)
        else:
            expected[name] = Shown(kind="file", mode=0o555 if found.mode & 0o111 else 0o444, content=found.content)
    return expected


def file(content: bytes, *, executable: bool = False) -> Shown:
    """A file as a volume shows it."""
    return Shown(kind="file", mode=0o555 if executable else 0o444, content=content)


def tree(files: Mapping[str, bytes | Shown]) -> dict[str, Shown]:
    """What a volume of these files shows, with the directories above them."""
    entries = {".": Shown(kind="directory", mode=DIRECTORY)}
    for name, content in files.items():
        for parent in [parent for parent in Path(name).parents if str(parent) != "."]:
            entries[str(parent)] = Shown(kind="directory", mode=DIRECTORY)
        entries[name] = content if isinstance(content, Shown) else file(content)
    return entries


def plant(root: Path, marker: str = "") -> Path:
    """Make a directory of all that an honest tool packs, with `marker` in each content; return it."""
    for name, mode in (("run.sh", 0o755), ("data/one.bin", 0o600), ("data/deep/two.txt", 0o666), ("README.md", 0o644)):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name} {marker}\n")
        path.chmod(mode)
    (root / "empty").write_bytes(b"")
    (root / "nothing in it").mkdir(mode=0o700)
    (root / "data/ünï code").write_bytes(bytes(range(256)) * 600)
    return root


def plant_links(root: Path) -> Path:
    """Add to a planted directory the links that stay inside of it; return it."""
    (root / "data/up").symlink_to("../README.md")
    (root / "data/deep/directory").symlink_to("..")
    (root / "dangling").symlink_to("data/not there")
    (root / "data/same.bin").hardlink_to(root / "data/one.bin")
    return root


def tar(directory: Path, prefix: str = ".") -> bytes:
    """Pack a directory as the tools do, each name below `prefix`."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(directory, arcname=prefix)
    return packed.getvalue()


def compressed(content: bytes, compression: str) -> bytes:
    """Compress by the suffix that media types have: gzip, zstd or none."""
    if compression == "gzip":
        return gzip.compress(content, mtime=0)
    return zstandard.compress(content) if compression == "zstd" else content


def typed(media_type: str, compression: str) -> str:
    """Return the media type of a compressed tar."""
    return f"{media_type}+{compression}" if compression else media_type


def push(
    pusher: Pusher, repository: str, layers: Sequence[Layer], config: Layer, *, tag: str = "v1", **members: Any
) -> str:
    """Push an artifact whose config is no empty one, and return its reference; `members` are its manifest's."""
    pusher.blob(repository, config.content)
    return pusher.artifact(repository, layers, tag, config=config, **members)


def manifest_of(reference: str) -> tuple[bytes, str]:
    """Return the bytes and the media type that the registry has for `address/repository:tag`."""
    address, _, rest = reference.partition("/")
    repository, _, tag = rest.rpartition(":")
    accept = f"{OCI_MANIFEST},{OCI_INDEX},{DOCKER_MANIFEST}"
    request = urllib.request.Request(f"http://{address}/v2/{repository}/manifests/{tag}", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310 (the same)
        return response.read(), str(response.headers["Content-Type"])


def push_index(pusher: Pusher, repository: str, manifests: Mapping[str, bytes], tag: str = "all") -> str:
    """Push an index of manifests, which are there already, each for one platform, and return its reference."""
    entries = [
        {
            "mediaType": OCI_MANIFEST,
            "digest": sha256(content),
            "size": len(content),
            "platform": dict(zip(("os", "architecture", "variant"), platform.split("/"), strict=False)),
        }
        for platform, content in manifests.items()
    ]
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    pusher.manifest(repository, tag, index, OCI_INDEX)
    return f"{pusher.address}/{repository}:{tag}"


def digest_name(content: bytes) -> str:
    """The name of a file that has none."""
    return sha256(content).replace(":", "-")


def _walk(root: Path) -> Iterator[Path]:
    yield root
    if root.is_dir() and not root.is_symlink():
        for child in sorted(root.iterdir()):
            yield from _walk(child)


def _attributes(path: Path) -> list[str]:
    try:
        return os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.ENOTSUP:  # as lazy volumes say
            raise
        return []


def _read(path: Path) -> Shown:
    status = path.lstat()
    attributes = [name for name in _attributes(path) if name != "security.selinux"]
    common: dict[str, Any] = {"owner": (status.st_uid, status.st_gid), "attributes": tuple(attributes)}
    if stat.S_ISLNK(status.st_mode):
        return Shown(kind="link", content=os.fsencode(path.readlink()), **common)
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISDIR(status.st_mode):
        return Shown(kind="directory", mode=mode, **common)
    assert stat.S_ISREG(status.st_mode), path
    return Shown(kind="file", mode=mode, content=path.read_bytes(), **common)
