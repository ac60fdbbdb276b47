"""Views: all that a volume, an artifact or an exported directory shows, as a table of names that compares.

An artifact is read over the registry's own API, with nothing of ours in between: every digest is checked here.
"""

import gzip
import hashlib
import io
import json
import os
import posixpath
import re
import stat
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from tests.support.artifacts import OCI_MANIFEST, TITLE, Pusher, sha256

View = dict[str, str]
"""What there is by its name: a file's digest, with ` x` if it may be run; where a link leads; an empty directory."""
_EMPTY_DIRECTORY = "an empty directory"
_UNPACK, _MODE = "io.deis.oras.content.unpack", "land.oras.csi.mode"
_REFERRERS = re.compile("sha256-[0-9a-f]{64}")
"""Tags that stand in for the referrers API (distribution-spec, Referrers Tag Schema)."""
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"


def shown(directory: Path) -> View:
    """Everything below a directory that an artifact can carry."""
    view: View = {}
    for parent, directories, files in os.walk(directory):
        here = Path(parent)
        for path in (here / name for name in (*directories, *files)):
            name, status = str(path.relative_to(directory)), path.lstat()
            if stat.S_ISLNK(status.st_mode):
                view[name] = _link(str(path.readlink()))
            elif stat.S_ISREG(status.st_mode):
                with path.open("rb") as file:
                    view[name] = _file(hashlib.file_digest(file, "sha256").hexdigest(), status.st_mode)
            elif stat.S_ISDIR(status.st_mode) and not any(path.iterdir()):
                view[name] = _EMPTY_DIRECTORY
    return view


def _file(digest: str, mode: int) -> str:
    return f"sha256:{digest}{' x' if mode & 0o111 else ''}"


def _link(target: str) -> str:
    return f"leads to {target}"


class Shelves:
    """What is in a registry, as anybody may read it who is no client of ours."""

    def __init__(self, address: str) -> None:
        self._registry = Pusher(address, {"Accept": OCI_MANIFEST})

    def tags(self, repository: str) -> list[str]:
        """The tags of a repository but for what refers to its artifacts; none of one that nobody has pushed to."""
        status, content = self._registry.get(f"/v2/{repository}/tags/list")
        tags = set(json.loads(content)["tags"] or ()) if status == 200 else set()
        referrers = {tag for tag in tags if _REFERRERS.fullmatch(tag)}
        for tag in referrers:
            self._read(f"/v2/{repository}/manifests/{tag.replace('-', ':')}")
        return sorted(tags - referrers)

    def digest(self, repository: str, tag: str) -> str:
        """The digest of what a tag means."""
        return sha256(self._read(f"/v2/{repository}/manifests/{tag}"))

    def view(self, repository: str, tag: str) -> View:
        """What an artifact holds, whose every byte is there and as its digests say."""
        content = self._read(f"/v2/{repository}/manifests/{tag}")
        assert self._read(f"/v2/{repository}/manifests/{sha256(content)}") == content
        document, view = json.loads(content), View()
        self._blob(repository, document["config"])
        for layer in document["layers"]:
            blob = self._blob(repository, layer)
            if layer["mediaType"] != _EMPTY_TYPE:
                view.update(_members(layer.get("annotations", {}), blob))
        parents = {str(parent) for name in view for parent in PurePosixPath(name).parents}
        return {name: what for name, what in view.items() if name not in parents}

    def _blob(self, repository: str, descriptor: Mapping[str, Any]) -> bytes:
        blob = self._read(f"/v2/{repository}/blobs/{descriptor['digest']}")
        assert (sha256(blob), len(blob)) == (descriptor["digest"], descriptor["size"]), f"{descriptor} has rotted"
        return blob

    def _read(self, path: str) -> bytes:
        status, content = self._registry.get(path)
        assert status == 200, f"{path} of the registry is not there: {status}"
        return content


def _members(annotations: Mapping[str, str], blob: bytes) -> View:
    if annotations.get(_UNPACK) == "true":
        return dict(_unpacked(gzip.decompress(blob)))
    mode = int(annotations.get(_MODE, "0644"), 8)
    return {annotations[TITLE]: _file(hashlib.sha256(blob).hexdigest(), mode)}


def _unpacked(content: bytes) -> Iterator[tuple[str, str]]:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = {posixpath.normpath(member.name): member for member in archive}
        for name, member in members.items():
            if member.issym():
                yield name, _link(member.linkname)
            elif member.isfile():
                file = archive.extractfile(member)
                assert file
                yield name, _file(hashlib.file_digest(file, "sha256").hexdigest(), member.mode)  # type: ignore[arg-type]
            elif member.isdir():
                yield name, _EMPTY_DIRECTORY
