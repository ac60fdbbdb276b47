"""Writable volumes on disk: what a pod writes, and all that has to be known to push it when the pod is done.

Each has a directory of its own in `volumes/` that says by itself what it is: a document, the credential of the publish,
and the directories of an overlay. Capture is one rename of all of it into `outbox/`: from then on nothing is lost,
whatever becomes of the database or of the node.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from csi_oras import kernel
from csi_oras.errors import CsiOrasError, StoreBrokenError
from csi_oras.oci.digest import Digest
from csi_oras.oci.glob import Glob
from csi_oras.oci.name import Name
from csi_oras.oci.platform import Platform
from csi_oras.oci.reference import Reference
from csi_oras.oci.selection import Selection
from csi_oras.store.erase import erase
from csi_oras.store.paths import StatePaths, fsync_directory, store_errors
from csi_oras.store.skeleton import MODE, lay_skeleton
from csi_oras.telemetry.logs import logger
from csi_oras.telemetry.secrets import Secret

_DOCUMENT, _CREDENTIAL = "volume.json", "credential.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What a writable volume shows below what is written: an artifact, pinned, and what of it, as its plan says."""

    reference: Reference
    artifact: Digest
    plan: Digest
    platform: Platform
    selection: Selection = field(default_factory=Selection)

    def to_json(self) -> dict[str, Any]:
        """Return its part of the document; the selection as attributes spell it."""
        selection = self.selection
        return {
            "reference": str(self.reference),
            "artifact": str(self.artifact),
            "plan": str(self.plan),
            "platform": str(self.platform),
            "mediaTypes": sorted(selection.media_types),
            "include": [glob.pattern for glob in selection.include],
            "exclude": [glob.pattern for glob in selection.exclude],
            "path": str(selection.path or ""),
            "unpack": selection.unpack,
            "metadata": selection.metadata,
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Read its part of the document.

        Raises:
            LookupError, TypeError, ValueError, CsiOrasError: it is none.
        """
        path = document["path"]
        return cls(
            reference=Reference.parse(document["reference"]),
            artifact=Digest.parse(document["artifact"]),
            plan=Digest.parse(document["plan"]),
            platform=Platform.parse(document["platform"]),
            selection=Selection(
                media_types=frozenset(document["mediaTypes"]),
                include=tuple(map(Glob.parse, document["include"])),
                exclude=tuple(map(Glob.parse, document["exclude"])),
                path=Name.parse(path, portable=False) if path else None,
                unpack=document["unpack"],
                metadata=document["metadata"],
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WritableVolume:
    """What is known of a writable volume when it is published; `tag_meant` is what its tag meant then, if anything.

    `include` and `exclude` are globs over what it shows last.
    """

    volume_id: str
    target: str
    reference: Reference
    tag_meant: Digest | None
    base: Base | None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    namespace: str = ""
    pod: str = ""
    uid: str = ""
    created: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))

    @property
    def key(self) -> str:
        """The name of its directory; no text from outside is in it."""
        return key_of(self.volume_id, self.target)

    def to_json(self) -> dict[str, Any]:
        """Return the document."""
        return {
            "volumeId": self.volume_id,
            "target": self.target,
            "reference": str(self.reference),
            "tagMeant": str(self.tag_meant or ""),
            "base": self.base and self.base.to_json(),
            "include": list(self.include),
            "exclude": list(self.exclude),
            "namespace": self.namespace,
            "pod": self.pod,
            "uid": self.uid,
            "created": self.created.isoformat(),
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Read a document of ours.

        Raises:
            LookupError, TypeError, ValueError, CsiOrasError: it is none.
        """
        return cls(
            volume_id=document["volumeId"],
            target=document["target"],
            reference=Reference.parse(document["reference"]),
            tag_meant=Digest.parse(document["tagMeant"]) if document["tagMeant"] else None,
            base=document["base"] and Base.from_json(document["base"]),
            include=tuple(document["include"]),
            exclude=tuple(document["exclude"]),
            namespace=document["namespace"],
            pod=document["pod"],
            uid=document["uid"],
            created=datetime.fromisoformat(document["created"]),
        )


def key_of(volume_id: str, target: str) -> str:
    """Return the name of the directory of a writable volume."""
    return hashlib.sha256(f"{volume_id}\0{target}".encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Writing:
    """The directory of a writable volume, live or captured."""

    directory: Path

    @property
    def upper(self) -> Path:
        """What the pod has written."""
        return self.directory / "upper"

    @property
    def work(self) -> Path:
        """What overlayfs needs beside it."""
        return self.directory / "work"

    @property
    def skeleton(self) -> Path:
        """The directories of what is below it; nothing where it starts empty."""
        return self.directory / "skeleton"

    def volume(self) -> WritableVolume:
        """Return what is known of the volume.

        Raises:
            StoreBrokenError: it cannot be read.
        """
        subject = f"document of {self.directory.name}"
        with store_errors(subject):
            content = (self.directory / _DOCUMENT).read_bytes()
        try:
            return WritableVolume.from_json(json.loads(content))
        except (LookupError, TypeError, ValueError, CsiOrasError) as error:
            cause = f"cannot be read ({type(error).__name__})"
            raise StoreBrokenError(subject, cause, "export what was --written, then drop it") from error

    def note_tag(self, meant: Digest) -> None:
        """Note that the tag means `meant` by our own doing, and may be moved on from there.

        Raises:
            NoSpaceError, StoreBrokenError: the store fails; it says what it did.
        """
        made = self.directory / f"{_DOCUMENT}.new"
        document = replace(self.volume(), tag_meant=meant).to_json()
        with store_errors(f"document of {self.directory.name}"):
            made.unlink(missing_ok=True)
            _write(made, json.dumps(document, indent=2))
            made.replace(self.directory / _DOCUMENT)

    def credential(self) -> Secret:
        """Return the credential of the publish, as it was given; nothing where it is gone."""
        with store_errors(f"credential of {self.directory.name}"):
            try:
                return Secret((self.directory / _CREDENTIAL).read_text())
            except FileNotFoundError:
                return Secret("")

    def remove(self) -> None:
        """Remove all of it, the credential first."""
        with suppress(FileNotFoundError):
            (self.directory / _CREDENTIAL).unlink()
        erase(self.directory)


class WritableVolumes:
    """The writable volumes that are mounted, and the outbox of those that were."""

    def __init__(self, paths: StatePaths) -> None:
        self._live = paths.root / "volumes"
        self._outbox = paths.root / "outbox"
        with store_errors("state directory"):
            for directory in (self._live, self._outbox):
                directory.mkdir(mode=0o700, exist_ok=True)

    def make(self, volume: WritableVolume, credential: Secret, tree: Path | None = None) -> Writing:
        """Make the directory of a volume above `tree`, or return the one that a publish before this one has made.

        Raises:
            NoSpaceError: the disk is full.
            StoreBrokenError: the store fails.
        """
        writing = Writing(self._live / volume.key)
        with store_errors("writable volume"):
            if (writing.directory / _DOCUMENT).exists():
                return writing
            writing.remove()  # what a crash has left of making it: nothing was written to it
            try:
                self._fill(writing, volume, credential, tree)
            except BaseException:
                writing.remove()
                raise
        return writing

    def _fill(self, writing: Writing, volume: WritableVolume, credential: Secret, tree: Path | None) -> None:
        """Make all of a directory, the document last: it says that the rest is there."""
        writing.directory.mkdir(mode=0o700)
        for directory in (writing.upper, writing.work, writing.skeleton):
            directory.mkdir()
        writing.upper.chmod(MODE)
        if tree:
            lay_skeleton(tree, writing.skeleton)
        _write(writing.directory / _CREDENTIAL, credential.reveal())
        _write(writing.directory / _DOCUMENT, json.dumps(volume.to_json(), indent=2))
        fsync_directory(writing.directory)
        fsync_directory(self._live)

    def find(self, volume_id: str, target: str) -> Writing | None:
        """Return the directory of a live volume, if there is one."""
        writing = Writing(self._live / key_of(volume_id, target))
        return writing if (writing.directory / _DOCUMENT).exists() else None

    def capture(self, writing: Writing) -> Writing:
        """Move a volume that nobody can write to any more into the outbox, durably, with all that it holds.

        Raises:
            StoreBrokenError: the store fails; the volume is where it was.
        """
        moment = datetime.now(UTC)
        captured = Writing(
            self._outbox / f"{moment:%Y%m%dT%H%M%S}-{moment.microsecond:06d}-{writing.directory.name[:12]}"
        )
        with store_errors("outbox"):
            descriptor = os.open(writing.upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                kernel.syncfs(descriptor)
            finally:
                os.close(descriptor)
            writing.directory.rename(captured.directory)
            fsync_directory(self._outbox)
            fsync_directory(self._live)
        return captured

    def captured(self) -> Iterator[Writing]:
        """Yield what is in the outbox, the oldest first."""
        with store_errors("outbox"):
            names = sorted(entry.name for entry in self._outbox.iterdir() if not entry.name.startswith("."))
        for name in names:
            yield Writing(self._outbox / name)

    def leaving(self) -> list[Path]:
        """Return what is left of entries that are out of the outbox."""
        with store_errors("outbox"):
            return sorted(entry for entry in self._outbox.iterdir() if entry.name.startswith("."))

    def live(self) -> Iterator[Writing]:
        """Yield the directories of volumes that are, or were, mounted; none that is in the making."""
        with store_errors("writable volumes"):
            for directory in sorted(self._live.iterdir()):
                if (directory / _DOCUMENT).exists():
                    yield Writing(directory)

    def sweep(self) -> None:
        """Remove what a crash has left of making a volume; call it before any is made."""
        with store_errors("writable volumes"):
            for directory in self._live.iterdir():
                if not (directory / _DOCUMENT).exists():
                    logger.warning("removes what a crash has left of making a writable volume", key=directory.name)
                    Writing(directory).remove()


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
