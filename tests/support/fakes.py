"""What tests against the programmable registry speak of, beside its fixtures."""

from collections.abc import Callable

from csi_oras.registry.client import RepositoryClient
from csi_oras.registry.credentials import Credential
from csi_oras.telemetry.secrets import Secret
from tests.support.planted import planted

Connect = Callable[..., RepositoryClient]
"""The fixture `connect`: `connect("t/x", user("me", "right"))` opens a repository of the fake registry."""


def user(name: str, password: str, source: str = "the volume's secret") -> Credential:
    """A credential, with its password planted."""
    return Credential(username=name, password=Secret(planted(password)), source=source)
