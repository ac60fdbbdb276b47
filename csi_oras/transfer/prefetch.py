"""Prefetch: what node policy wishes for is pulled before a pod asks for it, kept fresh, and kept from collection.

A wish may do what a pod without a credential of its own may, under the same rules. Whatever fails leaves what was
kept before, and nothing is let go of before its successor is held.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace

from csi_oras.errors import ArtifactNotFoundError, CsiOrasError, NoSpaceError, UnwantedError
from csi_oras.oci.platform import Platform
from csi_oras.oci.reference import Reference
from csi_oras.oci.selection import Selection
from csi_oras.oci.wish import Wish, newest
from csi_oras.policy.access import RepositoryRules
from csi_oras.registry.keychain import Found
from csi_oras.registry.tags import TagList
from csi_oras.store.leases import Leases
from csi_oras.store.wishes import WishRecord, WishRecords, WishState
from csi_oras.telemetry.events import Reason
from csi_oras.telemetry.logs import logger
from csi_oras.telemetry.metrics import Metrics
from csi_oras.telemetry.progress import Progress, human_size
from csi_oras.transfer.access import Access
from csi_oras.transfer.pull import Puller
from csi_oras.transfer.request import PulledArtifact, PullPolicy, PullRequest

MOST_TAGS = 100
"""Tags of one wish that are kept; a glob is easily wider than a disk."""

Tell = Callable[[Reason, str, str], None]
"""Tells the node's owner why, of which reference, and what."""
Watch = Callable[[Reference, Progress], AbstractContextManager[None]]
"""Shows the progress of a pull while somebody waits for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observers:
    """Who is told of what happens."""

    metrics: Metrics
    tell: Tell = lambda _reason, _about, _message: None
    watch: Watch = field(default=lambda _reference, _progress: nullcontext())


class Prefetcher:
    """Brings wishes up to date, one artifact after another."""

    def __init__(
        self,
        *,
        access: Access,
        rules: Callable[[], RepositoryRules],
        puller: Puller,
        platform: Platform,
        leases: Leases,
        records: WishRecords,
        observers: Observers,
    ) -> None:
        self._access = access
        self._rules = rules
        self._puller = puller
        self._platform = platform
        self._leases = leases
        self._records = records
        self._observers = observers
        self._wanted: set[str] = set()

    def resume(self) -> set[str]:
        """Return the wishes that were looked after before, none of which is being pulled now.

        Raises:
            NoSpaceError: the disk is full.
            StoreBrokenError: the store fails.
        """
        records = self._records.all()
        for record in records:
            if record.state is WishState.PULLING:
                self._records.put(replace(record, state=WishState.WAITING))
        return {record.wish for record in records if record.updated}

    def adopt(self, wishes: Iterable[Wish]) -> None:
        """Let go of what no wish of `wishes` means any more, and remember that the new ones wait.

        Raises:
            NoSpaceError: the disk is full.
            StoreBrokenError: the store fails.
        """
        wanted = self._wanted = {str(wish) for wish in wishes}
        records = self._records.all()
        for record in records:
            if record.wish not in wanted:
                self._let_go(record)
        for wish in wanted - {record.wish for record in records}:
            self._records.put(WishRecord(wish=wish, reference=wish))

    def refresh(self, wish: Wish) -> bool:
        """Bring a wish up to date, and say whether all that it means is here.

        Raises:
            NoSpaceError: the disk is too full to remember even what failed.
            StoreBrokenError: the store fails.
        """
        before = self._records.of(str(wish))
        own = before.pop(str(wish), None) or WishRecord(wish=str(wish), reference=str(wish))
        if isinstance(wish.wanted, Reference):
            return self._bring(own, wish.wanted) is None
        if own.state is WishState.WAITING and not before:
            self._note_pull(own)
        try:
            references, remark = self._meant(wish)
        except CsiOrasError as error:
            self._failed(own, error)
            return False
        meant = {str(reference): reference for reference in references}
        records = [before.get(reference) or self._add(own.wish, reference) for reference in meant]
        self._remark(own, remark)  # last: a wish without any record would be taken for a new one
        errors = [self._bring(record, meant[record.reference]) for record in records]
        self._let_go_of_old({key: record for key, record in before.items() if key not in meant}, errors)
        return not any(errors)

    def _let_go_of_old(self, old: dict[str, WishRecord], errors: list[Exception | None]) -> None:
        """Keep the newest of the `old` tags in place of those that failed; for want of room, none: they have it."""
        failed = sum(error is not None and not isinstance(error, NoSpaceError) for error in errors)
        kept = newest((reference for reference, record in old.items() if record.digest), failed)
        for reference in old.keys() - set(kept):
            self._let_go(old[reference])

    def _remark(self, own: WishRecord, remark: str) -> None:
        """Say of a glob what its tags do not say."""
        if remark:
            self._records.put(replace(own, state=WishState.READY, updated=time.time(), error=remark))
        else:
            self._records.drop(own)

    def _add(self, wish: str, reference: str) -> WishRecord:
        record = WishRecord(wish=wish, reference=reference)
        self._records.put(record)
        return record

    def _meant(self, wish: Wish) -> tuple[list[Reference], str]:
        """Return the references that a glob means now, and what is to be said of those that are left out."""
        listed = self._listed(wish)
        picked = [tag for tag in listed.tags if wish.picks(tag)]
        if not picked:
            raise ArtifactNotFoundError(
                str(wish), f"none of {len(listed.tags)} tags matches", "push one, or correct it"
            )
        kept = newest(picked, MOST_TAGS)
        remarks = []
        if len(kept) < len(picked):
            remarks.append(f"{len(picked)} tags match, the {len(kept)} with the highest numbers are kept")
        if not listed.complete:
            remarks.append(f"the registry has more than the {len(listed.tags)} tags that were looked at")
        return [Reference(repository=wish.repository, tag=tag) for tag in kept], "; ".join(remarks)

    def _listed(self, wish: Wish) -> TagList:
        self._rules().check(wish.repository)
        return self._access.use(wish.repository, Found(), lambda client: client.tags())

    def _bring(self, before: WishRecord, reference: Reference) -> Exception | None:
        """Bring one reference up to date, and return why that failed."""
        if before.wish not in self._wanted:
            return UnwantedError(before.reference, "was let go of meanwhile")
        if before.state is WishState.WAITING:  # what is ready, or has failed, is so until bytes come
            self._note_pull(before)
        try:
            pulled = self._pull(before, reference)
            self._hold(before, pulled)
            now = time.time()
            self._records.put(replace(before, state=WishState.READY, digest=pulled.artifact, updated=now, error=""))
        except Exception as error:  # noqa: BLE001 (a bug that one artifact shows is nothing to the others)
            if before.wish in self._wanted:
                self._failed(before, error)
            return error
        if pulled.artifact != before.digest:
            size = human_size(pulled.size)
            tell = self._observers.tell
            tell(Reason.PREFETCHED, str(reference), f"Prefetched artifact {pulled.reference}: {size}")
        return None

    def _pull(self, before: WishRecord, reference: Reference) -> PulledArtifact:
        request = PullRequest(
            reference=reference,
            platform=self._platform,
            selection=Selection(),
            policy=PullPolicy.IF_NOT_PRESENT if reference.digest else PullPolicy.ALWAYS,
            credential=None,
            background=True,
        )
        found = self._puller.find(request)
        if found:
            return found
        job = self._puller.start(request, _holder(before))
        job.progress.begun.add_done_callback(lambda _: self._note_pull(before))
        with self._puller.jobs.waiting(job), self._observers.watch(reference, job.progress):
            return job.future.result()

    def _note_pull(self, before: WishRecord) -> None:
        with suppress(CsiOrasError):  # for people to look at, and no reason to fail
            self._records.put(replace(before, state=WishState.PULLING))

    def _hold(self, record: WishRecord, pulled: PulledArtifact) -> None:
        """Keep an artifact in place of the one before, unless it was collected since the pull ended."""
        digests = [pulled.artifact, pulled.plan]
        with self._leases.of_pull() as lease:
            lease.add(digests)
            if not pulled.path.exists():
                raise ArtifactNotFoundError(record.reference, "was collected as soon as it was here", "make room")
            self._leases.of_wish(_holder(record), digests)

    def _let_go(self, record: WishRecord) -> None:
        self._puller.jobs.leave(_holder(record))
        self._leases.of_wish(_holder(record), [])
        self._records.drop(record)
        logger.info("no longer kept for node policy", wish=record.wish, reference=record.reference)

    def _failed(self, before: WishRecord, error: Exception) -> None:
        known = error if isinstance(error, CsiOrasError) else None
        message = known.message if known else "a bug; the log has more"
        self._observers.metrics.prefetch_failures.inc()
        if before.state is not WishState.FAILED:
            logger.warning(
                "prefetch failed", reference=before.reference, cause=message, exc_info=None if known else error
            )
            self._observers.tell(Reason.PREFETCH_FAILED, before.reference, f"Prefetch failed: {message}")
        self._records.put(replace(before, state=WishState.FAILED, updated=time.time(), error=message))


def _holder(record: WishRecord) -> str:
    """Return what holds pull and lease: a reference may be meant by several wishes, and each holds it."""
    return f"{record.wish} {record.reference}"
