"""Fixtures for tests of outboxes in this process; name this module in `pytest_plugins`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_registry import FakeRegistry
from tests.support.outboxes import Outboxing


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Outboxing]:
    """An application with an outbox, which nobody looks after."""
    running = Outboxing(tmp_path / "node")
    yield running
    running.close()


@pytest.fixture
def target(fake: FakeRegistry) -> str:
    """Where to push."""
    return f"{fake.address}/t/out:v1"
