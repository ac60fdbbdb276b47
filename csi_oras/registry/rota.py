"""The rota: who of the hosts of a registry is asked first.

The order is the administrator's. A host that has just failed in a way that passes is asked last for a while: a
blob is many requests, and each would wait for the same dead mirror first.
"""

import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from csi_oras.errors import CsiOrasError, RegistryUnavailableError
from csi_oras.registry.host import RegistryHost
from csi_oras.registry.session import Session
from csi_oras.telemetry.logs import logger

REST_SECONDS = 30.0
PAUSE_SECONDS = 10.0
"""Rest of a host whose answer broke off: long enough for the rest of that answer to come from another."""
DOUBT_SECONDS = 300.0
"""Rest of a mirror that may have sent wrong bytes."""

_Result = TypeVar("_Result")


class Rota:
    """Remembers who rests."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._until: dict[str, float] = {}

    def ask(self, sessions: Iterable[Session], action: Callable[[Session], _Result]) -> _Result:
        """Return the first answer that is none of our errors; of errors, the last host's in the given order counts.

        Raises:
            CsiOrasError: every host failed.
        """
        asked = list(sessions)
        failures: dict[Session, CsiOrasError] = {}
        for session in sorted(asked, key=lambda session: self._rests(session.host)):
            try:
                return action(session)
            except CsiOrasError as error:
                failures[session] = error
                if len(asked) > 1:
                    self._note(session.host, error)
        raise _summed_up([failures[session] for session in asked], [session.host.name for session in asked])

    def rest(self, host: RegistryHost, seconds: float = PAUSE_SECONDS) -> None:
        """Ask `host` last for a while."""
        with self._lock:
            self._until[host.url] = self._clock() + seconds

    def _note(self, host: RegistryHost, error: CsiOrasError) -> None:
        if isinstance(error, RegistryUnavailableError):
            self.rest(host, error.retry_after or REST_SECONDS)
        logger.info("a host of a registry failed", host=host.url, registry=host.registry, cause=error.message)

    def _rests(self, host: RegistryHost) -> bool:
        with self._lock:
            return self._until.get(host.url, 0.0) > self._clock()


def _summed_up(errors: list[CsiOrasError], names: list[str]) -> CsiOrasError:
    """Return the last error, which names what the hosts before it said."""
    *others, last = errors
    if not others:
        return last
    said = "; ".join(
        error.cause if name in error.cause else f"{name}: {error.cause}"
        for name, error in zip(names, others, strict=False)
    )
    summed_up = type(last)(last.subject, f"{last.cause} (before that, {said})", last.remedy)
    if isinstance(last, RegistryUnavailableError) and isinstance(summed_up, RegistryUnavailableError):
        summed_up.retry_after = last.retry_after
    return summed_up
