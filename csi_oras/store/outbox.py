"""The outbox on disk: captured volumes, how far each is, and a lock on each, so that one process at a time pushes it.

An entry says by itself all there is to know. It leaves the outbox by one rename, so that what is left of removing it
is never taken for what a pod wrote.
"""

import fcntl
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Self

from csi_oras.errors import VolumeBusyError, VolumeNotFoundError, printable
from csi_oras.store.measure import measure
from csi_oras.store.paths import fsync_directory, store_errors
from csi_oras.store.writable import WritableVolumes, Writing

_STATE = "state.json"
_LARGEST_STATE = 64 << 10
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class EntryState(StrEnum):
    """What becomes of an entry."""

    WAITING = "waiting"
    PUSHING = "pushing"
    FAILED = "failed"
    """Not tried again by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxState:
    """How far an entry is; `refusals` are the last attempts that were refused, `deaths` the last that were killed.

    `due` is seconds since the epoch.
    """

    state: EntryState = EntryState.WAITING
    attempts: int = 0
    refusals: int = 0
    deaths: int = 0
    error: str = ""
    due: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the document."""
        return {
            "state": str(self.state),
            "attempts": self.attempts,
            "refusals": self.refusals,
            "deaths": self.deaths,
            "error": self.error,
            "next": self.due,
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Read a document of ours.

        Raises:
            LookupError, TypeError, ValueError: it is none.
        """
        return cls(
            state=EntryState(document["state"]),
            attempts=int(document["attempts"]),
            refusals=int(document["refusals"]),
            deaths=int(document.get("deaths", 0)),  # which older releases do not count
            error=str(document["error"]),
            due=float(document["next"]),
        )


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """One captured volume."""

    writing: Writing

    @property
    def id(self) -> str:
        """What it is called by people and in leases."""
        return self.writing.directory.name

    def state(self) -> OutboxState:
        """Return how far it is; one that nobody has begun, or whose state is torn, waits."""
        try:
            with (self.writing.directory / _STATE).open("rb") as file:
                return OutboxState.from_json(json.loads(file.read(_LARGEST_STATE)))
        except (OSError, LookupError, TypeError, ValueError):
            return OutboxState()

    def save(self, state: OutboxState) -> None:
        """Replace how far it is; whoever does holds the lock.

        Raises:
            NoSpaceError, StoreBrokenError: the store fails.
        """
        made = self.writing.directory / f"{_STATE}.new"
        with store_errors(f"outbox entry {self.id}"):
            made.write_text(json.dumps(state.to_json()))
            made.replace(self.writing.directory / _STATE)

    def retry(self) -> None:
        """Have it be due at once, whatever became of it before.

        Raises:
            VolumeBusyError: it is being pushed.
            VolumeNotFoundError, NoSpaceError, StoreBrokenError: it is gone, or the store fails.
        """
        with self.locked():
            self.save(OutboxState(attempts=self.state().attempts, due=time.time()))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the entry in a with statement; no other process touches it meanwhile.

        Raises:
            VolumeBusyError: another one holds it.
            VolumeNotFoundError: it is gone.
        """
        subject = f"outbox entry {self.id}"
        try:
            descriptor = os.open(self.writing.directory, _DIRECTORY)
        except FileNotFoundError:
            raise gone(self.id) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self._is_here(descriptor):
                raise gone(self.id)
            yield
        except BlockingIOError:
            remedy = "try again when that attempt ends: of a registry that does not answer any more, within minutes"
            raise VolumeBusyError(subject, "is being pushed at this moment", remedy) from None
        finally:
            os.close(descriptor)

    def _is_here(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.lstat(self.writing.directory))
        except FileNotFoundError:
            return False

    def is_locked(self) -> bool:
        """Say whether somebody works on it now."""
        try:
            with self.locked():
                return False
        except VolumeBusyError:
            return True
        except VolumeNotFoundError:
            return False

    def shown(self) -> OutboxState:
        """Return how far it is, for people: who was killed does not push any more."""
        state = self.state()
        is_left = state.state is EntryState.PUSHING and not self.is_locked()
        return replace(state, state=EntryState.WAITING) if is_left else state

    def size(self) -> int:
        """Return the bytes of the files that were written, as far as they can be reached.

        Raises:
            StoreBrokenError: it cannot be read, or is removed at this moment.
        """
        with store_errors(f"outbox entry {self.id}"):
            return measure(self.writing.upper)[0]

    def remove(self) -> None:
        """Take it out of the outbox at once, and then off the disk, the credential first; whoever does holds the lock.

        Raises:
            StoreBrokenError: the store fails; the entry is still there.
        """
        leaving = self.writing.directory.with_name(f".{self.id}")
        with store_errors(f"outbox entry {self.id}"):
            self.writing.directory.rename(leaving)
            fsync_directory(leaving.parent)
        Writing(leaving).remove()


class OutboxEntries:
    """What is in the outbox."""

    def __init__(self, volumes: WritableVolumes) -> None:
        self._volumes = volumes

    def all(self) -> list[OutboxEntry]:
        """Return the entries, the oldest first."""
        return [OutboxEntry(writing) for writing in self._volumes.captured()]

    def find(self, name: str) -> OutboxEntry:
        """Return an entry by its id.

        Raises:
            VolumeNotFoundError: there is none.
        """
        for entry in self.all():
            if entry.id == name:
                return entry
        raise gone(name)

    def count(self) -> Counter[EntryState]:
        """Return how many entries there are in each state."""
        return Counter(entry.shown().state for entry in self.all())

    def sweep(self) -> None:
        """Finish what a crash has left of removing entries."""
        for directory in self._volumes.leaving():
            descriptor = os.open(directory, _DIRECTORY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                Writing(directory).remove()
            except BlockingIOError:  # it is being removed
                continue
            finally:
                os.close(descriptor)


def gone(name: str) -> VolumeNotFoundError:
    """Return what is said of an entry that is not there."""
    return VolumeNotFoundError(
        f'outbox entry "{printable(name, 80)}"', "is not in the outbox", "see: csi-oras outbox ls"
    )
