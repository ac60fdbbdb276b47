"""A real registry that dies (-9), comes back and is slow, when a request comes by that the test names."""

import threading
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from csi_oras.demo.distribution import Distribution
from tests.support.fault_proxy import CutError, Fault, FaultProxy, Point

_LONGEST_SECONDS = 120.0


class _Mortal(Distribution):
    """A registry that can be killed."""

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def is_alive(self) -> bool:
        return self._process is not None


class FaultyRegistry:
    """A CNCF distribution registry behind a proxy; use it in a with statement, and its `address` in references."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._registry = _Mortal(directory)
        self.proxy = FaultProxy(self._registry.port)
        self.address = self.proxy.address
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._held = ExitStack()

    def kill(self) -> None:
        """Kill -9; connections to it break, and nobody answers from now on.

        Not while it takes a manifest: distribution 2.8 writes the link of a tag in place, and never gets over one that
        is torn, which is its administrator's matter; a torn link of a blob is mended by another upload.
        """
        with self.proxy.manifests, self._lock:
            self._registry.kill()

    def revive(self) -> None:
        """Start it if it is dead, with what is on its disk."""
        with self._lock:
            if not self._registry.is_alive:
                self._registry.start()

    def dies_at(self, point: Point, *, comes_back: bool) -> Fault:
        """Kill it at a point, which breaks the connection; it may come back at once."""

        def die() -> None:
            self.kill()
            if comes_back:
                self.revive()
            raise CutError

        return self.proxy.arm(point, die)

    def hangs_at(self, point: Point) -> Fault:
        """Have what is at a point go no further until it is released."""
        released = self._released

        def hang() -> None:
            released.wait(_LONGEST_SECONDS)

        return self.proxy.arm(point, hang)

    def crawls_at(self, point: Point, rate: int) -> Fault:
        """Have it take only so many bytes a second of a request, from a point on until it is released."""

        def crawl() -> None:
            self.proxy.rate = rate

        return self.proxy.arm(point, crawl)

    def release(self) -> None:
        """Let everything go on that hangs or crawls, and let nothing happen any more."""
        self.proxy.rate = 0
        self.proxy.disarm()
        self._released.set()
        self._released = threading.Event()

    def __enter__(self) -> Self:
        self._held.enter_context(self._registry)
        self._held.enter_context(self.proxy)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
        self._held.close()
