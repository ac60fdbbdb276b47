"""Fixtures for tests of lazy trees; name this module in `pytest_plugins`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lazies import Lazies


@pytest.fixture
def lazies(short_path: Path) -> Iterator[Lazies]:
    """An application with lazy trees, which end with the test."""
    made = Lazies(short_path)
    yield made
    made.close()
