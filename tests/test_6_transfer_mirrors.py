"""Mirrors by hosts.toml, end to end: a driver, a real registry, and another as its pull-through cache."""

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import pytest

from csi_oras.demo.distribution import Distribution
from tests.support.access_log import AccessLog
from tests.support.artifacts import Layer, Pusher, files, sha256
from tests.support.calls import refused
from tests.support.certificates import Authority
from tests.support.driver import Driver
from tests.support.fake_registry import FakeRegistry
from tests.support.fake_server import Answer, Request, status
from tests.support.hosts import CertsD
from tests.support.private_registry import PASSWORD, SECRET, USER, private_registry
from tests.support.volume import Volume

pytest_plugins = ["tests.support.fake_fixtures"]
pytestmark = pytest.mark.needs("root", "registry")
_MIB = 1 << 20
Publish = Callable[..., Volume]


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="co-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def mirrored_driver(directory: Path) -> Iterator[Driver]:
    """A driver that runs through all these tests: every hosts.toml comes, changes and goes under it."""
    policy = directory / "policy.yaml"
    policy.write_text(f"registries: {{hostsDirs: [{directory / 'certs.d'}]}}\n")
    with Driver(directory, "--config", str(policy)) as running:
        yield running


@pytest.fixture
def certs(directory: Path) -> Iterator[CertsD]:
    yield CertsD(directory / "certs.d")
    shutil.rmtree(directory / "certs.d", ignore_errors=True)


@pytest.fixture
def publish(mirrored_driver: Driver) -> Iterator[Publish]:
    """What publishes a volume and gives it back."""
    volumes: list[Volume] = []

    def publish(**options: object) -> Volume:
        volume = Volume(mirrored_driver)
        volumes.append(volume)
        volume.publish(**options)
        return volume

    yield publish
    for volume in volumes:
        volume.unpublish()
        assert volume.is_gone()


@pytest.fixture(scope="module")
def cache(registry: Distribution, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Distribution]:
    """A pull-through cache of the registry."""
    proxy = f"proxy: {{remoteurl: http://{registry.address}}}\n"
    with Distribution(tmp_path_factory.mktemp("cache"), proxy) as running:
        yield running


@dataclass(frozen=True)
class Upstream:
    """The registry that is mirrored, and a repository of it that no other test uses."""

    registry: Distribution
    pusher: Pusher
    repository: str

    @property
    def address(self) -> str:
        return self.registry.address

    def push(self, *layers: Layer) -> str:
        return self.pusher.artifact(self.repository, layers)

    def visitors(self) -> set[str]:
        """Which programs have read the repository."""
        lines = [line for line in self.registry.log.read_text().splitlines() if "HTTP/1.1" in line]
        asked = [line for line in lines if re.search(rf"(GET|HEAD) /v2/{self.repository}/", line)]
        return {line.split('"')[-2] for line in asked}


@pytest.fixture
def upstream(registry: Distribution, pusher: Pusher, repository: str) -> Upstream:
    return Upstream(registry, pusher, repository)


def host(address: str, *settings: str, scheme: str = "http") -> str:
    return "\n".join((f'[host."{scheme}://{address}"]', *settings, ""))


