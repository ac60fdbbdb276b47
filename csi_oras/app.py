"""The one place that wires objects: everything below is handed what it needs and knows nothing of settings."""

import asyncio
import os
import resource
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import csi_oras
from csi_oras import config
from csi_oras.csi.controller import Controller
from csi_oras.csi.identity import Identity
from csi_oras.csi.node import Node
from csi_oras.csi.server import Server, socket_path
from csi_oras.errors import CsiOrasError, StoreBrokenError
from csi_oras.oci.platform import Platform
from csi_oras.policy.access import RepositoryRules
from csi_oras.registry.client import Registries
from csi_oras.registry.transport import Transport
from csi_oras.store.catalogue import Catalogue
from csi_oras.store.content import ContentStore
from csi_oras.store.database import Database
from csi_oras.store.grants import Grants, load_key
from csi_oras.store.paths import StatePaths
from csi_oras.store.trees import TreeStore
from csi_oras.store.volumes import VolumeRecord, VolumeRecords
from csi_oras.telemetry.logs import logger
from csi_oras.telemetry.metrics import Metrics
from csi_oras.telemetry.server import MetricsServer
from csi_oras.transfer.blobs import BlobFetcher, Parallelism
from csi_oras.transfer.gather import Gatherer
from csi_oras.transfer.pull import ArtifactLimits, Puller, Store
from csi_oras.transfer.resolve import ManifestLimits, Resolver
from csi_oras.volume.volumes import Volumes

