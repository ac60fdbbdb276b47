"""What others push to the registries of others we mount, and what we push they pull: names and bytes."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from csi_oras.demo.distribution import Distribution
from tests.support.certificates import Authority
from tests.support.driver import Driver
from tests.support.interop import Client, Crane, Files, Oras, OrasPy, Place, Skopeo, write
from tests.support.planted import planted
from tests.support.private_registry import PASSWORD, USER, private_registry
from tests.support.referrers_registry import referrers_registry
from tests.support.token_registry import token_registry
from tests.support.volume import Volume

pytestmark = pytest.mark.needs("root", "registry")

CLIENTS = [
    pytest.param(OrasPy, id="oras-py"),
    pytest.param(Skopeo, id="skopeo", marks=pytest.mark.needs("skopeo")),
    pytest.param(Oras, id="oras", marks=pytest.mark.peer("oras")),
    pytest.param(Crane, id="crane", marks=pytest.mark.peer("crane")),
]


@contextmanager
def open_place(directory: Path) -> Iterator[Place]:
    with Distribution(directory) as registry:
        yield Place(address=registry.address, directory=directory / "place")


@contextmanager
def password_place(directory: Path) -> Iterator[Place]:
    with private_registry(directory) as (registry, _):
        yield Place(address=registry.address, directory=directory / "place", user=(USER, PASSWORD))


@contextmanager
def token_place(directory: Path) -> Iterator[Place]:
    """Everybody's usual cloud registry: TLS, and tokens for a password."""
    authority, user = Authority(directory / "authority"), ("robot", planted("of the robot"))
    repositories: list[str] = []
    with token_registry(directory, authority.pair("server")) as running:
        running.tokens.is_generous = True  # oras-py keeps one token, of the first thing that it asks for

        def admit(repository: str) -> None:
            repositories.append(repository)
            running.tokens.let_read(*user, *repositories)

        yield Place(address=running.address, directory=directory / "place", user=user, ca=authority.ca, admit=admit)


@contextmanager
def referrers_place(directory: Path) -> Iterator[Place]:
    with referrers_registry(directory / "registry.log") as pusher:
        yield Place(address=pusher.address, directory=directory / "place")


PLACES = [
    pytest.param(open_place, id="distribution"),
    pytest.param(password_place, id="htpasswd"),
    pytest.param(token_place, id="TLS and tokens"),
    pytest.param(referrers_place, id="go-containerregistry", marks=pytest.mark.needs("referrers registry")),
]


@pytest.fixture(scope="module", params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with request.param(tmp_path_factory.mktemp("place")) as running:
        yield running


@pytest.fixture(scope="module")
def volume(place: Place) -> Iterator[Volume]:
    """A volume of a node that trusts the registry."""
    directory = Path(tempfile.mkdtemp(prefix="co-"))
    with Driver(directory, "--config", str(place.policy)) as driver:
        yield Volume(driver)
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def files() -> Files:
    return {"model.bin": os.urandom(3 << 20), "config.json": b'{"a": 1}', "empty.txt": b"", "with space.txt": b"x\n"}


def csi_oras(place: Place, *arguments: str | Path) -> None:
    """Run a command of ours with what the others are given."""
    state = place.directory / "state"
    options = ("--registry-config", place.login, "--config", place.policy, "--state-dir", state)
    place.run(sys.executable, "-m", "csi_oras", *arguments, *options)


@pytest.fixture(scope="module")
def ours(place: Place, files: Files) -> str:
    """An artifact that our own push made."""
    reference = place.reference("interop/ours")
    csi_oras(place, "push", reference, *write(place.directory / "files", files))
    return reference


@pytest.mark.parametrize("client", CLIENTS)
def test_what_we_push_is_what_others_pull(
    place: Place, ours: str, files: Files, tmp_path: Path, client: type[Client]
) -> None:
    assert client(place, tmp_path).pull(ours) == files


def test_what_we_push_is_what_we_mount_and_pull(
    place: Place, ours: str, files: Files, volume: Volume, tmp_path: Path
) -> None:
    csi_oras(place, "pull", ours, "--to", tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == files
    assert mounted(volume, ours, place) == files


@pytest.mark.parametrize("client", CLIENTS)
def test_what_others_push_is_mounted(
    place: Place, files: Files, volume: Volume, tmp_path: Path, client: type[Client]
) -> None:
    reference = place.reference(f"interop/{client.__name__.lower()}")
    client(place, tmp_path).push(reference, files)
    assert mounted(volume, reference, place) == files


def mounted(volume: Volume, reference: str, place: Place) -> Files:
    volume.publish(reference=reference, secrets=place.secrets)
    shown = {name: (volume.target / name).read_bytes() for name in volume.names()}
    volume.unpublish()
    return shown
