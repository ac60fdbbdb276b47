"""Two namespaces, two credentials, one node, and a registry with tokens: who sees what, as KEP-2535 tells it.

The kubelet does none of this for volumes. What is asked of the registry is counted at its token server.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.support.artifacts import Layer, sha256
from tests.support.calls import publish_request, refused
from tests.support.driver import Driver, pod_context
from tests.support.fake_registry import basic
from tests.support.gate import Gate
from tests.support.planted import planted
from tests.support.token_registry import TokenRegistry, token_registry
from tests.support.volume import Volume

pytestmark = pytest.mark.needs("root", "registry")
CONTENT = b"of team red"
ABSENT, UNKNOWN = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAUTHENTICATED
AWAY = grpc.StatusCode.UNAVAILABLE


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenRegistry]:
    with token_registry(tmp_path_factory.mktemp("tokens")) as running:
        yield running


class Tenant:
    """A namespace with a credential of its own, or without one."""

    def __init__(self, driver: Driver, registry: TokenRegistry, namespace: str, repository: str) -> None:
        self.driver = driver
        self.namespace = namespace
        self.user = f"{namespace}-{repository.rpartition('/')[2]}"
        self.secrets = {"username": self.user, "password": planted(namespace)}
        self._tokens = registry.tokens

    def may_read(self, *repositories: str) -> None:
        """Let the registry's administrator decide."""
        self._tokens.let_read(self.user, self.secrets["password"], *repositories)

    def sees(self, reference: str, policy: str = "IfNotPresent", **options: object) -> bool:
        """Publish and unpublish, and say whether it was what the owner has put there."""
        volume = Volume(self.driver)
        context = pod_context(namespace=self.namespace, uid=volume.volume_id)
        volume.publish(**{"reference": reference, "pullPolicy": policy, "secrets": self.secrets, **context, **options})
        content = (volume.target / "x").read_bytes()
        volume.unpublish()
        assert volume.is_gone()
        return content == CONTENT

    def is_refused(
        self, reference: str, code: grpc.StatusCode, policy: str = "IfNotPresent", **options: object
    ) -> None:
        with refused(code, reference.partition("@")[0].rpartition(":")[0]):
            self.sees(reference, policy, **options)


@pytest.fixture
def driver(short_path: Path) -> Iterator[Driver]:
    with Driver(short_path) as running:
        yield running


@pytest.fixture
def reference(registry: TokenRegistry, repository: str) -> str:
    return registry.pusher(repository).artifact(repository, [Layer(content=CONTENT, title="x")])


@pytest.fixture
def red(driver: Driver, registry: TokenRegistry, repository: str) -> Tenant:
    """Whose artifact it is."""
    tenant = Tenant(driver, registry, "red", repository)
    tenant.may_read(repository)
    return tenant


@pytest.fixture
def blue(driver: Driver, registry: TokenRegistry, repository: str) -> Tenant:
    """Who is known to the registry, and may not read it."""
    tenant = Tenant(driver, registry, "blue", repository)
    tenant.may_read("something/else")
    return tenant


def asked(registry: TokenRegistry) -> int:
    return registry.tokens.count("/token")


def test_artifact_that_is_local_through_one_namespace_is_no_other_namespaces(
    registry: TokenRegistry, reference: str, red: Tenant, blue: Tenant, repository: str
) -> None:
    """B26: by tag, by digest, in part, with any wrong credential, after a restart; and then access is given."""
    assert red.sees(reference)
    _, manifest = registry.pusher(repository).get(f"/v2/{repository}/manifests/v1")
    pinned = f"{registry.address}/{repository}@{sha256(manifest)}"
    for _ in range(2):
        for name in (reference, pinned):
            for policy in ("IfNotPresent", "Always"):
                blue.is_refused(name, UNKNOWN, policy)
                blue.is_refused(name, UNKNOWN, policy, secrets={})
                blue.is_refused(name, UNKNOWN, policy, secrets={**red.secrets, "password": "guessed"})
                blue.is_refused(name, UNKNOWN, policy, secrets={**blue.secrets, "username": red.user})
                blue.is_refused(name, UNKNOWN, policy, include="x")
            blue.is_refused(name, ABSENT, "Never")
        blue.driver.stop()
        blue.driver.start()
    before = asked(registry)
    assert red.sees(reference, "Never")
    assert asked(registry) == before
    blue.may_read(repository)
    assert blue.sees(reference)
    assert blue.sees(reference, "Never")


def test_same_credential_in_another_namespace_is_the_same(
    registry: TokenRegistry, reference: str, red: Tenant, blue: Tenant
) -> None:
    assert red.sees(reference)
    before = asked(registry)
    assert blue.sees(reference, secrets=red.secrets)
    assert blue.sees(reference, "Never", secrets=red.secrets)
    assert asked(registry) == before


