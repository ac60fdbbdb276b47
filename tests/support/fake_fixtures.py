"""Fixtures for tests against the programmable registry; name this module in `pytest_plugins`."""

from collections.abc import Iterator

import pytest

from csi_oras.oci.reference import Repository
from csi_oras.registry.client import RepositoryClient
from csi_oras.registry.credentials import Credential
from csi_oras.registry.registries import Registries
from csi_oras.registry.transport import Transport
from tests.support.fake_registry import FakeRegistry
from tests.support.fake_server import FakeServer
from tests.support.fakes import Connect
from tests.support.gate import Gate


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    """The registry that is asked."""
    with FakeRegistry() as running:
        yield running


@pytest.fixture
def gate(fake: FakeRegistry) -> Iterator[Gate]:
    """A proxy before it, which lets bodies through as far as a test says."""
    with Gate(fake.address) as running:
        yield running


@pytest.fixture
def evil() -> Iterator[FakeServer]:
    """Another origin, which must never see a credential."""
    with FakeServer() as running:
        yield running
        assert running.credentials_seen() == []


@pytest.fixture
def transport() -> Iterator[Transport]:
    """A transport that waits half a second for the next byte."""
    transport = Transport(stall_seconds=0.5)
    yield transport
    transport.close()


@pytest.fixture
def connect(fake: FakeRegistry, transport: Transport) -> Connect:
    """What opens a repository of the fake registry: `connect("t/x", user("me", "right"))`."""
    registries = Registries(transport)

    def connect(name: str = "t/x", credential: Credential | None = None, host: str = "") -> RepositoryClient:
        return registries.repository(Repository(registry=host or fake.address, name=name), credential)

    return connect
