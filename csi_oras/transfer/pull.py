"""Pulls: an artifact from its registry into the store, for exactly those who may read it.

A tag is resolved once and everything after goes by digest. What a credential was seen to read is granted to it.
"""

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from csi_oras.artifact import planner
from csi_oras.artifact.kind import Artifact
from csi_oras.artifact.kinds import kind_of
from csi_oras.errors import (
    CsiOrasError,
    DigestMismatchError,
    NoSpaceError,
    SizeMismatchError,
)
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.plan import Plan
from csi_oras.oci.reference import Reference, Repository
from csi_oras.policy.access import RepositoryRules
from csi_oras.registry.client import RepositoryClient
from csi_oras.registry.credentials import Credential
from csi_oras.registry.keychain import Found
from csi_oras.store.catalogue import CataloguedPlan, LaidOut
from csi_oras.store.grants import Grant
from csi_oras.store.leases import PullLease
from csi_oras.telemetry.logs import logger
from csi_oras.telemetry.metrics import Metrics
from csi_oras.telemetry.progress import Progress
from csi_oras.transfer.access import Access
from csi_oras.transfer.asker import Asker
from csi_oras.transfer.demand import Demand
from csi_oras.transfer.gather import Gatherer
from csi_oras.transfer.jobs import Job, Jobs
from csi_oras.transfer.layout import ArtifactLimits, Layouter
from csi_oras.transfer.lazily import LazyChoice
from csi_oras.transfer.recall import Recall, Store
from csi_oras.transfer.request import LazyArtifact, Planned, PulledArtifact, PullRequest
from csi_oras.transfer.resolve import Resolved, Resolver
from csi_oras.transfer.turns import Turns
from csi_oras.transfer.verify import Verifier

_Result = TypeVar("_Result")
_PARTS = (0.125, 0.25, 0.5, 1.0)
"""Of the store, what is given back at most before each further attempt at what does not fit."""
_UNPACKED = 4
"""How much more than its packed size an archive is expected to take, when that turns out to be too much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What node policy asks of an artifact, as it is in force at the moment: of its repository, signature and size."""

    rules: Callable[[], RepositoryRules]
    verifier: Verifier
    limits: Callable[[], ArtifactLimits]