DEFAULT_DRIVER_NAME = "csi.oras.land"
DEFAULT_STATE_DIR = Path("/var/lib/csi-oras")
_PULLS = 64
"""Artifacts pulled at a time; each holds a thread that mostly waits."""
_CALLS = 16
"""Calls of the core at a time; each is short, for none waits for the network."""
_COUNT_SECONDS = 60.0
"""How often the blobs of the store are counted, for that looks at each."""
_RESOLVES = 32
"""Tags that a controller asks for at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """The flags of `csi-oras serve`."""

    endpoint: str
    node_id: str
    mode: str
    state_dir: Path
    kubelet_dir: Path
    config_file: Path | None
    metrics_address: str
    driver_name: str


class Application:
    """The store and what pulls into it: what the driver and the commands have in common."""

    def __init__(self, state_dir: Path, policy: config.Policy, driver_name: str = DEFAULT_DRIVER_NAME) -> None:
        """Open the store.

        Raises:
            StoreBrokenError: the state directory cannot be used.
        """
        self.policy = policy
        self.metrics = Metrics(driver_name, csi_oras.__version__)
        self.platform = Platform.of_machine(os.uname().machine)
        self.paths = StatePaths.create(state_dir)
        self.database = Database(self.paths.database)
        self.content = ContentStore(self.paths)
        self.trees = TreeStore(self.paths, self.content)
        self.catalogue = Catalogue(self.database)
        self.records = VolumeRecords(self.database)
        self._transport = Transport(observe=self.metrics.observe_request)
        self.registries = Registries(self._transport)
        self._blobs = BlobFetcher(self.content, self._parallelism, self.metrics)
        self._jobs = ThreadPoolExecutor(_PULLS, "pull")
        self.puller = self._make_puller()
        self._count_again = 0.0

    def _make_puller(self) -> Puller:
        grants = Grants(self.database)
        store = Store(
            content=self.content,
            trees=self.trees,
            catalogue=self.catalogue,
            grants=grants,
            grant_key=load_key(self.paths),
        )
        return Puller(
            registries=self.registries,
            store=store,
            resolver=Resolver(self.content, grants, self._manifest_limits),
            gatherer=Gatherer(self.content, grants, self._blobs, self.metrics),
            rules=self._rules,
            limits=self._artifact_limits,
            executor=self._jobs,
            metrics=self.metrics,
        )

    def adopt_policy(self, policy: config.Policy) -> None:
        """Put a changed policy in force, for everything that begins from now on."""
        self.policy = policy
        self._blobs.resize(self._parallelism)

    def check(self) -> None:
        """Let a working store pass.

        Raises:
            StoreBrokenError: the store cannot be used.
        """
        self.database.query("SELECT 1")
        self.content.room()
        if not os.access(self.paths.blobs, os.W_OK):
            raise StoreBrokenError("store", "cannot be written", "look at the node's disk")

    def refresh_gauges(self) -> None:
        """Bring the gauges up to date for a scrape."""
        status = os.statvfs(self.paths.root)
        self.metrics.store_capacity.set(status.f_blocks * status.f_frsize)
        self.metrics.store_available.set(status.f_bavail * status.f_frsize)
        if time.monotonic() >= self._count_again:
            self._count_again = time.monotonic() + _COUNT_SECONDS
            usage = self.content.usage()
            self.metrics.store_blobs.set(usage.blobs)
            self.metrics.store_bytes.labels("verified").set(usage.verified)
            self.metrics.store_bytes.labels("ingest").set(usage.unfinished)
        self.metrics.store_artifacts.set(self.catalogue.count())
        self.metrics.published_volumes.labels("eager").set(self.records.published())
        self.metrics.pulls_in_flight.set(self.puller.jobs.running)

    def close(self) -> None:
        """Begin nothing more and let go of the store; unfinished pulls go on after the next start."""
        self._jobs.shutdown(wait=False, cancel_futures=True)
        self._blobs.close()
        self._transport.close()

    @property
    def _parallelism(self) -> Parallelism:
        pulls = self.policy.pulls
        return Parallelism(blobs=pulls.parallel_blobs, ranges=pulls.parallel_ranges, range_bytes=pulls.range_bytes)

    def _rules(self) -> RepositoryRules:
        return RepositoryRules(allow=self.policy.registries.allow, deny=self.policy.registries.deny)

    def _artifact_limits(self) -> ArtifactLimits:
        return ArtifactLimits(artifact_bytes=self.policy.limits.artifact_bytes, files=self.policy.limits.files)

    def _manifest_limits(self) -> ManifestLimits:
        return ManifestLimits(manifest_bytes=self.policy.limits.manifest_bytes, layers=self.policy.limits.layers)


def serve(settings: ServeSettings) -> None:
    """Run the driver until SIGTERM or SIGINT.

    Raises:
        InvalidConfigError: a flag or the policy file is wrong.
        StoreBrokenError: the state directory cannot be used.
    """
    socket_path(settings.endpoint)
    _raise_file_limit()
    policy = config.load(settings.config_file)
    app = Application(settings.state_dir, policy, settings.driver_name)
    watcher = None
    if settings.config_file:
        watcher = config.PolicyWatcher(settings.config_file, app.adopt_policy)
        watcher.start()
    metrics_server = MetricsServer(settings.metrics_address, app.metrics, app.refresh_gauges, app.check)
    try:
        asyncio.run(_serve(settings, app, metrics_server))
    finally:
        metrics_server.stop()
        app.close()
    logger.info("stopped")
    os._exit(0)  # threads of pulls under way are no reason to stay; their bytes are kept


def _raise_file_limit() -> None:
    """Take as many file descriptors as we may: connections, ingests of a group and waiting calls add up."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(settings: ServeSettings, app: Application, metrics_server: MetricsServer) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    found = app.records.all()
    volumes = Volumes(
        records=app.records,
        puller=app.puller,
        kubelet_dir=settings.kubelet_dir,
        trees=app.paths.trees,
        platform=app.platform,
    )
    server = _make_server(settings, app, volumes)
    metrics_server.start()
    await server.start()
    logger.info("serving", endpoint=settings.endpoint, mode=settings.mode, version=csi_oras.__version__)
    if settings.mode != "controller":  # behind the socket: a call waits for its own volume only
        recovery = threading.Thread(target=_recover, args=(app, volumes, found), name="recovery", daemon=True)
        recovery.start()
    await stopping.wait()
    logger.info("stopping")
    await server.stop()


def _make_server(settings: ServeSettings, app: Application, volumes: Volumes) -> Server:
    node = controller = None
    if settings.mode in ("node", "all"):
        # the calls that are not advertised answer UNIMPLEMENTED by inheritance; the stubs call them abstract
        node = Node(settings.node_id, volumes, app.puller.jobs, ThreadPoolExecutor(_CALLS, "call"))  # type: ignore[abstract]
    if settings.mode in ("controller", "all"):
        controller = Controller(app.puller.resolve, ThreadPoolExecutor(_RESOLVES, "resolve"))  # type: ignore[abstract]
    return Server(settings.endpoint, app.metrics, Identity(settings.driver_name, app.check), controller, node)


def _recover(app: Application, volumes: Volumes, found: list[VolumeRecord]) -> None:
    try:
        app.trees.sweep()
        volumes.reconcile(found)
    except CsiOrasError as error:
        logger.error("recovery did not finish", cause=error.message)
    except Exception:  # noqa: BLE001 (the thread ends here; the driver serves on)
        logger.exception("a bug: recovery did not finish")
    else:
        logger.info("recovered", volumes=len(found))
