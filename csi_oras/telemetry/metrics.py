"""Metrics: what an operator watches, in base units and with few labels; never a digest, pod or full reference."""

import threading
from collections.abc import Mapping
from enum import StrEnum

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.gc_collector import GCCollector

OPERATION_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 25, 50, 120, 300, 600)
"""The buckets of the CSI sidecars (csi-lib-utils), so that one dashboard fits all."""
PULL_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
MOST_REGISTRIES = 50
"""Registries with a label of their own; pods name registries, and must not be able to fill a monitoring system."""


class SignatureOutcome(StrEnum):
    """How a check of signatures ends."""

    VERIFIED = "verified"
    MISSING = "missing"
    INVALID = "invalid"
    UNREACHABLE = "unreachable"
    UNKNOWN = "unknown"
    """It is on the node since before, and was not looked for."""


class EventOutcome(StrEnum):
    """What becomes of an event."""

    SENT = "sent"
    FORBIDDEN = "forbidden"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    DROPPED = "dropped"
    """More came than could be sent."""


class PushOutcome(StrEnum):
    """How an attempt to push what a pod wrote ends."""

    OK = "ok"
    RETRIED = "retried"
    FAILED = "failed"
    """For good: it stays in the outbox."""


class Metrics:
    """The series of one driver."""

    def __init__(self, driver_name: str, version: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._driver_name = driver_name
        self._operations = Histogram(
            "csi_plugin_operations_seconds",
            "Duration of CSI calls by gRPC status.",
            ("driver_name", "method_name", "grpc_status_code"),
            buckets=OPERATION_BUCKETS,
            registry=self.registry,
        )
        self._pulls = Histogram(
            "csi_oras_pull_duration_seconds",
            "Duration of artifact pulls by registry and outcome.",
            ("registry", "outcome"),
            buckets=PULL_BUCKETS,
            registry=self.registry,
        )
        self.pull_bytes = Counter(
            "csi_oras_pull_bytes", "Bytes of blobs that came from registries.", registry=self.registry
        )
        self.cache_hits = Counter(
            "csi_oras_cache_hits", "Blobs that were wanted and already in the store.", registry=self.registry
        )
        self.cache_misses = Counter(
            "csi_oras_cache_misses", "Blobs that were wanted and had to be fetched.", registry=self.registry
        )
        self.verify_failures = Counter(
            "csi_oras_verify_failures",
            "Manifests and blobs with a wrong digest or size.",
            registry=self.registry,
        )
        self._corrupt = Counter(
            "csi_oras_corrupt",
            "Blobs and unpacked files that the disk had changed, since the start or in quarantine then.",
            ("kind",),
            registry=self.registry,
        )
        for kind in ("blob", "object"):  # at 0, so that the first one is an increase
            self._corrupt.labels(kind)
        self._signatures = Counter(
            "csi_oras_signature_checks",
            "Artifacts held against a rule of node policy that wants them signed.",
            ("mode", "outcome"),
            registry=self.registry,
        )
        self._events = Counter(
            "csi_oras_events", "Events on pods and the node.", ("reason", "outcome"), registry=self.registry
        )
        self._requests = Counter(
            "csi_oras_registry_requests",
            "Answers of registries by HTTP status.",
            ("code",),
            registry=self.registry,
        )
        self._collections = Counter(
            "csi_oras_collections", "Collections by what asked for them.", ("trigger",), registry=self.registry
        )
        self._collected_bytes = Counter(
            "csi_oras_collected_bytes", "Bytes on disk that collections gave back.", registry=self.registry
        )
        self._collected_artifacts = Counter(
            "csi_oras_collected_artifacts", "Artifacts that collections took.", registry=self.registry
        )
        self._pushes = Counter(
            "csi_oras_outbox_pushes", "Attempts to push what a pod wrote.", ("outcome",), registry=self.registry
        )
        self._pushed_bytes = Counter(
            "csi_oras_outbox_pushed_bytes", "Bytes of blobs that pushes had to send.", registry=self.registry
        )
        self.outbox_entries = self._gauge(
            "csi_oras_outbox_entries", "Volumes whose writes are not in their registry yet.", ("state",)
        )
        self._lazy = {
            "reads": self._counter("csi_oras_lazy_reads", "Reads that FUSE processes have answered."),
            "bytes": self._counter("csi_oras_lazy_read_bytes", "Bytes that they have answered them with."),
            "waits": self._counter("csi_oras_lazy_waits", "Reads whose bytes were not local."),
            "waitSeconds": self._counter("csi_oras_lazy_wait_seconds", "Time that these have waited."),
            "aheadHits": self._counter("csi_oras_lazy_ahead_hits", "Reads of bytes that were fetched ahead of them."),
        }
        self._lazy_proofs = Counter(
            "csi_oras_lazy_proofs",
            "Chunks that were held against an index, and blobs that were wrong when they were whole.",
            ("outcome",),
            registry=self.registry,
        )
        self.lazy_processes = self._gauge("csi_oras_lazy_processes", "FUSE processes that serve lazy volumes.")
        self.prefetch_failures = Counter(
            "csi_oras_prefetch_failures", "Attempts at a wish that failed.", registry=self.registry
        )
        self.prefetch_artifacts = self._gauge(
            "csi_oras_prefetch_artifacts", "References that the prefetch list means.", ("state",)
        )
        self.pulls_in_flight = self._gauge("csi_oras_pulls_in_flight", "Artifact pulls under way.")
        self.published_volumes = self._gauge("csi_oras_published_volumes", "Volumes that are mounted.", ("mode",))
        self.store_artifacts = self._gauge("csi_oras_store_artifacts", "Artifacts in the store.")
        self.store_blobs = self._gauge("csi_oras_store_blobs", "Blobs in the store, counted once a minute.")
        self.store_bytes = self._gauge("csi_oras_store_bytes", "Bytes in the store, counted once a minute.", ("state",))
        self.store_available = self._gauge("csi_oras_store_available_bytes", "Bytes free in the store's file system.")
        self.store_capacity = self._gauge("csi_oras_store_capacity_bytes", "Bytes of the store's file system.")
        self.store_shown = self._gauge(
            "csi_oras_store_shown_bytes", "Bytes that volumes can see, measured every quarter of an hour."
        )
        self.store_saved = self._gauge(
            "csi_oras_store_saved_bytes",
            "Bytes on disk that are saved because files are stored once, measured every quarter of an hour.",
            ("by",),
        )
        Info("csi_oras_build", "The running release.", registry=self.registry).info({"version": version})
        self._lock = threading.Lock()
        self._registries: set[str] = set()

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def observe_operation(self, method: str, status: str, seconds: float) -> None:
        """Count one CSI call; `status` in Go's spelling, as the sidecars have it (`DeadlineExceeded`)."""
        self._operations.labels(self._driver_name, method, status).observe(seconds)

    def observe_pull(self, registry: str, outcome: str, seconds: float) -> None:
        """Count one artifact pull; `outcome` is `ok` or the name of an error class."""
        with self._lock:
            if registry not in self._registries and len(self._registries) >= MOST_REGISTRIES:
                registry = "other"
            self._registries.add(registry)
        self._pulls.labels(registry, outcome).observe(seconds)

    def observe_signature(self, mode: str, outcome: SignatureOutcome) -> None:
        """Count one artifact that was held against a rule; `mode` as the policy file spells it."""
        self._signatures.labels(mode, outcome).inc()

    def observe_corruption(self, kind: str) -> None:
        """Count one `blob` or `object` that has rotted."""
        self._corrupt.labels(kind).inc()

    def observe_event(self, reason: str, outcome: EventOutcome) -> None:
        """Count one event, `reason` as people read it."""
        self._events.labels(reason, outcome).inc()

    def observe_push(self, outcome: PushOutcome, sent: int = 0) -> None:
        """Count one attempt to push what a pod wrote, and the bytes that it had to send."""
        self._pushes.labels(outcome).inc()
        self._pushed_bytes.inc(sent)

    def observe_lazy(self, done: Mapping[str, float]) -> None:
        """Count what a FUSE process has done since it told last, by the names of its message."""
        for name, series in self._lazy.items():
            series.inc(max(done.get(name, 0.0), 0.0))

    def observe_proof(self, outcome: str) -> None:
        """Count one chunk that was `verified` or `rejected`, or one blob that was `poisoned`."""
        self._lazy_proofs.labels(outcome).inc()

    def observe_collection(self, trigger: str, size: int, artifacts: int) -> None:
        """Count one collection, what asked for it (`watermark`, `need` or `command`), and what it took; bytes."""
        self._collections.labels(trigger).inc()
        self._collected_bytes.inc(size)
        self._collected_artifacts.inc(artifacts)

    def observe_request(self, status: int) -> None:
        """Count one answer of a registry."""
        self._requests.labels(str(status)).inc()

    def exposition(self) -> bytes:
        """Return all series in Prometheus's text format."""
        return generate_latest(self.registry)
