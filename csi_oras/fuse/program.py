"""The program: one tree, from the take-over of its connection until that ends or somebody says so."""

import errno
import math
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyfuse3
import trio

from csi_oras.fuse.blobs import PATIENCE_SECONDS, Blobs
from csi_oras.fuse.connection import Connection
from csi_oras.fuse.driver import Driver
from csi_oras.fuse.messages import Came, Dropped, Unasked
from csi_oras.fuse.operations import Operations
from csi_oras.fuse.statistics import Statistics
from csi_oras.fuse.tree import Tree
from csi_oras.oci.digest import Digest
from csi_oras.telemetry.logs import logger

TOLD, ENDED = 0, 3
"""How it exits: because it was told to, or because the last volume of the tree has gone. Anything else is a bug."""
_MOST_REQUESTS = 2048
"""Answered at a time, more than the kernel reads at a time: what waits for a dead registry leaves room for the rest."""
_REPORT_SECONDS = 10
_BEAT_SECONDS = 1
_LAST_WORDS_SECONDS = 1
_ENDS = frozenset({errno.ENODEV, errno.ENOTCONN, errno.ECONNABORTED})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A descriptor of `/dev/fuse` whose connection stands, the name of the tree, its plan, the driver's socket."""

    device: int
    tree: str
    plan: Path
    driver: Path


def run(settings: Settings, *, patience: float = PATIENCE_SECONDS, pulse: int | None = None) -> int:
    """Serve a tree, and return how that ended; reads wait for `patience` seconds, and `pulse` is told that we live.

    Raises:
        CsiOrasError: the plan or the descriptor is none.
        OSError: the kernel fails.
    """
    tree = Tree.load(settings.plan)
    return trio.run(_Program(settings, tree, patience).run, pulse)


class _Program:
    def __init__(self, settings: Settings, tree: Tree, patience: float) -> None:
        self._tree = tree
        self._connection = Connection(settings.device)
        self._statistics = Statistics()
        self._driver = Driver(settings.driver, settings.tree, self._hear)
        self._blobs = Blobs(self._driver, self._statistics, patience)
        self._operations = Operations(tree, self._blobs, self._statistics, self._complete)
        self._connected = trio.Event()
        self._doubtful, self._to_invalidate = trio.open_memory_channel[int](math.inf)

    async def run(self, pulse: int | None) -> int:
        """Serve until the connection ends or SIGTERM comes."""
        pyfuse3.init(self._operations, self._connection.path, set())
        outcome = TOLD
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._assist)
            if pulse is not None:
                nursery.start_soon(_beat, pulse)
            with trio.CancelScope() as serving:
                nursery.start_soon(_cancel_when_told, serving)
                await self._serve()
                outcome = ENDED
            with trio.move_on_after(_LAST_WORDS_SECONDS):
                await self._driver.finish(self._statistics.message())
            nursery.cancel_scope.cancel()
        return outcome  # what libfuse holds goes with the process

    def _complete(self) -> None:
        try:
            self._connection.complete()
        except BaseException:  # noqa: BLE001 (nobody between here and the kernel can tell it on)
            logger.exception("cannot take the connection over")
            os._exit(1)
        self._operations.must_answer = not self._connection.is_asked_again
        self._connected.set()

    async def _serve(self) -> None:
        """Answer the kernel until the connection ends."""
        while True:
            try:
                await pyfuse3.main(max_tasks=_MOST_REQUESTS)
            except ExceptionGroup as group:
                causes = {error.errno for error in _leaves(group) if isinstance(error, OSError)}
                if causes & _ENDS:
                    return
                if causes != {errno.EAGAIN}:
                    raise
                # a reader was killed and took back what was announced: pyfuse3 has given up all that it could
                self._connection.ask_again()
            else:
                return

    async def _assist(self) -> None:
        """Do what is not for the kernel, from when it can be told something."""
        await self._connected.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._driver.run)
            nursery.start_soon(self._report)
            nursery.start_soon(self._invalidate)

    def _hear(self, message: Unasked) -> None:
        if isinstance(message, Came):
            self._blobs.note(message)
        elif message.blob not in self._tree.blobs:
            return
        elif isinstance(message, Dropped):
            self._blobs.drop(message.blob)
            self._forget_cached(message.blob)
        elif self._blobs.poison(message.blob):
            logger.error("a blob is not what its digest says: nothing of it is shown any more", blob=str(message.blob))
            self._forget_cached(message.blob)

    def _forget_cached(self, blob: Digest) -> None:
        for inode in self._tree.blobs[blob]:
            self._doubtful.send_nowait(inode)

    async def _invalidate(self) -> None:
        """Take files in doubt out of the kernel's cache: in a thread, for it waits for reads that are under way."""
        async for inode in self._to_invalidate:
            await trio.to_thread.run_sync(self._connection.forget_cached, inode, abandon_on_cancel=True)

    async def _report(self) -> None:
        while True:
            await trio.sleep(_REPORT_SECONDS)
            if self._statistics != Statistics() and self._driver.tell(self._statistics.message()):
                self._statistics.forget()


async def _beat(pulse: int) -> None:
    while True:
        with suppress(BlockingIOError):  # nobody has looked for hours: the mounter is stopped
            os.write(pulse, b".")
        await trio.sleep(_BEAT_SECONDS)


async def _cancel_when_told(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        yield from _leaves(error) if isinstance(error, BaseExceptionGroup) else (error,)
