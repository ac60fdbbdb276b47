"""The driver: the CSI services over the application, on their socket, until they are told to stop.

Apart from `app.py` so that commands which need no gRPC do not wait for it to be loaded.
"""

import asyncio
import os
import resource
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import csi_oras
from csi_oras import config, upkeep
from csi_oras.app import Application
from csi_oras.csi.controller import Controller
from csi_oras.csi.identity import Identity
from csi_oras.csi.node import Node
from csi_oras.csi.server import Server
from csi_oras.endpoint import socket_path
from csi_oras.errors import CsiOrasError
from csi_oras.mounter.client import Mounter
from csi_oras.store import driver_lock, staging
from csi_oras.store.verification import Pace, WeeklyPass
from csi_oras.store.writable import WritableVolume
from csi_oras.telemetry.events import Events, Pod, Reason
from csi_oras.telemetry.events import Node as Involved
from csi_oras.telemetry.logs import logger
from csi_oras.telemetry.server import MetricsServer
from csi_oras.transfer import labels
from csi_oras.transfer.indexing import Indexer
from csi_oras.transfer.outbox import LOOK_SECONDS, Outbox
from csi_oras.transfer.prefetch import Observers
from csi_oras.transfer.schedule import TICK_SECONDS, Due, Schedule
from csi_oras.transfer.turns import Turns
from csi_oras.volume.corruption import CorruptionReports
from csi_oras.volume.lazy import LazyVolumes
from csi_oras.volume.notices import Notices
from csi_oras.volume.recovery import Recovery
from csi_oras.volume.volumes import Volumes
from csi_oras.volume.wanted import Wanted

if TYPE_CHECKING:
    from csi_oras.telemetry.cluster import Cluster

_CALLS = 16
"""Calls of the core at a time; each is short, for none waits for the network."""
_RESOLVES = 16
"""Tags that a controller asks one registry for at a time."""
_COLLECT_SECONDS = 60.0
"""How often the store is measured, and tidied if it is above its high watermark."""
_SHARING_SECONDS = 900.0
"""How often it is measured what links and clones save, which looks at each blob and unpacked file."""
_VIEWS_SECONDS = 600.0
"""How often the views are put in order, a third of a second's work for 10,000; pulls and collections see to theirs."""
_VERIFY_SECONDS = 3600.0
"""How often it is looked whether the store should be verified again."""
_CORRUPT_SECONDS = 10.0
"""How often it is looked whether somebody has found something corrupt."""
_INDEX_SECONDS = 30.0
"""How often the blobs of lazy volumes that have come whole are read again for their chunks."""
_MOUNTER_SECONDS = 0.5
"""How soon another mounter is looked for when the one that we accompany has gone: readers wait for it."""
_RECONCILE_SECONDS = 120.0
"""How often the records are held against what is mounted; a tenth of a second's work for 1,000 volumes."""


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
    service_account_dir: Path
    label_node: bool
    mounter: str = ""


def run(settings: ServeSettings) -> None:
    """Run the driver until SIGTERM or SIGINT.

    Raises:
        InvalidConfigError: a flag or the policy file is wrong.
        StoreBrokenError: the state directory cannot be used, or another driver uses it.
    """
    socket_path(settings.endpoint)
    _raise_file_limit()
    policy = config.load(settings.config_file)
    app = Application(settings.state_dir, policy, settings.driver_name)
    if settings.mode != "controller":
        driver_lock.acquire(app.paths)
        app.sealer.check()
    watcher = None
    if settings.config_file:
        watcher = config.PolicyWatcher(settings.config_file, app.adopt_policy, policy)
        watcher.start()
    metrics_server = MetricsServer(settings.metrics_address, app.metrics, app.refresh_gauges, app.check)
    try:
        asyncio.run(_serve(settings, app, metrics_server))
    finally:
        metrics_server.stop()
        app.close()
    logger.info("stopped")
    os._exit(0)  # threads of pulls under way are no reason to stay; their bytes are kept


