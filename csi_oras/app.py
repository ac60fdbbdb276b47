"""The one place that wires the store and what pulls into it.

Everything below is handed what it needs and knows nothing of settings.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import csi_oras
from csi_oras import config, in_force
from csi_oras.errors import StoreBrokenError
from csi_oras.lazy.blob import Parts
from csi_oras.lazy.kept import KeptTrees
from csi_oras.lazy.proofs import Proof
from csi_oras.lazy.server import LazyServer
from csi_oras.lazy.trees import LazyTrees
from csi_oras.mount import fuse
from csi_oras.mounter.client import Mounter
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.platform import Platform
from csi_oras.registry.hosts_dirs import HostsDirectories
from csi_oras.registry.keychain import Keychain
from csi_oras.registry.registries import Registries
from csi_oras.registry.transport import Transport
from csi_oras.store import sharing
from csi_oras.store.catalogue import Catalogue
from csi_oras.store.chunk_indexes import OwnIndexes
from csi_oras.store.collection import Collector
from csi_oras.store.content import ContentStore
from csi_oras.store.database import Database
from csi_oras.store.grants import Grants, load_key
from csi_oras.store.leases import Leases
from csi_oras.store.objects import ObjectStore
from csi_oras.store.outbox import EntryState, OutboxEntries
from csi_oras.store.paths import StatePaths
from csi_oras.store.quarantine import Quarantine
from csi_oras.store.signatures import SignatureRecords
from csi_oras.store.space import SpaceMeter
from csi_oras.store.trees import TreeStore
from csi_oras.store.verification import ContentVerifier
from csi_oras.store.verity import Sealer
from csi_oras.store.views import Views
from csi_oras.store.volumes import VolumeRecords
from csi_oras.store.wishes import WishRecords, WishState
from csi_oras.store.writable import WritableVolumes
from csi_oras.telemetry.logs import logger
from csi_oras.telemetry.metrics import Metrics
from csi_oras.transfer import outbox
from csi_oras.transfer.access import Access
from csi_oras.transfer.bases import Bases
from csi_oras.transfer.blobs import BlobFetcher
from csi_oras.transfer.chunk_indexes import ChunkIndexes
from csi_oras.transfer.gather import Gatherer
from csi_oras.transfer.lazily import LazyChoice
from csi_oras.transfer.outbox import Outbox
from csi_oras.transfer.prefetch import Observers, Prefetcher
from csi_oras.transfer.pull import Conditions, Puller
from csi_oras.transfer.push import Pusher
from csi_oras.transfer.recall import Store
from csi_oras.transfer.resolve import Resolver
from csi_oras.transfer.turns import Turns
from csi_oras.transfer.verify import Verifier
from csi_oras.transfer.write_back import VolumePusher
from csi_oras.volume.adopt import shown_plans
from csi_oras.volume.lazy import LazyVolumes
from csi_oras.volume.write_back import Push, PushRights, WriteBack

DEFAULT_DRIVER_NAME = "csi.oras.land"
DEFAULT_STATE_DIR = Path("/var/lib/csi-oras")
_PULLS = 32
"""Artifacts of one registry pulled at a time; each holds a thread that mostly waits."""
_RIGHTS = 16
"""Pods that one registry is asked for at a time, whether they may push there."""
_COUNT_SECONDS = 60.0
"""How often the blobs of the store are counted, for that looks at each."""


class Application:
    """The store and what pulls into it: what the driver and the commands have in common."""

    def __init__(
        self, state_dir: Path, policy: config.Policy, driver_name: str = DEFAULT_DRIVER_NAME, *, to_look: bool = False
    ) -> None:
        """Open the store; `to_look` is content with what can be read.

        Raises:
            StoreBrokenError: the state directory cannot be used.
        """
        self.policy = policy
        self.metrics = Metrics(driver_name, csi_oras.__version__)
        self.platform = Platform.of_machine(os.uname().machine)
        self.paths = StatePaths.create(state_dir)
        self.database = _open_to_look(self.paths.database) if to_look else Database(self.paths.database)
        self.leases = Leases(self.paths, self.database)
        self.grants = Grants(self.database)
        self.sealer = Sealer(self.paths, lambda: self.policy.store.fs_verity)
        self.content = ContentStore(self.paths, self.grants, self.sealer.add)
        self.quarantine = Quarantine(self.paths)
        self.verifier = ContentVerifier(self.paths, self.quarantine, self.sealer)
        self.space = SpaceMeter(self.paths, lambda: in_force.store_limits(self.policy))
        self.views = Views(self.paths, self.database, self.platform)
        self.collector = Collector(
            self.paths,
            self.database,
            leases=self.leases,
            space=self.space,
            mounted=lambda: shown_plans(self.paths.trees),
            views=self.views,
            metrics=self.metrics,
        )
        self.trees = TreeStore(self.paths)
        self.catalogue = Catalogue(self.database)
        self.records = VolumeRecords(self.database, self.collector.make_room_for_records)
        self.wishes = WishRecords(self.database)
        self.writable = WritableVolumes(self.paths)
        self.captured = OutboxEntries(self.writable)
        self._transport = Transport(observe=self.metrics.observe_request)
        self.registries = Registries(self._transport, HostsDirectories(lambda: self.policy.registries.hosts_dirs))
        self.keychain = Keychain(lambda: in_force.sources(self.policy))
        self.own_indexes = OwnIndexes(self.paths)
        self.chunk_indexes = ChunkIndexes(self.own_indexes, self.content, self.grants, load_key(self.paths))
        self._blobs = BlobFetcher(self.content, in_force.pull_limits(self.policy), self.metrics)
        self._gatherer = Gatherer(self.content, self.grants, self.collector, self._blobs, self.metrics)
        self._pulls = Turns("pull", _PULLS)
        self.puller = self._make_puller()
        self._count_again = 0.0

    def _make_puller(self) -> Puller:
        store = Store(
            content=self.content,
            objects=ObjectStore(self.paths, self.sealer.add),
            trees=self.trees,
            catalogue=self.catalogue,
            grants=self.grants,
            grant_key=load_key(self.paths),
            leases=self.leases,
            collector=self.collector,
            views=self.views,
        )
        return Puller(
            access=Access(self.registries, self.keychain),
            store=store,
            resolver=Resolver(self.content, self.grants, lambda: in_force.manifest_limits(self.policy)),
            gatherer=self._gatherer,
            conditions=Conditions(
                rules=lambda: in_force.rules(self.policy),
                verifier=Verifier(
                    lambda: in_force.verification(self.policy), SignatureRecords(self.database), self.metrics
                ),
                limits=lambda: in_force.artifact_limits(self.policy),
            ),
            lazily=LazyChoice(self.content, self.chunk_indexes, lambda: in_force.lazy_rules(self.policy)),
            turns=self._pulls,
            metrics=self.metrics,
        )

    def write_back(self, push: Push) -> WriteBack:
        """Return the writable volumes, of which `push` pushes what is captured."""
        rights = PushRights(
            repositories=lambda: in_force.rules(self.policy),
            rules=lambda: in_force.write_back_rules(self.policy),
            access=Access(self.registries, self.keychain),
            keychain=self.keychain,
            turns=Turns("push rights", _RIGHTS),
        )
        return WriteBack(self.writable, rights, self.leases, push, self.platform)

    def outbox(self, tell: outbox.Tell = outbox.tell_nobody) -> Outbox:
        """Return what pushes the volumes that were captured; `tell` tells people what became of them."""
        return Outbox(
            entries=self.captured, leases=self.leases, push=self.volume_pusher(), metrics=self.metrics, tell=tell
        )

    def volume_pusher(self) -> VolumePusher:
        """Return what pushes a captured volume."""
        return VolumePusher(
            access=Access(self.registries, self.keychain),
            bases=Bases(self.content, self.trees, self.puller, lambda: in_force.manifest_limits(self.policy)),
            indexes=self.chunk_indexes,
            content=self.content,
            leases=self.leases,
            paths=self.paths,
            pusher=Pusher(),
            limits=lambda: in_force.write_limits(self.policy),
        )

    def prefetcher(self, observers: Observers) -> Prefetcher:
        """Return what brings the wishes of node policy into the store."""
        return Prefetcher(
            access=Access(self.registries, self.keychain),
            rules=lambda: in_force.rules(self.policy),
            puller=self.puller,
            platform=self.platform,
            leases=self.leases,
            records=self.wishes,
            observers=observers,
        )

    def lazy_trees(self, observe: Callable[[Descriptor, Proof], None]) -> LazyTrees:
        """Return what serves lazy volumes; `observe` hears what came of proofs."""
        parts = Parts(
            content=self.content,
            grants=self.grants,
            fetcher=self._blobs,
            make_room=self._gatherer.make_room,
            observe=observe,
        )
        kept = KeptTrees(self.paths.lazy)
        return LazyTrees(kept, self.leases, self.puller.connect, parts, self.chunk_indexes.find_stored)

    def lazy_volumes(self, connect: Callable[[], Mounter]) -> LazyVolumes:
        """Return the lazy volumes, whose processes the mounter holds that `connect` returns."""
        trees = self.lazy_trees(lambda _, proof: self.metrics.observe_proof(proof))
        return LazyVolumes(trees, LazyServer(trees, self.metrics.observe_lazy), connect)

    def adopt_policy(self, policy: config.Policy) -> None:
        """Put a changed policy in force, for everything that begins from now on."""
        self.policy = policy
        self._blobs.resize(in_force.pull_limits(self.policy))

    def check(self) -> None:
        """Let a working store pass.

        Raises:
            StoreBrokenError: the store cannot be used.
        """
        self.database.check()
        os.statvfs(self.paths.root)
        if not os.access(self.paths.blobs, os.W_OK):
            raise StoreBrokenError("store", "cannot be written", "look at the node's disk")

    def refresh_gauges(self) -> None:
        """Bring the gauges up to date for a scrape."""
        status = os.statvfs(self.paths.root)
        self.metrics.store_capacity.set(status.f_blocks * status.f_frsize)
        self.metrics.store_available.set(status.f_bavail * status.f_frsize)
        if time.monotonic() >= self._count_again:
            self._count_again = time.monotonic() + _COUNT_SECONDS
            usage = self.space.usage()
            self.metrics.store_blobs.set(usage.blobs)
            self.metrics.store_bytes.labels("verified").set(usage.verified)
            self.metrics.store_bytes.labels("objects").set(usage.objects)
            self.metrics.store_bytes.labels("ingest").set(usage.unfinished)
            self.metrics.store_bytes.labels("quarantine").set(usage.quarantined)
        self.metrics.store_artifacts.set(self.catalogue.count())
        lazy = [mount for mount in fuse.mounts() if (self.paths.lazy / mount.tree).is_dir()]  # and not another's
        self.metrics.published_volumes.labels("lazy").set(len(lazy))
        self.metrics.published_volumes.labels("eager").set(max(self.records.published() - len(lazy), 0))
        self.metrics.lazy_processes.set(len({mount.tree for mount in lazy}))
        wishes = self.wishes.count()
        for state in WishState:
            self.metrics.prefetch_artifacts.labels(state).set(wishes[state])
        captured = self.captured.count()
        for entry_state in EntryState:
            self.metrics.outbox_entries.labels(entry_state).set(captured[entry_state])
        self.metrics.pulls_in_flight.set(self.puller.jobs.running)

    def measure_sharing(self) -> None:
        """Bring the gauges up to date that take a longer look at the store.

        Raises:
            StoreBrokenError: the store fails.
        """
        found = sharing.measure(self.paths)
        self.metrics.store_shown.set(found.shown)
        self.metrics.store_saved.labels("links").set(found.saved_by_links)
        self.metrics.store_saved.labels("reflinks").set(found.saved_by_reflinks)

    def close(self) -> None:
        """Begin nothing more and let go of the store; unfinished pulls go on after the next start."""
        self._pulls.close()
        self._blobs.close()
        self._transport.close()


def _open_to_look(path: Path) -> Database:
    try:
        return Database(path)
    except StoreBrokenError as error:
        database = Database(path, read_only=True)
        logger.warning("the store can only be looked at", cause=error.message)
        return database
