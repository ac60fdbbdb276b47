"""The client against the CNCF registry itself, open and behind htpasswd."""

import os
from collections.abc import Iterator

import pytest

from csi_oras.demo.distribution import Distribution
from csi_oras.errors import ArtifactNotFoundError, UnauthenticatedError
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.reference import Reference, Repository
from csi_oras.registry.client import RepositoryClient
from csi_oras.registry.credentials import Credential
from csi_oras.registry.registries import Registries
from csi_oras.registry.sources import in_memory
from csi_oras.registry.transport import Transport
from tests.support.artifacts import OCI_MANIFEST, Pusher, files
from tests.support.fake_registry import basic
from tests.support.fakes import user
from tests.support.planted import planted
from tests.support.private_registry import bcrypt

pytestmark = pytest.mark.needs("registry")

LIMIT = 1 << 20


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Distribution]:
    """A registry that lets in nobody but `me`."""
    directory = tmp_path_factory.mktemp("private")
    passwords = directory / "htpasswd"
    passwords.write_text(f"me:{bcrypt(planted('right-password'))}\n")
    with Distribution(directory, f"auth: {{htpasswd: {{realm: private, path: {passwords}}}}}\n") as running:
        yield running


@pytest.fixture
def registries() -> Iterator[Registries]:
    transport = Transport()
    yield Registries(transport)
    transport.close()


def opened(registries: Registries, address: str, name: str, credential: Credential | None = None) -> RepositoryClient:
    return registries.repository(Repository(registry=address, name=name), credential)


def test_private_registry_serves_who_brings_the_right_password(
    private: Distribution, registries: Registries, repository: str
) -> None:
    pusher = Pusher(private.address, {"Authorization": basic("me", "right-password")})
    pusher.artifact(repository, files(a=b"alpha"))
    client = opened(registries, private.address, repository, user("me", "right-password"))
    assert client.manifest("v1", limit=LIMIT).media_type == OCI_MANIFEST
    buffer = bytearray(5)
    with client.blob(Descriptor.of(b"alpha", "a/b")) as stream:
        stream.readinto(memoryview(buffer))
    assert buffer == b"alpha"


@pytest.mark.parametrize(
    ("credential", "message"),
    [
        (None, "wants a credential"),
        (user("me", "wrong-password"), "refuses the credential from the volume's secret"),
        (user("you", "right-password"), "refuses the credential from the volume's secret"),
        (user("me", ""), "refuses the credential"),
    ],
    ids=["none", "wrong password", "wrong user", "empty password"],
)
def test_private_registry_refuses_everybody_else(
    private: Distribution, registries: Registries, credential: Credential | None, message: str
) -> None:
    with pytest.raises(UnauthenticatedError, match=message) as caught:
        opened(registries, private.address, "t/x", credential).manifest("v1", limit=LIMIT)
    assert "wrong-password" not in str(caught.value)


def test_large_upload_and_ranges_of_it_are_whole(
    registry: Distribution, registries: Registries, repository: str
) -> None:
    content = os.urandom(3 << 20)
    blob = Descriptor.of(content, "application/octet-stream")
    client = opened(registries, registry.address, repository)
    client.pushes().upload(blob, in_memory(content))
    found, buffer = bytearray(), memoryview(bytearray(1 << 20))
    for start in range(0, len(content), 1_000_000):
        with client.blob(blob, start, min(start + 1_000_000, len(content))) as stream:
            assert stream.partial
            while count := stream.readinto(buffer):
                found += buffer[:count]
    assert bytes(found) == content


def test_what_is_not_there_is_not_found_with_the_registrys_words(
    registry: Distribution, registries: Registries, repository: str
) -> None:
    client = opened(registries, registry.address, repository)
    with pytest.raises(ArtifactNotFoundError, match=r'does not have it \("manifest unknown"\)') as caught:
        client.manifest("v1", limit=LIMIT)
    assert caught.value.subject == str(Reference.parse(f"{registry.address}/{repository}:v1"))
