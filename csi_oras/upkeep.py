"""Upkeep: what the driver does when nobody asks, each task in a thread of its own, every so often or when woken."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from csi_oras.errors import CsiOrasError
from csi_oras.telemetry.logs import logger


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Something that is done now and then: `seconds` after it was done last, or as soon as somebody wakes it."""

    name: str
    seconds: float
    action: Callable[[], None]
    woken: threading.Event = field(default_factory=threading.Event)

    def wake(self) -> None:
        """See to it that the task is done soon."""
        self.woken.set()


def start(tasks: list[Task]) -> None:
    """Do `tasks` from now on, the first time at once; they end with the process."""
    for task in tasks:
        threading.Thread(target=_repeat, args=(task,), name=task.name, daemon=True).start()


def _repeat(task: Task) -> None:
    while True:
        task.woken.clear()
        try:
            task.action()
        except CsiOrasError as error:
            logger.warning("upkeep did not finish, it is tried again", task=task.name, cause=error.message)
        except Exception:  # noqa: BLE001 (one bad round must not be the last)
            logger.exception("a bug: upkeep did not finish, it is tried again", task=task.name)
        task.woken.wait(task.seconds)
