"""Several pods or commands that want blobs at once, and registries that hold or bend what they send."""

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

from tests.support.driver import Driver
from tests.support.fake_server import Answer, Bend, Request
from tests.support.volume import Volume

PROOF_BYTES = 4096
"""What is read of a blob only to show that it may be read."""


class Pods:
    """Pods of a driver; what they mounted goes away at the end, and no ingest stays."""

    def __init__(self, driver: Driver, pool: ThreadPoolExecutor) -> None:
        self._driver = driver
        self._pool = pool
        self._volumes: list[Volume] = []
        self._calls: list[Future[Path]] = []

    def publish(self, reference: str, **options: object) -> Path:
        """Publish a volume of a new pod, and return its target."""
        volume = Volume(self._driver)
        self._volumes.append(volume)
        volume.publish(reference=reference, **options)
        return volume.target

    def start(self, reference: str, **options: object) -> Future[Path]:
        """Publish in the background."""
        self._calls.append(self._pool.submit(self.publish, reference, **options))
        return self._calls[-1]

    def end(self) -> None:
        """Unpublish when every call has ended."""
        assert not wait(self._calls, 60).not_done
        for volume in self._volumes:
            volume.unpublish()
            assert volume.is_gone()
        assert list((self._driver.state / "ingest").iterdir()) == []


class Pulls:
    """Runs of `csi-oras pull` on one store; none outlives its test."""

    def __init__(self, state: Path, policy: Path) -> None:
        self._options = ["--state-dir", str(state), "--config", str(policy)]
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, reference: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "csi_oras", "pull", reference, *self._options]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self._running.append(process)
        return process

    def end(self) -> None:
        for process in self._running:
            process.kill()
            process.communicate()


def done(process: "subprocess.Popen[bytes]", seconds: float = 60) -> None:
    said = process.communicate(timeout=seconds)[1]
    assert process.returncode == 0, said


class Held:
    """Answers that wait until they are released."""

    def __init__(self, bend: Bend = lambda _request, answer: answer) -> None:
        self._bend = bend
        self._under_way = threading.Event()
        self._released = threading.Event()

    def __call__(self, request: Request, answer: Answer) -> Answer:
        self._under_way.set()
        assert self._released.wait(60)
        return self._bend(request, answer)

    def wait(self) -> None:
        """Return when one of them is asked for."""
        assert self._under_way.wait(60)

    def release(self) -> None:
        """Let all of them go."""
        self._released.set()


def zeros(_request: Request, answer: Answer) -> Answer:
    return replace(answer, body=bytes(len(answer.body)))


def drip(_request: Request, answer: Answer) -> Answer:
    """Come at less than 2 KiB/s, which is just above the pace at which a peer is given up."""
    headers = {**answer.headers, "Content-Length": str(len(answer.body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return replace(answer, raw=f"HTTP/1.1 {answer.status} OK\r\n{head}\r\n".encode(), drips=0.0005)


def asked_for(request: Request, size: int) -> int:
    """How many bytes a request wants."""
    start, dash, end = str(request.headers.get("Range", "")).removeprefix("bytes=").partition("-")
    return int(end) - int(start) + 1 if dash else size


def fetched(requests: Sequence[Request], size: int) -> int:
    """How many bytes requests want but for those that only show that the blob may be read."""
    return sum(count for request in requests if (count := asked_for(request, size)) != PROOF_BYTES)


def wait_for(condition: Callable[[], bool]) -> None:
    waited = threading.Event()
    for _ in range(6000):
        if condition():
            return
        waited.wait(0.01)
    raise AssertionError("it never came to that")
