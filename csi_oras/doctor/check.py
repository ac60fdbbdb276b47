"""Checks: small functions that look at one thing and return values, each bounded in time.

A check that raises has failed, and says why in the error's own words; one that hangs (a dead network file system, a
name server without answer) is left behind.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self, TypeVar

from csi_oras.errors import CsiOrasError, printable

SECONDS = 10.0
"""Longest that a check may take."""

_Result = TypeVar("_Result")


class State(StrEnum):
    """What came of a check."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What was looked at, what was found in one sentence, and what to do about it; nothing in it needs escaping."""

    name: str
    state: State
    message: str
    remedy: str = ""

    def __post_init__(self) -> None:
        for text in ("name", "message", "remedy"):
            object.__setattr__(self, text, printable(getattr(self, text)))

    @classmethod
    def ok(cls, name: str, message: str) -> Self:
        """Return that all is well."""
        return cls(name=name, state=State.OK, message=message)

    @classmethod
    def warning(cls, name: str, message: str, remedy: str = "") -> Self:
        """Return what works, but not as well as it could."""
        return cls(name=name, state=State.WARNING, message=message, remedy=remedy)

    @classmethod
    def failed(cls, name: str, message: str, remedy: str = "") -> Self:
        """Return what keeps volumes from working."""
        return cls(name=name, state=State.FAILED, message=message, remedy=remedy)

    @classmethod
    def of_error(cls, name: str, error: CsiOrasError | OSError) -> Self:
        """Return a failure in the error's own words."""
        if isinstance(error, CsiOrasError):
            return cls.failed(name, f"{error.subject}: {error.cause}", error.remedy)
        return cls.failed(name, f"{error.filename or 'it'} cannot be looked at ({error.strerror or error})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What several checks say to people, and the same by its parts for programs."""

    checks: tuple[Check, ...] = ()
    document: Mapping[str, Any] = field(default_factory=dict)

    def __add__(self, other: "Finding") -> "Finding":
        return Finding(checks=self.checks + other.checks, document={**self.document, **other.document})


Examination = Callable[[], Iterable[Check]]


def run(examinations: Mapping[str, Examination]) -> tuple[Check, ...]:
    """Run examinations side by side, and return what they find in their own order."""
    running = {name: begin(_listing(examine)) for name, examine in examinations.items()}
    until = time.monotonic() + SECONDS
    return tuple(check for name, future in running.items() for check in _outcome(name, future, until))


def begin(work: Callable[[], _Result]) -> "Future[_Result]":
    """Begin `work` in a thread that nobody has to wait for."""
    future: Future[_Result] = Future()
    threading.Thread(target=_settle, args=(future, work), daemon=True).start()
    return future


def _settle(future: "Future[_Result]", work: Callable[[], _Result]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:  # noqa: BLE001 (it is for who waits)
        future.set_exception(error)


def _listing(examine: Examination) -> Callable[[], list[Check]]:
    return lambda: list(examine())


def _outcome(name: str, future: "Future[list[Check]]", until: float) -> list[Check]:
    try:
        return future.result(max(0.0, until - time.monotonic()))
    except TimeoutError:
        return [Check.failed(name, f"did not come to an end within {SECONDS:.0f} s", "look at the node's disks")]
    except (CsiOrasError, OSError) as error:
        return [Check.of_error(name, error)]
