"""Retries: what may pass is tried again, with growing and jittered pauses, and within a budget.

A server may ask for a longer pause (Retry-After); it gets no more than the budget.
"""

import email.utils
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

import tenacity

from csi_oras.errors import RegistryUnavailableError

ATTEMPTS = 4
BUDGET_SECONDS = 60.0
"""Longest that all pauses of one action take together."""
_SECONDS = re.compile(r"[0-9]{1,20}")
_backoff = tenacity.wait_exponential(multiplier=0.1, max=1.5) + tenacity.wait_random(0, 0.2)

_Result = TypeVar("_Result")


def retried(
    action: Callable[[], _Result], attempts: int = ATTEMPTS, sleep: Callable[[float], None] = time.sleep
) -> _Result:
    """Run `action` again after a failure that may pass; under 3 s in all where no server asks for more.

    Who is told when to come again comes again as long as the budget lasts.
    """
    if attempts == 1:
        return action()
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(RegistryUnavailableError),
        wait=_pause,
        stop=lambda state: _is_over_budget(state) or (state.attempt_number >= attempts and not _asked(state)),
        sleep=sleep,
        reraise=True,
    )
    return retrying(action)


def asked_pause(retry_after: str, now: datetime | None = None) -> float:
    """Return the seconds of a Retry-After header (RFC 9110, 10.2.3), none for what is none, and never too many."""
    if _SECONDS.fullmatch(retry_after):
        return min(float(retry_after), BUDGET_SECONDS)
    try:
        moment = email.utils.parsedate_to_datetime(retry_after)
        seconds = (moment - (now or datetime.now(UTC))).total_seconds()
    except (ValueError, TypeError, OverflowError):  # no date, or one without a zone
        return 0.0
    return min(max(seconds, 0.0), BUDGET_SECONDS)


def _pause(state: tenacity.RetryCallState) -> float:
    asked, jittered = _asked(state), _backoff(state)
    return min(asked + jittered, BUDGET_SECONDS) if asked else jittered


def _asked(state: tenacity.RetryCallState) -> float:
    """Return the seconds that the server asked for, if it did."""
    error = state.outcome.exception() if state.outcome else None
    return error.retry_after if isinstance(error, RegistryUnavailableError) else 0.0


def _is_over_budget(state: tenacity.RetryCallState) -> bool:
    return state.idle_for + state.upcoming_sleep > BUDGET_SECONDS