def test_artifact_that_is_public_is_asked_about_once_and_then_everybodys(
    registry: TokenRegistry, reference: str, red: Tenant, blue: Tenant, repository: str
) -> None:
    """Pulled with a secret first, though it needs none: the next pod's own question shows that."""
    assert red.sees(reference)
    registry.tokens.readers[""] = (repository,)
    blue.is_refused(reference, ABSENT, "Never", secrets={})
    assert blue.sees(reference, secrets={})
    before = asked(registry)
    assert blue.sees(reference, "Never", secrets={})
    assert blue.sees(reference, "Never")
    assert asked(registry) == before
    del registry.tokens.readers[""]


def test_access_that_is_taken_away_holds_where_the_registry_is_not_asked(
    reference: str, red: Tenant, blue: Tenant, repository: str
) -> None:
    """As in the kubelet, what was once accepted is not asked again; `Always` is for who wants it asked."""
    assert red.sees(reference)
    red.may_read("nothing/any/more")
    red.driver.stop()  # with the tokens that it holds
    red.driver.start()
    assert red.sees(reference)
    red.is_refused(reference, UNKNOWN, "Always")
    blue.is_refused(reference, UNKNOWN)
    red.may_read(repository)
    assert red.sees(reference, "Always")


def test_grant_is_of_a_repository_and_not_of_its_content(
    registry: TokenRegistry, reference: str, red: Tenant, blue: Tenant, repository: str
) -> None:
    """B25 without a hostile registry: the same bytes in two repositories, each tenant may read one of them."""
    other = registry.pusher(f"{repository}/blue").artifact(f"{repository}/blue", [Layer(content=CONTENT, title="x")])
    blue.may_read(f"{repository}/blue")
    assert red.sees(reference)
    assert blue.sees(other)
    red.is_refused(other, UNKNOWN)
    blue.is_refused(reference, UNKNOWN)
    red.is_refused(other, ABSENT, "Never")
    blue.is_refused(reference, ABSENT, "Never")


def test_registry_that_is_away_is_no_way_in(registry: TokenRegistry, reference: str, red: Tenant, blue: Tenant) -> None:
    assert red.sees(reference)
    registry.registry.stop()
    try:
        assert red.sees(reference)
        blue.is_refused(reference, AWAY)
        red.is_refused(reference, AWAY, "Always")
    finally:
        registry.registry.start()


def test_records_that_are_lost_are_earned_again(
    registry: TokenRegistry, reference: str, red: Tenant, blue: Tenant
) -> None:
    """Whatever of them cannot be read counts as not there, and nothing that is local becomes anybody's."""
    assert red.sees(reference)
    driver = red.driver
    for name in ("state.db", "grant.key"):
        driver.stop()
        for path in driver.state.glob(f"{name}*"):
            path.write_bytes(os.urandom(64))
        driver.start()
        blue.is_refused(reference, UNKNOWN)
        blue.is_refused(reference, ABSENT, "Never", secrets={})
        red.is_refused(reference, ABSENT, "Never")
        before = asked(registry)
        assert red.sees(reference)
        assert asked(registry) > before


def test_pull_that_was_killed_leaves_nothing_to_who_did_not_ask_for_it(
    registry: TokenRegistry, red: Tenant, blue: Tenant, repository: str
) -> None:
    """What a dead pull left is no image that was there before: that is what the kubelet writes its intents for."""
    content = os.urandom(4 << 20)
    with Gate(registry.address) as gate:
        reference = registry.pusher(repository).artifact(
            repository, [Layer(content=CONTENT, title="x"), Layer(content=content, title="large")]
        )
        through_gate = reference.replace(registry.address, gate.address)
        gate.hold_after(2 << 20)
        target = red.driver.target()
        request = publish_request(target, reference=through_gate)
        request.secrets.update(red.secrets)
        call = red.driver.node.NodePublishVolume.future(request)
        gate.wait_until_held()
        red.driver.stop(signal.SIGKILL)
        with pytest.raises(grpc.RpcError):
            call.result(10)
        gate.open()
        red.driver.start()
        blue.is_refused(through_gate, UNKNOWN)
        blue.is_refused(through_gate, ABSENT, "Never")
        red.is_refused(through_gate, ABSENT, "Never")
        assert red.sees(through_gate)
        assert red.sees(through_gate, "Never")
        blue.is_refused(through_gate, UNKNOWN)
        red.driver.unpublish(target)
    assert basic(blue.user, "blue") in registry.tokens.asked_by()
