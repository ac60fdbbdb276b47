"""Outboxes of this process: volumes that are captured as a driver does, without one, and what becomes of them."""

import json
import os
import stat
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from csi_oras import config
from csi_oras.app import Application
from csi_oras.errors import CsiOrasError
from csi_oras.oci.digest import Digest
from csi_oras.oci.reference import Reference
from csi_oras.registry.credentials import Credential, to_text
from csi_oras.store.outbox import OutboxEntry, OutboxState
from csi_oras.store.writable import Base, WritableVolume, Writing
from csi_oras.telemetry.events import Reason
from csi_oras.transfer.request import PulledArtifact, PullRequest
from csi_oras.volume import attributes
from tests.support.artifacts import TITLE
from tests.support.fake_registry import FakeRegistry

Files = Mapping[str, bytes | None]
"""What a pod writes: contents by name, and None for what it removes."""


class Outboxing:
    """An application with an outbox; ends with `close`."""

    def __init__(self, directory: Path, write_back: str = "") -> None:
        directory.mkdir(exist_ok=True)
        policy = directory / "policy.yaml"
        policy.write_text(f"writeBack: {{{write_back}}}\n")
        self.state = directory / "state"
        self.app = Application(self.state, config.load(policy))
        self.told: list[tuple[Reason, str]] = []
        self.outbox = self.app.outbox(self._tell)
        self._made = 0
        self._ended = threading.Event()

    def resume(self) -> None:
        """Look after the outbox as a driver does, until the end."""
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while not self._ended.is_set():
            self.outbox.look()
            self._ended.wait(0.1)

    def _tell(self, _volume: WritableVolume, reason: Reason, message: str) -> None:
        self.told.append((reason, message))

    def pull(self, reference: str, credential: Credential | None = None, **context: str) -> tuple[PulledArtifact, Base]:
        """Pull an artifact as a volume does, and return what a writable volume over it would note."""
        wanted = attributes.parse({"reference": reference, **context}, {})
        request = PullRequest(
            reference=wanted.reference,
            platform=wanted.platform or self.app.platform,
            selection=wanted.selection,
            policy=wanted.pull_policy,
            credential=credential,
        )
        job = self.app.puller.start(request)
        with self.app.puller.jobs.waiting(job):
            pulled = job.future.result(60)
        base = Base(
            reference=pulled.reference,
            artifact=pulled.artifact,
            plan=pulled.plan,
            platform=request.platform,
            selection=request.selection,
        )
        return pulled, base

    def volume(self, reference: str) -> WritableVolume:
        """Return a new volume without a base, whose tag meant nothing."""
        self._made += 1
        return WritableVolume(
            volume_id=f"volume-{self._made}",
            target="/target",
            reference=Reference.parse(reference),
            tag_meant=None,
            base=None,
            namespace="team",
            pod="writer",
            uid="0f0f",
        )

    def capture(
        self,
        reference: str,
        files: Files,
        *,
        base: Base | None = None,
        meant: Digest | None = None,
        credential: Credential | None = None,
        include: tuple[str, ...] = (),
    ) -> OutboxEntry:
        """Have a pod write, and capture it."""
        volume = replace(self.volume(reference), tag_meant=meant, base=base, include=include)
        writing = self.app.writable.make(volume, to_text(credential))
        write(writing.upper, files)
        captured = self.app.writable.capture(writing)
        if base:
            self.app.leases.of_outbox(captured.directory.name, [base.artifact, base.plan])
        return OutboxEntry(captured)

    def push(self, entry: OutboxEntry) -> Digest:
        """Push an entry, and return the digest."""
        return self.outbox.begin(entry.writing).result(60)

    def failure(self, entry: OutboxEntry) -> CsiOrasError:
        """Push an entry, and return why that is not done."""
        error = self.outbox.begin(entry.writing).exception(60)
        assert isinstance(error, CsiOrasError)
        return error

    def retry(self, entry: OutboxEntry) -> None:
        """Have an entry be due at once."""
        entry.save(replace(entry.state(), due=0))

    def restart(self, directory: Path) -> "Outboxing":
        """Return what another process finds."""
        self.close()
        return Outboxing(directory)

    @property
    def states(self) -> list[OutboxState]:
        """How far the entries are."""
        return [entry.state() for entry in self.app.captured.all()]

    def close(self) -> None:
        """Begin nothing more."""
        self._ended.set()
        self.outbox.close()
        self.app.close()


def write(upper: Path, files: Files) -> None:
    """Write as overlayfs does: what is removed leaves a whiteout."""
    for name, content in files.items():
        path = upper / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            os.mknod(path, stat.S_IFCHR, 0)
        else:
            path.write_bytes(content)


def kept(writing: Writing) -> dict[str, bytes]:
    """Return the files that an entry holds, by name."""
    return {
        str(path.relative_to(writing.upper)): path.read_bytes()
        for path in writing.upper.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def document(fake: FakeRegistry, tag: str = "v1", repository: str = "t/out") -> dict[str, Any]:
    """Return the manifest that a tag means."""
    found: dict[str, Any] = json.loads(fake.manifests[repository][tag][0])
    return found


def titles(fake: FakeRegistry, tag: str = "v1", repository: str = "t/out") -> dict[str, bytes]:
    """Return what an artifact holds by its titles."""
    layers = document(fake, tag, repository)["layers"]
    return {layer["annotations"][TITLE]: fake.blobs[repository][layer["digest"]] for layer in layers}


def tags(fake: FakeRegistry, repository: str = "t/out") -> set[str]:
    """Return the tags of a repository."""
    return {tag for tag in fake.manifests.get(repository, {}) if ":" not in tag}