def _mounter(settings: ServeSettings) -> Callable[[], Mounter]:
    """Return what finds the mounter: the one that is named, else one of our own, which outlives us."""
    if settings.mounter:
        return partial(Mounter.connect, socket_path(settings.mounter))
    return partial(
        Mounter.start_detached, settings.state_dir.absolute() / "mounter.sock", settings.state_dir.absolute()
    )


def _raise_file_limit() -> None:
    """Take as many file descriptors as we may: connections, ingests of a group and waiting calls add up."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(settings: ServeSettings, app: Application, metrics_server: MetricsServer) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    events = _make_events(settings, app)
    notices = Notices(events)
    outbox = _make_outbox(app, events)
    write_back = app.write_back(outbox.begin)
    lazy = app.lazy_volumes(_mounter(settings))
    volumes = Volumes(
        records=app.records,
        puller=app.puller,
        wanted=Wanted(app.keychain, app.platform),
        kubelet_dir=settings.kubelet_dir,
        trees=app.paths.trees,
        notices=notices,
        write_back=write_back,
        lazy=lazy,
    )
    recovery = Recovery(
        records=app.records,
        kubelet_dir=settings.kubelet_dir,
        trees=app.paths.trees,
        driver_name=settings.driver_name,
        locks=volumes.locks,
        leave=app.puller.jobs.leave,
        write_back=write_back,
    )
    if settings.mode != "controller":
        threading.Thread(target=lazy.start, name="lazy", daemon=True).start()
        recovery.take_stock()
        _finish_quarantine(app)
    server = _make_server(settings, app, volumes, notices)
    metrics_server.start()
    await server.start()
    logger.info("serving", endpoint=settings.endpoint, mode=settings.mode, version=csi_oras.__version__)
    if settings.mode != "controller":  # behind the socket: a call waits for its own volume only
        tasks = [
            *_tasks(app, recovery),
            upkeep.Task(name="outbox", seconds=LOOK_SECONDS, action=outbox.look),
            *_truth(settings, app, notices, lazy),
            upkeep.Task(
                name="chunk index",
                seconds=_INDEX_SECONDS,
                action=partial(lazy.index, Indexer(app.content, app.own_indexes).keep),
            ),
            upkeep.Task(name="mounter", seconds=_MOUNTER_SECONDS, action=lazy.accompany),
            _prefetch(settings, app, events),
            *_labels(settings, app),
        ]
        threading.Thread(target=_recover, args=(app, recovery, tasks), name="recovery", daemon=True).start()
    await stopping.wait()
    logger.info("stopping")
    await server.stop()


def _make_events(settings: ServeSettings, app: Application) -> Events:
    """Return what tells pods; in a cluster only, and where there are pods to tell."""
    in_cluster = _is_in_cluster(settings)
    if settings.mode != "controller" and not in_cluster:
        logger.info("no service account of a cluster is here: pods get no events")
    is_heard = settings.mode != "controller" and in_cluster
    return Events((lambda: _connect(settings).post) if is_heard else None, app.metrics)


def _make_outbox(app: Application, events: Events) -> Outbox:
    def tell(volume: WritableVolume, reason: Reason, message: str) -> None:
        events.emit(Pod.find(volume.pod, volume.namespace, volume.uid), reason, str(volume.reference), message)

    return app.outbox(tell)


def _is_in_cluster(settings: ServeSettings) -> bool:
    return "KUBERNETES_SERVICE_HOST" in os.environ and (settings.service_account_dir / "token").exists()


def _connect(settings: ServeSettings) -> "Cluster":
    from csi_oras.telemetry.cluster import Cluster  # noqa: PLC0415 (a library that only pulls in a cluster need)

    return Cluster(settings.service_account_dir, settings.driver_name, settings.node_id)


def _make_server(settings: ServeSettings, app: Application, volumes: Volumes, notices: Notices) -> Server:
    node = controller = None
    if settings.mode in ("node", "all"):
        # the calls that are not advertised answer UNIMPLEMENTED by inheritance; the stubs call them abstract
        pool = ThreadPoolExecutor(_CALLS, "call")
        node = Node(settings.node_id, volumes, app.puller.jobs, pool, notices)  # type: ignore[abstract]
    if settings.mode in ("controller", "all"):
        controller = Controller(app.puller.resolve, Turns("resolve", _RESOLVES))  # type: ignore[abstract]
    return Server(settings.endpoint, app.metrics, Identity(settings.driver_name, app.check), controller, node)


def _finish_quarantine(app: Application) -> None:
    """Take away before anybody is served what a killed process knew to be corrupt."""
    try:
        app.quarantine.finish()
    except CsiOrasError as error:
        logger.error("what is known to be corrupt may still be shown", cause=error.message)


def _recover(app: Application, recovery: Recovery, tasks: list[upkeep.Task]) -> None:
    try:
        staging.sweep(app.paths)
        recovery.adopt()
        recovery.reconcile()
    except CsiOrasError as error:
        logger.error("recovery did not finish", cause=error.message)
    except Exception:  # noqa: BLE001 (the thread ends here; the driver serves on)
        logger.exception("a bug: recovery did not finish")
    else:
        logger.info("recovered", volumes=app.records.published())
    upkeep.start(tasks)


def _tasks(app: Application, recovery: Recovery) -> list[upkeep.Task]:
    """Return what a node's driver does when nobody asks; a controller keeps no store."""
    return [
        upkeep.Task(name="collect", seconds=_COLLECT_SECONDS, action=app.collector.tidy),
        upkeep.Task(name="chunk indexes", seconds=_COLLECT_SECONDS, action=app.own_indexes.trim),
        upkeep.Task(name="sharing", seconds=_SHARING_SECONDS, action=app.measure_sharing),
        upkeep.Task(name="views", seconds=_VIEWS_SECONDS, action=app.views.reconcile),
        upkeep.Task(name="reconcile", seconds=_RECONCILE_SECONDS, action=recovery.reconcile),
    ]


