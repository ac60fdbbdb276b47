"""Fixtures for tests of pushes to the fake registry; name this module in `pytest_plugins`."""

import pytest

from csi_oras.registry.pushes import PushClient
from tests.support.fakes import Connect
from tests.support.pushing import CHUNK


@pytest.fixture
def client(connect: Connect) -> PushClient:
    """What pushes to `t/x`, in chunks of which the content needs four."""
    return connect().pushes(CHUNK)