def wait_for(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_pull_goes_through_the_cache_and_none_of_it_around(
    upstream: Upstream, cache: Distribution, certs: CertsD, publish: Publish
) -> None:
    content = os.urandom(20 * _MIB)  # larger than a range
    reference = upstream.push(Layer(content=content, title="model"))
    certs.write(upstream.address, host(cache.address, 'capabilities = ["pull", "resolve"]'))
    assert (publish(reference=reference).target / "model").read_bytes() == content
    asked = AccessLog(cache, upstream.repository)
    wait_for(lambda: any("blobs/" in request.path for request in asked.requests()))
    assert all(request.path.endswith(f"?ns=127.0.0.1%3A{upstream.registry.port}") for request in asked.requests())
    assert upstream.visitors() == {"Go-http-client/1.1"}  # the cache, and not this driver


def test_registry_that_is_known_by_its_mirror_alone(
    cache: Distribution, pusher: Pusher, repository: str, certs: CertsD, publish: Publish
) -> None:
    pusher.artifact(repository, files(x=b"by the default"))
    certs.write("_default", f'server = "http://{cache.address}"\n')
    volume = publish(reference=f"registry.invalid:5000/{repository}:v1")
    assert (volume.target / "x").read_bytes() == b"by the default"


def test_mirrors_that_are_dead_or_empty_come_before_the_registry(
    upstream: Upstream, certs: CertsD, publish: Publish, tmp_path: Path
) -> None:
    reference = upstream.push(*files(x=b"found at last"))
    with Distribution(tmp_path / "gone") as gone:
        dead = host(gone.address, 'dial_timeout = "1s"')
    with Distribution(tmp_path / "empty") as empty:
        certs.write(upstream.address, dead + host(empty.address))
        assert (publish(reference=reference).target / "x").read_bytes() == b"found at last"
        assert {request.status for request in AccessLog(empty, upstream.repository).requests()} <= {404}


def test_hosts_file_comes_changes_and_goes_without_a_restart(
    fake: FakeRegistry, upstream: Upstream, certs: CertsD, publish: Publish
) -> None:
    reference = upstream.push(*files(x=b"same"))
    fake.artifact(upstream.repository, files(x=b"same"))
    always = {"reference": reference, "pullPolicy": "Always"}
    publish(**always)
    assert fake.count() == 0
    certs.write(upstream.address, host(fake.address))
    publish(**always)
    assert fake.count() == 1
    file = certs.write(upstream.address, host(fake.address, 'capabilities = ["pul"]'))
    with refused(grpc.StatusCode.UNAVAILABLE, reference, str(file), "unknown capability"):
        publish(**always)
    publish(reference=reference)  # what the registry itself has shown needs nobody
    file.unlink()
    publish(**always)
    assert fake.count() == 1


def first_range_broken_off(request: Request, answer: Answer) -> Answer:
    return replace(answer, sent=13 * _MIB) if request.headers["Range"].startswith("bytes=0-") else answer


def test_transfer_that_breaks_off_at_the_mirror_goes_on_at_the_registry(
    fake: FakeRegistry, upstream: Upstream, certs: CertsD, publish: Publish
) -> None:
    content = os.urandom(20 * _MIB)
    reference = upstream.push(Layer(content=content, title="model"))
    fake.artifact(upstream.repository, [Layer(content=content, title="model")])
    fake.bend("/blobs/", first_range_broken_off)
    certs.write(upstream.address, host(fake.address))
    assert (publish(reference=reference).target / "model").read_bytes() == content
    log = AccessLog(upstream.registry, upstream.repository)
    assert [request.sent for request in log.gets(sha256(content))] == [3 * _MIB]


@pytest.mark.parametrize("size", [100, 17 * _MIB], ids=["small", "in ranges"])
def test_mirror_with_other_bytes_is_found_out_and_passed_over(
    fake: FakeRegistry, upstream: Upstream, certs: CertsD, publish: Publish, *, size: int
) -> None:
    content = os.urandom(size)
    reference = upstream.push(Layer(content=content, title="model"))
    fake.artifact(upstream.repository, [Layer(content=content, title="model")])
    fake.blobs[upstream.repository][sha256(content)] = b"!" + content[1:]
    certs.write(upstream.address, host(fake.address))
    assert (publish(reference=reference).target / "model").read_bytes() == content
    assert fake.count("/blobs/") >= 1


@pytest.mark.parametrize("content", [b"", b"<html>log in</html>"], ids=["empty", "page"])
def test_mirror_with_other_than_a_manifest_is_passed_over(
    fake: FakeRegistry, upstream: Upstream, certs: CertsD, publish: Publish, content: bytes
) -> None:
    reference = upstream.push(*files(x=b"from the registry"))
    fake.bend("/manifests/", status(200, content))
    certs.write(upstream.address, host(fake.address))
    assert (publish(reference=reference).target / "x").read_bytes() == b"from the registry"
    assert fake.count("/manifests/") >= 1


def test_mirror_that_may_not_resolve_cannot_move_a_tag(
    fake: FakeRegistry, upstream: Upstream, certs: CertsD, publish: Publish
) -> None:
    reference = upstream.push(*files(x=b"honest"))
    fake.artifact(upstream.repository, files(x=b"moved"))
    fake.blob(upstream.repository, b"honest")
    certs.write(upstream.address, host(fake.address, 'capabilities = ["pull"]'))
    assert (publish(reference=reference).target / "x").read_bytes() == b"honest"
    assert fake.count("/manifests/v1") == 0
    assert fake.count("/blobs/") >= 1


# -- TLS, with a real registry


@pytest.fixture
def secure(
    registry: Distribution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Distribution, Authority]]:
    """A cache behind TLS that lets in only who shows a certificate of its own authority."""
    authority = Authority(tmp_path / "pki")
    certificate, key = authority.pair("server")
    monkeypatch.setenv("REGISTRY_HTTP_TLS_CERTIFICATE", str(certificate))
    monkeypatch.setenv("REGISTRY_HTTP_TLS_KEY", str(key))
    monkeypatch.setenv("REGISTRY_HTTP_TLS_CLIENTCAS", f"[{authority.ca}]")
    with Distribution(tmp_path / "secure", f"proxy: {{remoteurl: http://{registry.address}}}\n") as running:
        yield running, authority