def _prefetch(settings: ServeSettings, app: Application, events: Events) -> upkeep.Task:
    """Return the task that looks after the wishes of node policy."""
    node = Involved.find(settings.node_id)
    observers = Observers(
        metrics=app.metrics, tell=lambda reason, about, message: events.emit(node, reason, about, message)
    )
    schedule = Schedule(
        app.prefetcher(observers), lambda: [Due(wish=wish.wish, every=wish.every) for wish in app.policy.prefetch]
    )
    return upkeep.Task(name="prefetch", seconds=TICK_SECONDS, action=schedule.tick)


def _labels(settings: ServeSettings, app: Application) -> list[upkeep.Task]:
    """Return the task that labels the node, where that is wanted and there is a cluster."""
    if not settings.label_node:
        return []
    if not _is_in_cluster(settings):
        logger.warning("no service account of a cluster is here: the node gets no labels")
        return []
    connected = cache(partial(_connect, settings))
    node_labels = labels.NodeLabels(app.wishes, app.catalogue, lambda prefix, wanted: connected().label(prefix, wanted))
    return [upkeep.Task(name="labels", seconds=labels.TICK_SECONDS, action=node_labels.sync)]


def _truth(settings: ServeSettings, app: Application, notices: Notices, lazy: LazyVolumes) -> list[upkeep.Task]:
    """Return the tasks that verify the store and tell of what has rotted."""
    reports = CorruptionReports(
        quarantine=app.quarantine,
        catalogue=app.catalogue,
        records=app.records,
        kubelet_dir=settings.kubelet_dir,
        trees=app.paths.trees,
        replace=lazy.replace,
        notices=notices,
        metrics=app.metrics,
    )
    lazy.listen(reports.tell_poisoned)
    settle = upkeep.Task(name="lazy truth", seconds=_CORRUPT_SECONDS, action=lazy.settle)
    tell = upkeep.Task(name="corruption", seconds=_CORRUPT_SECONDS, action=reports.look)
    weekly = WeeklyPass(app.database, app.verifier, Pace())
    return [settle, tell, upkeep.Task(name="verify", seconds=_VERIFY_SECONDS, action=lambda: weekly.run(tell.wake))]
