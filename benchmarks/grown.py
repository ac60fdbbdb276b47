"""A driver whose store grows by what it pulls itself: artifact after artifact, published and unpublished by its socket.

So files, database and memory are what a node's would be after as many pods.
"""

import hashlib
import shutil
import socket
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.contenders import publish
from benchmarks.shelf import Shelf
from csi_oras.csi.pb import csi_pb2
from tests.support.driver import Driver, pod_context

_CLIENTS = 8
_LOOK_SECONDS = 0.002
_START_SECONDS = 60.0
_NO_COLLECTION = "store: {highWatermark: 100, minAge: 0s}"
LAYERS = 9
"""Of each artifact; with the manifest, 10,000 artifacts are 100,000 blobs."""


class PromptDriver(Driver):
    """A driver whose start is noticed at once: gRPC would wait a second before it looks for a socket again."""

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        with socket.socket(socket.AF_UNIX) as probe:
            while probe.connect_ex(str(self.socket)):
                if self.process is None or self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the driver does not serve: {self.log[-3000:]}")
                time.sleep(_LOOK_SECONDS)
        self.identity.Probe(csi_pb2.ProbeRequest(), timeout=_START_SECONDS, wait_for_ready=True)


class Grown:
    """A driver, the registry that it pulls from, and how far both have come; use it in a with statement."""

    def __init__(self, place: Path) -> None:
        self.policy = place / "policy.yaml"
        self.set_policy()
        self.driver = PromptDriver(place, "--config", str(self.policy))
        self.artifacts = 0
        self.volumes = 0
        self._shelf = Shelf(LAYERS)
        self._stack = ExitStack()

    def set_policy(self, text: str = _NO_COLLECTION) -> None:
        """Write the policy that the next start of the driver goes by; by default, nothing is collected unasked."""
        self.policy.write_text(f"{text}\n")

    @property
    def blobs(self) -> int:
        """How many blobs the store has."""
        return self.artifacts * self._shelf.blobs

    def grow(self, artifacts: int) -> None:
        """Pull until the store has so many artifacts."""
        _together(self._bring, range(self.artifacts, artifacts))
        self.artifacts = max(artifacts, self.artifacts)

    def hold(self, volumes: int) -> None:
        """Publish or unpublish until so many volumes are there, each artifact shown as often as others."""
        _together(lambda number: self.publish(number, str(number)), range(self.volumes, volumes))
        _together(lambda number: self._end(str(number)), range(volumes, self.volumes))
        self.volumes = volumes

    def forget(self) -> None:
        """Take it that the artifacts were collected."""
        self.artifacts = 0

    def publish(self, number: int, volume: str) -> None:
        """Publish an artifact, whatever its number, as a volume."""
        context: dict[str, Any] = {"reference": self._shelf.reference(number % self.artifacts), **pod_context()}
        self.driver.publish(self._target(volume), volume_id=_volume_id(volume), **context)

    def unpublish(self, volume: str) -> None:
        """Unpublish a volume."""
        self.driver.unpublish(self._target(volume), volume_id=_volume_id(volume))

    def _bring(self, number: int) -> None:
        volume = f"new {number}"
        publish(self.driver, self._target(volume), self._shelf.artifact(number), _volume_id(volume))
        self._end(volume)

    def _end(self, volume: str) -> None:
        """Unpublish a volume, and remove its pod's directory as the kubelet does."""
        self.unpublish(volume)
        shutil.rmtree(self._target(volume).parents[3])

    def _target(self, volume: str) -> Path:
        return self.driver.target(pod=_volume_id(volume))

    def __enter__(self) -> Self:
        self._stack.enter_context(self._shelf)
        self._stack.enter_context(self.driver)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def says(log: Path, event: str, position: int) -> bool:
    """Say whether a driver has logged an event since its log had so many bytes."""
    with log.open("rb") as lines:
        lines.seek(position)
        return any(f'"event": "{event}"'.encode() in line for line in lines)


def _volume_id(volume: str) -> str:
    """Return an id as the kubelet makes them, which come in no order."""
    return f"csi-{hashlib.sha256(volume.encode()).hexdigest()}"


def _together(work: Callable[[int], Any], numbers: Iterable[int]) -> None:
    with ThreadPoolExecutor(_CLIENTS) as clients:
        for _ in clients.map(work, numbers):
            pass
