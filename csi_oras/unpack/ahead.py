"""Reading ahead: one thread decompresses and hashes while another makes files of what came before."""

import contextvars
import queue
import threading
from collections.abc import Generator, Iterator

_CHUNKS = 4
"""How many chunks wait at most."""


def ahead(chunks: Iterator[bytes]) -> Generator[bytes]:
    """Yield `chunks`, made by a thread of their own, which ends with the generator; its errors are raised here."""
    waiting: queue.Queue[bytes | BaseException | None] = queue.Queue(_CHUNKS)
    stopped = threading.Event()

    def make() -> None:
        last: BaseException | None = None
        try:
            for chunk in chunks:
                waiting.put(chunk)
                if stopped.is_set():
                    break
        except BaseException as error:  # noqa: BLE001 (it is for the one who reads)
            last = error
        waiting.put(last)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(make,), name="read-ahead", daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        while thread.is_alive():  # it may wait for room
            try:
                waiting.get(timeout=0.01)
            except queue.Empty:
                continue
