"""A runner for a driver or a command that kills itself (-9) at a named point, right after a step was taken so often.

`python -m tests.support.dying_driver POINT COUNT python -m csi_oras serve …`: what is run is the program as it is
shipped, with its steps wrapped here; it knows of no points itself. The point "any step" is each change of a mount, a
target or a record that a call makes, so that each moment between two of them is as likely as any other, however short
it is.
"""

import functools
import itertools
import os
import runpy
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from csi_oras import kernel
from csi_oras.mount.target import Target
from csi_oras.registry.pushes import PushClient
from csi_oras.registry.upload_session import UploadSession
from csi_oras.store import removal
from csi_oras.store.catalogue import Catalogue
from csi_oras.store.grants import Grants
from csi_oras.store.ingest import Ingest
from csi_oras.store.leases import Leases
from csi_oras.store.objects import ObjectBatch
from csi_oras.store.outbox import EntryState, OutboxEntry, OutboxState
from csi_oras.store.trees import TreeStore
from csi_oras.store.volumes import VolumeRecord, VolumeRecords, VolumeState
from csi_oras.store.writable import WritableVolumes
from csi_oras.transfer.compose import Composer


@dataclass(frozen=True)
class Step:
    """A function whose calls are steps, those that `counts` lets pass by their arguments."""

    owner: Any
    name: str
    counts: Callable[..., bool] = lambda *_arguments, **_options: True


def _in_a_call(*_arguments: Any, **_options: Any) -> bool:
    return threading.current_thread().name.startswith("call")


def _into(directory: str) -> Callable[..., bool]:
    return lambda _source, target, **_options: f"/{directory}/" in os.fspath(target)


def _from(directory: str) -> Callable[..., bool]:
    return lambda path, *_target, **_options: f"/{directory}/" in os.fspath(path)


def _puts(state: VolumeState) -> Callable[..., bool]:
    def counts(_records: VolumeRecords, record: VolumeRecord) -> bool:
        return record.state is state

    return counts


def _claims(_entry: OutboxEntry, state: OutboxState) -> bool:
    return state.state is EntryState.PUSHING


def _holds(*, any_of_them: bool) -> Callable[..., bool]:
    return lambda _leases, _entry, digests: bool(digests) is any_of_them


def _is_by_digest(_pushes: PushClient, identifier: str, *_manifest: Any) -> bool:
    return ":" in identifier


def _is_by_tag(_pushes: PushClient, identifier: str, *_manifest: Any) -> bool:
    return ":" not in identifier


def _runs(beginning: str) -> Callable[..., bool]:
    return lambda _connection, statement, *_values: statement.lstrip().startswith(beginning)


class _Connection(sqlite3.Connection):
    """A connection whose statements can be wrapped, which those of a C type cannot."""

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        return super().execute(*arguments)


POINTS: Mapping[str, list[Step]] = {
    "any step": [
        Step(owner, name, _in_a_call)
        for owner, name in (
            (kernel, "move_mount"), (kernel, "unmount"), (Target, "create"), (Target, "remove"),
            (VolumeRecords, "put"), (VolumeRecords, "drop"),
        )
    ],
    "piece written": [Step(Ingest, "write")],
    "extent kept": [Step(Ingest, "keep")],
    "grant recorded": [Step(Grants, "add")],
    "blob renamed": [Step(os, "rename", _into("blobs"))],
    "member unpacked": [Step(ObjectBatch, "add")],
    "object visible": [Step(os, "link", _into("objects"))],
    "file laid out": [Step(TreeStore, "_place")],
    "tree renamed": [Step(os, "rename", _into("trees"))],
    "artifact catalogued": [Step(Catalogue, "add")],
    "intent recorded": [Step(VolumeRecords, "put", _puts(VolumeState.PUBLISHING))],
    "volume recorded": [Step(VolumeRecords, "put", _puts(VolumeState.PUBLISHED))],
    "target made": [Step(Target, "create")],
    "mounted": [Step(kernel, "move_mount")],
    "unmounted": [Step(kernel, "unmount")],
    "target removed": [Step(Target, "remove")],
    "record dropped": [Step(VolumeRecords, "drop")],
    "table made": [Step(_Connection, "execute", _runs("CREATE TABLE"))],
    "committed": [Step(_Connection, "execute", _runs("COMMIT"))],
    "artifact forgotten": [Step(_Connection, "execute", _runs("DELETE FROM artifacts"))],
    "moved away": [Step(os, "rename", _into("removed"))],
    "moved away is gone": [Step(removal, "empty")],
    "unpacked file removed": [Step(os, "unlink", _from("objects"))],
    "writable volume made": [Step(WritableVolumes, "make")],
    "captured": [Step(os, "rename", _into("outbox"))],
    "entry's base held": [Step(Leases, "of_outbox", _holds(any_of_them=True))],
    "entry claimed": [Step(OutboxEntry, "save", _claims)],
    "layers made": [Step(Composer, "compose")],
    "upload opened": [Step(UploadSession, "open")],
    "blob uploaded": [Step(PushClient, "upload")],
    "manifest pushed": [Step(PushClient, "put_manifest", _is_by_digest)],
    "tag moved": [Step(PushClient, "put_manifest", _is_by_tag)],
    "entry's base let go": [Step(Leases, "of_outbox", _holds(any_of_them=False))],
    "entry out of the outbox": [Step(os, "rename", _from("outbox"))],
    "entry's credential gone": [Step(os, "unlink", _from("outbox"))],
    "entry emptied": [Step(OutboxEntry, "remove")],
    "quarantined": [Step(os, "rename", _into("quarantine"))],
    "schema named": [Step(_Connection, "execute", _runs("PRAGMA user_version ="))],
}  # fmt: skip


def dying(point: str, count: int = 1) -> tuple[str, ...]:
    """Return what to run a program by, so that it dies right after a step was taken `count` times."""
    assert point in POINTS
    return (sys.executable, "-m", __name__, point, str(count))


def _deadly(step: Step, last: int, numbers: Iterator[int]) -> Callable[..., Any]:
    function = getattr(step.owner, step.name)

    @functools.wraps(function)
    def taken(*arguments: Any, **options: Any) -> Any:
        result = function(*arguments, **options)
        if step.counts(*arguments, **options) and next(numbers) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return taken


def main() -> None:
    """Become the program that the arguments name."""
    point, last, numbers = sys.argv[1], int(sys.argv[2]), itertools.count(1)
    sqlite3.connect = functools.partial(sqlite3.connect, factory=_Connection)  # type: ignore[assignment]
    for step in POINTS[point]:
        setattr(step.owner, step.name, _deadly(step, last, numbers))
    sys.argv = sys.argv[sys.argv.index("csi_oras") :]
    runpy.run_module("csi_oras", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