class Puller:
    """Starts pulls and finds what needs none."""

    def __init__(
        self,
        *,
        access: Access,
        store: Store,
        resolver: Resolver,
        gatherer: Gatherer,
        conditions: Conditions,
        lazily: LazyChoice,
        turns: Turns,
        metrics: Metrics,
    ) -> None:
        self._access = access
        self._store = store
        self._resolver = resolver
        self._gatherer = gatherer
        self._lazily = lazily
        self._rules = conditions.rules
        self._verifier = conditions.verifier
        self._limits = conditions.limits
        self._layouter = Layouter(store.content, store.objects, store.trees, conditions.limits)
        self._recall = Recall(access, store, conditions.verifier)
        self._metrics = metrics
        self.jobs: Jobs[PulledArtifact] = Jobs(turns)

    def find(self, request: PullRequest) -> PulledArtifact | None:
        """Return the artifact if the store may show it without asking the registry, else None.

        Raises:
            AccessDeniedError: node policy forbids the repository.
            ArtifactNotFoundError: `Never`, and nothing is here that this credential was seen to read.
            SignatureError: `Never`, and it was not verified as node policy wants it by now.
        """
        self._rules().check(request.reference.repository)
        return self._recall.find(request)

    def start(self, request: PullRequest, holder: Hashable = None) -> Job[PulledArtifact]:
        """Return the job that pulls what is wanted; it goes on whether or not somebody waits, until `holder` leaves."""
        # a job that began before verification was wanted, or with other keys, is not the one to wait for
        repository = request.reference.repository
        key = (request.key, self._verifier.in_force(repository))
        # apart from those who bring a credential: whoever does must not wait for the node's slow providers of one
        slots = repository.registry if request.credential else f"{repository.registry} by the node"
        demand = Demand.BACKGROUND if request.background else Demand.FOREGROUND
        job = self.jobs.join(key, slots, partial(self._observed, request), holder, demand)
        self._gatherer.deal()
        return job

    def resolve(self, reference: Reference, credential: Credential | None) -> Digest:
        """Ask the registry what `reference` means now, without pulling it.

        Raises:
            UnobtainableError, UnacceptableError: it cannot be told.
        """
        self._rules().check(reference.repository)
        client = self._access.client(reference.repository, credential)
        with _naming(reference):
            return self._resolver.root(client, reference)

    def connect(self, repository: Repository, credential: Credential | None) -> tuple[RepositoryClient, str]:
        """Return a repository as `credential`, or without one the node, sees it, and what grants know that one by.

        Raises:
            UnobtainableError: there is no way to it.
            AccessDeniedError: node policy forbids it.
        """
        self._rules().check(repository)
        return self._access.use(
            repository, Found(credential=credential), lambda client: (client, self._asker_of(client))
        )

    def _asker_of(self, client: RepositoryClient) -> str:
        return self._recall.known_as(client.credential, client.lenders)

    def plan(self, request: PullRequest) -> Planned:
        """Decide what a volume would show, without fetching it.

        Raises:
            UnobtainableError, UnacceptableError, RequestError: as for the pull itself.
        """
        self._rules().check(request.reference.repository)
        with _naming(request.reference):
            return self._access.use(
                request.reference.repository, request.brought, lambda client: self._planned(client, request)
            )

    def _planned(self, client: RepositoryClient, request: PullRequest) -> Planned:
        credential = self._asker_of(client)
        resolved = self._resolver.resolve(client, request.reference, request.platform, credential)
        return self._plan(client, request, resolved, credential)

    def _plan(self, client: RepositoryClient, request: PullRequest, resolved: Resolved, credential: str) -> Planned:
        reference = request.reference
        kind = kind_of(resolved.manifest)
        config = b""
        if kind.reads_config:
            config = self._resolver.config(client, resolved, credential, str(reference))
        artifact = Artifact(
            reference=reference,
            root=resolved.root,
            digest=resolved.artifact,
            size=resolved.size,
            manifest=resolved.manifest,
            config=config,
        )
        plan = planner.plan(artifact, kind, request.selection)
        return Planned(artifact=artifact, kind=kind, plan=plan)

    def _observed(self, request: PullRequest, job: Job[PulledArtifact]) -> PulledArtifact:
        started, outcome, progress = time.monotonic(), "ok", job.progress
        registry = request.reference.repository.registry
        try:
            with _naming(request.reference):
                self._rules().check(request.reference.repository)
                with ExitStack() as held:
                    lease = self._with_room(lambda: held.enter_context(self._store.leases.of_pull()))
                    pulled = self._access.use(
                        request.reference.repository,
                        request.brought,
                        lambda client: self._pull(client, replace(request, credential=client.credential), lease, job),
                    )
        except Exception as error:
            outcome = type(error).__name__
            if isinstance(error, (DigestMismatchError, SizeMismatchError)):
                self._metrics.verify_failures.inc()
            raise
        finally:
            self._metrics.observe_pull(registry, outcome, time.monotonic() - started)
            seconds = round(time.monotonic() - started, 3)
            logger.info(
                "pull ended",
                reference=str(request.reference),
                outcome=outcome,
                bytes=progress.fetched,
                seconds=seconds,
            )
        return replace(pulled, pull_seconds=time.monotonic() - started) if progress.begun.done() else pulled

    def _pull(
        self, client: RepositoryClient, request: PullRequest, lease: PullLease, job: Job[PulledArtifact]
    ) -> PulledArtifact:
        if here := self._recall.find_as(request):
            return here
        unchanged = self._recall.find_unchanged(client, request)
        subject = str(request.reference)
        if unchanged:
            return replace(unchanged, warnings=tuple(self._verifier.verify(client, unchanged.verifiable, subject)))
        credential = self._asker_of(client)
        resolved = self._resolver.resolve(client, request.reference, request.platform, credential)
        warnings = tuple(self._verifier.verify(client, (resolved.root, resolved.artifact), subject))
        planned = self._plan(client, request, resolved, credential)
        artifact, plan = planned.artifact, planned.plan
        self._limits().check(plan, subject)
        lease.add([plan.digest, artifact.root, artifact.digest])
        self._keep_metadata(artifact, plan)
        lazy = self._lazily.choose(client, planned, credential) if request.lazy else ""
        if isinstance(lazy, LazyArtifact):
            ours = [entry.blob.digest for entry in plan.entries if entry.is_local]  # which no registry has
            self._store.grants.add([Grant(client.repository, digest, credential) for digest in ours])
            return replace(self._remembered(request, planned, _as_it_will_be(plan)), lazy=lazy, warnings=warnings)
        progress = job.progress
        progress.begin(not_lazy=lazy)
        asker = Asker(client=client, holder=credential, demand=partial(self.jobs.demand, job))
        self._gatherer.gather(asker, plan, lease, progress, subject)
        pulled = self._remembered(request, planned, self._laid_out(plan, progress, subject))
        self._store.views.follow(request.reference)
        digests = [plan.digest, *(blob.digest for blob in plan.blobs)]
        self._store.grants.add([Grant(client.repository, digest, credential) for digest in digests])
        return replace(pulled, fetched=progress.fetched, warnings=warnings)

    def _remembered(self, request: PullRequest, planned: Planned, laid_out: LaidOut) -> PulledArtifact:
        artifact = planned.artifact
        found = CataloguedPlan(artifact=artifact.digest, laid_out=laid_out)
        goes_by_reference = planned.kind.goes_by_reference or request.selection.metadata
        key = request.view_key(goes_by_reference=goes_by_reference)
        self._store.catalogue.add(request.reference, artifact.root, found, key, _contents(artifact, planned.plan))
        return self._recall.pulled(request.reference.pinned(artifact.root), found)

    def _laid_out(self, plan: Plan, progress: Progress, subject: str) -> LaidOut:
        known = self._store.catalogue.laid_out(plan.digest) if self._store.trees.has(plan.digest) else None
        if known:
            return known
        return self._with_room(lambda: self._layouter.lay_out(plan, progress, subject), plan.size * _UNPACKED)

    def _with_room(self, action: Callable[[], _Result], size: int = 0) -> _Result:
        """Do what nobody knows before how much room it takes, and make more as long as that helps."""
        for part in _PARTS:
            try:
                return action()
            except NoSpaceError:
                if not self._store.collector.make_some_room(size, part):
                    raise
        return action()

    def _keep_metadata(self, artifact: Artifact, plan: Plan) -> None:
        """Put the texts of our own into the store; the manifest is there since it was resolved."""
        if plan.selection.metadata:
            text = planner.reference_text(artifact)
            self._store.content.put(Descriptor.of(text, "text/plain"), text)


def _as_it_will_be(plan: Plan) -> LaidOut:
    """Say of a plan of files what will be known of it when it is laid out."""
    single = str(plan.entries[0].name) if plan.single else ""
    return LaidOut(plan=plan.digest, size=plan.size, files=len(plan.entries), single=single)


def _contents(artifact: Artifact, plan: Plan) -> set[Digest]:
    """Return all blobs that an artifact's volume is made of, or was found by."""
    shown = [entry.blob.digest for entry in plan.entries] + [blob.digest for blob in plan.blobs]
    return {artifact.root, artifact.digest, artifact.manifest.config.digest, *shown}


@contextmanager
def _naming(reference: Reference) -> Iterator[None]:
    """See to it that an error names the artifact that the reader asked for."""
    try:
        yield
    except CsiOrasError as error:
        if str(reference.repository) in error.subject:
            raise
        raise error.about(f"{reference}: {error.subject}") from error