def test_cache_with_an_authority_of_its_own_and_client_certificates_is_reached(
    secure: tuple[Distribution, Authority], pusher: Pusher, repository: str, certs: CertsD, publish: Publish
) -> None:
    cache, authority = secure
    pusher.artifact(repository, files(x=b"by mutual TLS"))
    reference = f"registry.invalid/{repository}:v1"
    certificate, key = authority.pair("client")
    server = f'server = "https://{cache.address}"\nca = "{authority.ca}"\n'
    certs.write("registry.invalid", server)
    with refused(grpc.StatusCode.UNAVAILABLE, cache.address):
        publish(reference=reference)
    certs.write("registry.invalid", f'{server}client = [["{certificate}", "{key}"]]\n')
    assert (publish(reference=reference).target / "x").read_bytes() == b"by mutual TLS"


def test_docker_certificate_files_are_enough_for_a_registry(
    secure: tuple[Distribution, Authority], pusher: Pusher, repository: str, certs: CertsD, publish: Publish
) -> None:
    cache, authority = secure
    pusher.artifact(repository, files(x=b"docker's way"))
    directory = certs.directory(f"127.0.0.1_{cache.port}_")
    for file in (authority.ca, *authority.pair("client")):
        shutil.copy(file, directory)
    assert (publish(reference=f"{cache.address}/{repository}:v1").target / "x").read_bytes() == b"docker's way"


# -- who may read


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Distribution, Pusher]]:
    with private_registry(tmp_path_factory.mktemp("private")) as running:
        yield running


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Distribution]:
    """A mirror that shows everybody what it has."""
    with Distribution(tmp_path / "copy") as running:
        yield running


def test_mirror_opens_a_private_registry_only_as_long_as_it_is_configured(
    private: tuple[Distribution, Pusher], copy: Distribution, repository: str, certs: CertsD, publish: Publish
) -> None:
    upstream, pusher = private
    reference = pusher.artifact(repository, files(x=b"private"))
    Pusher(copy.address).artifact(repository, files(x=b"private"))
    with refused(grpc.StatusCode.UNAUTHENTICATED, reference):
        publish(reference=reference)
    file = certs.write(upstream.address, host(copy.address))
    for _ in range(2):  # read, and then from the store
        assert (publish(reference=reference).target / "x").read_bytes() == b"private"
    publish(reference=reference, pullPolicy="Never")
    publish(reference=reference, secrets={"username": USER, "password": "wrong"})
    file.unlink()
    with refused(grpc.StatusCode.UNAUTHENTICATED, reference):
        publish(reference=reference)
    with refused(grpc.StatusCode.UNAUTHENTICATED, reference):
        publish(reference=reference, secrets={"username": USER, "password": "wrong"})
    publish(reference=reference, secrets=SECRET)


def test_credential_that_the_registry_has_seen_counts_whatever_mirrors_come_and_go(
    private: tuple[Distribution, Pusher], fake: FakeRegistry, repository: str, certs: CertsD, publish: Publish
) -> None:
    upstream, pusher = private
    reference = pusher.artifact(repository, files(x=b"private"))
    publish(reference=reference, secrets=SECRET)
    certs.write(upstream.address, host(fake.address))
    publish(reference=reference, secrets=SECRET, pullPolicy="Never")
    assert fake.count() == 0


def test_mirror_that_refuses_opens_nothing_and_sees_no_credential(
    private: tuple[Distribution, Pusher], fake: FakeRegistry, repository: str, certs: CertsD, publish: Publish
) -> None:
    upstream, pusher = private
    reference = pusher.artifact(repository, files(x=b"private"))
    fake.require_basic(USER, PASSWORD)
    certs.write(upstream.address, host(fake.address))
    publish(reference=reference, secrets=SECRET)
    assert fake.count() > 0
    assert fake.credentials_seen() == []
    for policy in ("Always", "IfNotPresent"):
        with refused(grpc.StatusCode.UNAUTHENTICATED, reference):
            publish(reference=reference, pullPolicy=policy)
