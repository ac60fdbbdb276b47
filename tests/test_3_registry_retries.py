"""Retries: pauses grow, a server's own wish for a longer one counts within the budget, and abuse ends in time."""

import time
from datetime import UTC, datetime

import pytest

from csi_oras.errors import ArtifactNotFoundError, RegistryUnavailableError
from csi_oras.registry.retries import ATTEMPTS, BUDGET_SECONDS, asked_pause, retried
from tests.support.fake_registry import FakeRegistry
from tests.support.fake_server import status
from tests.support.fakes import Connect

pytest_plugins = ["tests.support.fake_fixtures"]

NOON = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
LIMIT = 1 << 20


class Failing:
    """Fails so many times, asking for pauses, and notes what it was given."""

    def __init__(self, *retry_after: float) -> None:
        self.wishes = list(retry_after)
        self.pauses: list[float] = []
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if not self.wishes:
            return "done"
        error = RegistryUnavailableError("registry", "answers with status 429")
        error.retry_after = self.wishes.pop(0)
        raise error

    def run(self) -> str:
        return retried(self, sleep=self.pauses.append)


def test_pauses_without_a_wish_are_short_and_grow() -> None:
    failing = Failing(0, 0, 0)
    assert failing.run() == "done"
    assert len(failing.pauses) == 3
    assert sum(failing.pauses) < 3
    assert failing.pauses[2] >= 0.4


def test_pauses_are_jittered() -> None:
    assert len({Failing(0).run() and tuple(_pauses(0)) for _ in range(20)}) > 10


def _pauses(*wishes: float) -> list[float]:
    failing = Failing(*wishes)
    failing.run()
    return failing.pauses


def test_pause_that_is_asked_for_is_kept() -> None:
    assert 7 <= _pauses(7)[0] < 8


@pytest.mark.row("D12")
def test_pauses_take_no_more_than_the_budget_together() -> None:
    failing = Failing(40, 40, 40)
    with pytest.raises(RegistryUnavailableError):
        failing.run()
    assert failing.calls == 2
    assert sum(failing.pauses) <= BUDGET_SECONDS


def test_who_is_told_when_to_come_again_does_so_within_the_budget() -> None:
    failing = Failing(*[1.0] * 3 * ATTEMPTS)
    failing.run()
    assert failing.calls == 3 * ATTEMPTS + 1
    endless = Failing(*[1.0] * 1000)
    with pytest.raises(RegistryUnavailableError):
        endless.run()
    assert sum(endless.pauses) <= BUDGET_SECONDS


def test_failures_without_end_stop_after_some_attempts() -> None:
    failing = Failing(*[0.0] * 100)
    with pytest.raises(RegistryUnavailableError):
        failing.run()
    assert failing.calls == ATTEMPTS


def test_other_failures_are_not_tried_again() -> None:
    calls = []

    def absent() -> None:
        calls.append(1)
        raise ArtifactNotFoundError("x", "is not there")

    with pytest.raises(ArtifactNotFoundError):
        retried(absent)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("", 0),
        ("0", 0),
        ("7", 7),
        ("60", 60),
        ("61", 60),
        ("99999999", 60),
        ("9" * 20, 60),
        ("9" * 5000, 0),
        ("-1", 0),
        ("1e9", 0),
        ("7.5", 0),
        ("soon", 0),
        ("\u0667", 0),
        ("Sat, 21 Nov 2026 12:00:09 GMT", 9),
        ("Sat, 21 Nov 2026 11:00:00 GMT", 0),
        ("Sat, 21 Nov 2099 12:00:00 GMT", 60),
        ("Sat, 21 Nov 2026 12:00:09", 0),
        ("Sat, 99 Nov 2026 12:00:09 GMT", 0),
    ],
    ids=lambda value: str(value)[:30],
)
@pytest.mark.row("D12")
def test_retry_after_is_seconds_or_a_date_and_clamped(header: str, seconds: float) -> None:
    assert asked_pause(header, NOON) == seconds


@pytest.mark.row("D12")
def test_registry_that_asks_for_a_pause_gets_it_and_for_too_many_is_unavailable(
    fake: FakeRegistry, connect: Connect
) -> None:
    fake.artifact("t/x", [])
    fake.bend("/manifests/", status(429, Retry_After="1"), times=1)
    fake.bend("/manifests/", status(503, Retry_After="99999999"), times=1)
    started = time.monotonic()
    with pytest.raises(RegistryUnavailableError, match="status 503"):
        connect().manifest("v1", limit=LIMIT)
    assert 1 <= time.monotonic() - started < 10
    assert fake.count("/manifests/") == 2


def test_token_endpoint_that_asks_for_a_pause_gets_it(fake: FakeRegistry, connect: Connect) -> None:
    fake.artifact("t/x", [])
    fake.require_tokens(anonymous=True)
    fake.bend("/token", status(429, Retry_After="1"), times=1)
    started = time.monotonic()
    assert connect().manifest("v1", limit=LIMIT)
    assert time.monotonic() - started >= 1
