"""The outbox: pushes what was captured until its registry has it, across restarts of the driver and of the node.

What is on disk says what is to be done, and is looked at every few seconds: so whatever a command or a former process
has left is found. What may pass is tried again for ever, with growing pauses; what is refused, a few times. What can
never be pushed, and what is refused for good, stays where it is until a person does something about it.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial

from csi_oras.errors import (
    AccessDeniedError,
    ArtifactNotFoundError,
    BadResponseError,
    CsiOrasError,
    DigestMismatchError,
    LimitExceededError,
    NoSpaceError,
    PushRefusedError,
    RegistryUnavailableError,
    RequestError,
    SizeMismatchError,
    StoreBrokenError,
    UnacceptableError,
    UnauthenticatedError,
    VolumeBusyError,
    VolumeNotFoundError,
)
from csi_oras.oci.digest import Digest
from csi_oras.store.leases import Leases
from csi_oras.store.outbox import EntryState, OutboxEntries, OutboxEntry, OutboxState, gone
from csi_oras.store.writable import WritableVolume, Writing
from csi_oras.telemetry.events import Reason
from csi_oras.telemetry.logs import logger
from csi_oras.telemetry.metrics import Metrics, PushOutcome
from csi_oras.transfer.turns import Turns
from csi_oras.transfer.write_back import VolumePusher, WrittenBack

LOOK_SECONDS = 2.0
"""How often it is looked whether something is due; a person who retries waits no longer."""
LONGEST_PAUSE = 300.0
MOST_REFUSALS = 5
"""Attempts in a row that a registry refuses before it is believed: half a minute, for some refuse while they start."""
MOST_DEATHS = 20
"""Attempts in a row that ended with their process: what needs more memory than there is must not kill it for ever."""
_SHARE = 4
"""Volumes pushed to one registry at a time."""
_REFUSALS = (
    UnauthenticatedError,
    AccessDeniedError,
    ArtifactNotFoundError,
    PushRefusedError,
    BadResponseError,
    DigestMismatchError,
    SizeMismatchError,
)
"""What a registry, or something before it, says; it may be true."""
_NEVER = (UnacceptableError, RequestError)

Tell = Callable[[WritableVolume, Reason, str], None]
"""Tells people of what became of a volume."""


def tell_nobody(volume: WritableVolume, reason: Reason, message: str) -> None:
    """Have the log and the metrics be enough."""


class Outbox:
    """Pushes entries, up to four of a registry at a time."""

    def __init__(
        self,
        *,
        entries: OutboxEntries,
        leases: Leases,
        push: VolumePusher,
        metrics: Metrics,
        tell: Tell = tell_nobody,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._entries = entries
        self._leases = leases
        self._push = push
        self._metrics = metrics
        self._tell = tell
        self._clock = clock
        self._turns = Turns("outbox", _SHARE)
        self._lock = threading.Lock()
        self._futures: dict[str, Future[Digest]] = {}
        self._busy: set[str] = set()
        self._unsaved: dict[str, tuple[OutboxState, OutboxState]] = {}
        """What a full disk did not take, by entry, and what is on it instead; whoever changes that is believed."""
        self._is_new = True
        self._is_closed = False
        self._back: set[str] = set()
        """Registries that have taken something since the last look: what waits for them waits no longer."""

    def begin(self, writing: Writing) -> Future[Digest]:
        """Push a captured volume soon; the future has the digest, or why the first attempt has not pushed it."""
        entry, future = OutboxEntry(writing), Future[Digest]()
        future.set_running_or_notify_cancel()  # who stops waiting cancels nothing
        with self._lock:
            future = self._futures.setdefault(entry.id, future)
        self._start(entry)
        return future

    def close(self) -> None:
        """Begin nothing more; what is under way ends with the process, and goes on after the next start."""
        self._is_closed = True
        self._turns.close()

    def attempt(self, entry: OutboxEntry) -> WrittenBack:
        """Push an entry now, in this thread, whatever its state; a failure is noted in it.

        Raises:
            VolumeBusyError: another process does.
            VolumeNotFoundError: it is gone.
            CsiOrasError: it failed.
        """
        with entry.locked():
            return self._attempt(entry, replace(self._state(entry), state=EntryState.WAITING, refusals=0, deaths=0))

    def drop(self, entry: OutboxEntry) -> None:
        """Throw away what a pod wrote.

        Raises:
            VolumeBusyError: it is being pushed.
            VolumeNotFoundError, StoreBrokenError: it is gone, or cannot be removed.
        """
        with entry.locked():
            self._remove(entry)

    def look(self) -> None:
        """Begin what is due, and let go of those who wait for what is gone; at first, tidy up after the last process.

        Raises:
            NoSpaceError, StoreBrokenError: the store fails.
        """
        if self._is_new:
            self._entries.sweep()
            self._hold()
            self._is_new = False
        with self._lock:
            waited_for, back, self._back = set(self._futures), self._back, set()
        entries = {entry.id: entry for entry in self._entries.all()}
        for entry in entries.values():
            state = self._state(entry)
            is_due = state.due <= self._clock() or (not state.refusals and _registry(entry) in back)
            if state.state is not EntryState.FAILED and is_due:
                self._start(entry)
        with self._lock:
            self._unsaved = {name: states for name, states in self._unsaved.items() if name in entries}
            lost = waited_for - entries.keys() - self._busy
        for name in lost:
            self._settle(name, gone(name))

    def _state(self, entry: OutboxEntry) -> OutboxState:
        """Return how far an entry is, also where that could not be saved."""
        found = entry.state()
        with self._lock:
            before, after = self._unsaved.get(entry.id, (found, found))
        return after if before == found else found

    def _save(self, entry: OutboxEntry, state: OutboxState) -> None:
        """Save how far an entry is, or remember it: a full disk ends no pause, and makes no error forgotten."""
        try:
            entry.save(state)
        except CsiOrasError:
            with self._lock:
                self._unsaved[entry.id] = entry.state(), state
        else:
            with self._lock:
                self._unsaved.pop(entry.id, None)

    def _hold(self) -> None:
        """Hold the bases of what is here, for the database may be younger than the outbox."""
        for entry in self._entries.all():
            with (
                suppress(StoreBrokenError, VolumeBusyError, VolumeNotFoundError),
                entry.locked(),
            ):
                if base := entry.writing.volume().base:
                    self._leases.of_outbox(entry.id, [base.artifact, base.plan])

    def _start(self, entry: OutboxEntry) -> None:
        """Push an entry in the turn of its registry, unless that is under way."""
        with self._lock:
            if entry.id in self._busy or self._is_closed:
                return
            self._busy.add(entry.id)
        try:
            work = self._turns.submit(_registry(entry), entry.id, partial(self._work, entry))
        except RuntimeError:  # nothing begins any more
            return
        work.add_done_callback(lambda _: self._end(entry))

    def _work(self, entry: OutboxEntry) -> None:
        try:
            with suppress(VolumeBusyError, VolumeNotFoundError), entry.locked():
                state = self._state(entry)
                if state.state is EntryState.FAILED:  # since it was found due
                    self._settle(entry.id, PushRefusedError(f"outbox entry {entry.id}", state.error))
                else:
                    self._attempt(entry, state)
        except CsiOrasError:  # it is noted, and logged
            pass
        except Exception:  # noqa: BLE001 (it is noted; the thread has others to push)
            logger.exception("a bug: a volume was not pushed, it is tried again", entry=entry.id)

    def _end(self, entry: OutboxEntry) -> None:
        with self._lock:
            self._busy.discard(entry.id)

    def _attempt(self, entry: OutboxEntry, state: OutboxState) -> WrittenBack:
        deaths = state.deaths + (state.state is EntryState.PUSHING)  # by whom, if we have the lock?
        began = replace(state, state=EntryState.PUSHING, attempts=state.attempts + 1, deaths=deaths)
        with self._noted(entry, began):
            if deaths >= MOST_DEATHS:
                cause = f"the driver was killed {deaths} times in a row while it pushed this, maybe for want of memory"
                raise LimitExceededError(f"outbox entry {entry.id}", cause, "raise its memory limit and retry it")
            with suppress(NoSpaceError):  # a push makes room, and this note does not
                entry.save(began)
            volume = entry.writing.volume()
            written = self._push.push(entry.writing)
            self._remove(entry)
        self._pushed(entry, volume, written)
        return written

    def _remove(self, entry: OutboxEntry) -> None:
        self._leases.of_outbox(entry.id, [])  # before, for of what is gone nobody knows that it held anything
        entry.remove()

    def _pushed(self, entry: OutboxEntry, volume: WritableVolume, written: WrittenBack) -> None:
        reference = str(written.reference)
        logger.info("volume pushed", reference=reference, entry=entry.id, sent=written.sent)
        self._metrics.observe_push(PushOutcome.OK, written.sent)
        with self._lock:
            self._back.add(volume.reference.repository.registry)
        if written.is_second:
            message = f"{volume.reference} was moved meanwhile by somebody else; what the pod wrote is {reference}"
            logger.warning("a tag was moved meanwhile", reference=str(volume.reference), pushed=reference)
            self._tell(volume, Reason.TAG_MOVED, message)
        else:
            self._tell(volume, Reason.PUSHED, f"pushed {reference}")
        if written.reference.digest:
            self._settle(entry.id, written.reference.digest)

    @contextmanager
    def _noted(self, entry: OutboxEntry, state: OutboxState) -> Iterator[None]:
        """Note in an entry what goes wrong."""
        try:
            yield
        except CsiOrasError as error:
            self._fail(entry, state, error)
            raise
        except Exception:
            bug = StoreBrokenError(f"outbox entry {entry.id}", "there is a bug in the driver", "see its log")
            self._fail(entry, state, bug)
            raise

    def _fail(self, entry: OutboxEntry, state: OutboxState, error: CsiOrasError) -> None:
        refusals = state.refusals + 1 if isinstance(error, _REFUSALS) else 0
        is_final = refusals >= MOST_REFUSALS or (not refusals and isinstance(error, _NEVER))
        pause = min(2.0 ** min(state.attempts - 1, 30), LONGEST_PAUSE) * random.uniform(0.75, 1.25)  # noqa: S311
        if isinstance(error, RegistryUnavailableError):
            pause = max(pause, error.retry_after)
        after = replace(
            state,
            state=EntryState.FAILED if is_final else EntryState.WAITING,
            refusals=refusals,
            deaths=0,
            error=error.message,
            due=self._clock() + pause,
        )
        self._save(entry, after)
        self._metrics.observe_push(PushOutcome.FAILED if is_final else PushOutcome.RETRIED)
        if is_final:
            self._give_up(entry, error)
        else:
            logger.warning("a volume was not pushed, it is tried again", entry=entry.id, cause=error.message)
            self._settle(entry.id, error)  # a pod that ends waits for no registry to come back

    def _give_up(self, entry: OutboxEntry, error: CsiOrasError) -> None:
        message = f"{error.message}; it stays on the node as {entry.id}, see: csi-oras outbox ls"
        logger.error("a volume cannot be pushed", entry=entry.id, cause=error.message)
        with suppress(CsiOrasError):
            self._tell(entry.writing.volume(), Reason.PUSH_FAILED, message)
        self._settle(entry.id, error)

    def _settle(self, name: str, outcome: Digest | CsiOrasError) -> None:
        with self._lock:
            future = self._futures.pop(name, None)
        if future is None:
            return
        if isinstance(outcome, Digest):
            future.set_result(outcome)
        else:
            future.set_exception(outcome)


def _registry(entry: OutboxEntry) -> str:
    with suppress(CsiOrasError):  # the attempt will say so
        return entry.writing.volume().reference.repository.registry
    return ""
