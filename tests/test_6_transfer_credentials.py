"""Credentials from every source, against registries that check them, through a running driver."""

import base64
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import grpc
import pytest

from csi_oras.csi.pb import csi_pb2
from csi_oras.demo.distribution import Distribution
from tests.support.artifacts import Layer, Pusher
from tests.support.calls import refused
from tests.support.driver import Driver, mount_capability, pod_context
from tests.support.fake_registry import FakeRegistry, basic
from tests.support.planted import MARK, planted
from tests.support.private_registry import PASSWORD, USER, private_registry
from tests.support.providers import FakeProvider
from tests.support.token_registry import TokenRegistry, token_registry
from tests.support.volume import Volume

pytest_plugins = ["tests.support.fake_fixtures"]
pytestmark = pytest.mark.needs("root", "registry")
_TOKENS = "csi.storage.k8s.io/serviceAccount.tokens"
_AUDIENCE = "registry.example"
LAYERS = [Layer(content=b"private", title="x")]


@pytest.fixture(scope="module")
def htpasswd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Distribution, Pusher]]:
    with private_registry(tmp_path_factory.mktemp("htpasswd")) as running:
        yield running


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenRegistry]:
    with token_registry(tmp_path_factory.mktemp("tokens")) as running:
        yield running


class Node:
    """A node with a policy, a docker config file and a provider plugin, none of which need be used."""

    def __init__(self, directory: Path) -> None:
        self.provider = FakeProvider(directory / "plugin")
        self.docker_config = directory / "config.json"
        self.policy = directory / "policy.yaml"
        self.policy.write_text("{}\n")
        self.driver = Driver(directory, "--config", str(self.policy))

    def names(self, *sources: str) -> None:
        """Write the node policy, before the driver starts."""
        self.policy.write_text(f"credentials: {{{', '.join(sources)}}}\n")

    @property
    def file(self) -> str:
        return f"dockerConfig: [{self.docker_config}]"

    def log_in(self, address: str, user: str, password: str, **members: object) -> None:
        """Write the docker config as an administrator's tool does: a new file in the place of the old one."""
        auth = base64.b64encode(f"{user}:{planted(password)}".encode()).decode()
        new = self.docker_config.with_suffix(".new")
        new.write_text(json.dumps({"auths": {address: {"auth": auth}}, **members}))
        new.replace(self.docker_config)

    def volume(self) -> Volume:
        return Volume(self.driver)


@pytest.fixture
def node(short_path: Path) -> Iterator[Node]:
    node = Node(short_path)
    yield node
    node.driver.stop()
    node.driver.unmount_all()


def audience(token: str) -> str:
    return json.dumps({_AUDIENCE: {"token": planted(token), "expirationTimestamp": "2126-01-01T00:00:00Z"}})


def shown(volume: Volume, **options: object) -> bool:
    volume.publish(**options)
    content = (volume.target / "x").read_bytes()
    volume.unpublish()
    return content == b"private"


def begun(node: Node, volume: Volume, reference: str) -> "grpc.Future[csi_pb2.NodePublishVolumeResponse]":
    """A publish under way."""
    request = csi_pb2.NodePublishVolumeRequest(
        volume_id=volume.volume_id,
        target_path=str(volume.target),
        volume_capability=mount_capability(),
        readonly=True,
        volume_context={"reference": reference},
    )
    return node.driver.node.NodePublishVolume.future(request)


# -- the node's own files


def test_docker_config_of_the_node_opens_for_every_pod_and_a_new_one_counts_at_once(
    node: Node, htpasswd: tuple[Distribution, Pusher], repository: str
) -> None:
    registry, pusher = htpasswd
    reference = pusher.artifact(repository, LAYERS)
    node.names(node.file)
    node.log_in(registry.address, USER, "not yet", credHelpers={"elsewhere.example": "evil"})
    node.driver.start()
    volume = node.volume()
    with refused(grpc.StatusCode.UNAUTHENTICATED, reference, f"the node's file {node.docker_config}"):
        volume.publish(reference=reference)
    node.log_in(registry.address, USER, PASSWORD)
    assert shown(volume, reference=reference)
    node.docker_config.unlink()
    with refused(
        grpc.StatusCode.UNAUTHENTICATED, "volume's secret: none", f"{node.docker_config} cannot be read (No such file"
    ):
        volume.publish(reference=reference)
    assert "names helpers, which are not run" in node.driver.log
    assert PASSWORD not in node.driver.log


def test_docker_config_that_would_never_be_read_to_its_end_holds_up_no_call(node: Node, fake: FakeRegistry) -> None:
    fake.require_basic(USER, planted(PASSWORD))
    reference = fake.artifact("team/x", LAYERS)
    node.names(node.file)
    node.log_in(fake.address, USER, PASSWORD)
    node.driver.start()
    running = node.volume()
    running.publish(reference=reference)
    node.docker_config.unlink()
    os.mkfifo(node.docker_config)
    many = [node.volume() for _ in range(20)]  # more than the driver has threads for calls
    with ThreadPoolExecutor(len(many)) as threads:
        refusals = list(threads.map(partial(refusal, reference=reference), many))
    running.unpublish()
    assert running.is_gone()
    assert shown(node.volume(), reference=reference, secrets={"username": USER, "password": PASSWORD})
    assert all(f"{node.docker_config} cannot be read (it is not a regular file)" in said for said in refusals)


def refusal(volume: Volume, reference: str) -> str:
    try:
        volume.publish(reference=reference, timeout=10)
    except grpc.RpcError as error:
        return str(error)
    return "nothing"


# -- the kubelet's plugins


def test_plugin_opens_and_is_asked_as_often_as_its_cache_rules_say(
    node: Node, htpasswd: tuple[Distribution, Pusher], repository: str
) -> None:
    registry, pusher = htpasswd
    first, second = (pusher.artifact(f"{repository}/{name}", LAYERS) for name in ("first", "second"))
    node.names(node.provider.policy)
    node.provider.configure(registry.address)
    node.provider.answers({registry.address: (USER, PASSWORD)})
    node.driver.start()
    volume = node.volume()
    assert shown(volume, reference=first)
    assert shown(volume, reference=second, pullPolicy="Always")
    assert shown(volume, reference=second, pullPolicy="Never")
    ((request, arguments, region),) = node.provider.runs
    assert request["image"] == first.rpartition(":")[0]
    assert (arguments, region) == (["get", "a b; c"], "x y")
    assert "credential provider fake-provider" in node.driver.log
    assert PASSWORD not in node.driver.log


def test_refused_credential_of_a_plugin_is_asked_for_again_once(node: Node, fake: FakeRegistry) -> None:
    fake.require_basic("robot", "old")
    reference = fake.artifact("team/model", LAYERS)
    node.names(node.provider.policy)
    node.provider.configure(fake.address)
    node.provider.answers({fake.address: ("robot", "old")})
    node.driver.start()
    volume = node.volume()
    assert shown(volume, reference=reference, pullPolicy="Always")
    fake.require_basic("robot", "new")
    node.provider.answers({fake.address: ("robot", "new")})
    assert shown(volume, reference=reference, pullPolicy="Always")
    assert len(node.provider.runs) == 2
    fake.require_basic("robot", "newest")
    with refused(grpc.StatusCode.UNAUTHENTICATED, "credential provider fake-provider", "volume's secret: none"):
        volume.publish(reference=reference, pullPolicy="Always")
    assert len(node.provider.runs) == 3


def test_plugin_that_fails_is_told_of_and_what_is_public_is_shown_all_the_same(node: Node, fake: FakeRegistry) -> None:
    reference = fake.artifact("team/model", LAYERS)
    node.names(node.provider.policy)
    node.provider.configure(fake.address)
    node.provider.behave("sys.stderr.write('a secret of the plugin'); sys.exit(3)".replace("a secret", MARK))
    node.driver.start()
    volume = node.volume()
    assert shown(volume, reference=reference)
    fake.require_basic("robot", "right")
    with refused(grpc.StatusCode.UNAUTHENTICATED, "fake-provider failed with exit code 3") as refusal:
        volume.publish(reference=reference, pullPolicy="Always")
    assert "of the plugin" not in node.driver.log + refusal.message


def test_slow_plugin_holds_up_nobody_else(node: Node, fake: FakeRegistry) -> None:
    """Sixteen pods wait for it, which is as many calls as the node answers at a time."""
    reference = fake.artifact("team/model", LAYERS)
    gate = node.provider.here / "gate"
    node.names(node.provider.policy)
    node.provider.configure(f"{fake.address}/team")
    node.provider.behave(f"import time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)")
    node.driver.start()
    waiting = [node.volume() for _ in range(20)]
    calls = [begun(node, volume, reference) for volume in waiting]
    other = fake.artifact("public/model", LAYERS)
    assert shown(node.volume(), reference=other, timeout=20)
    gate.touch()
    for call, volume in zip(calls, waiting, strict=True):
        call.result(60)
        volume.unpublish()
    assert len(node.provider.runs) == 1


def test_slow_plugin_holds_up_no_pod_that_brings_its_own_credential(node: Node, fake: FakeRegistry) -> None:
    """More pulls wait for it than a registry has slots."""
    references = [fake.artifact("team/model", LAYERS, tag=f"v{number}") for number in range(120)]
    gate = node.provider.here / "gate"
    node.names(node.provider.policy)
    node.provider.configure(f"{fake.address}/team")
    node.provider.behave(f"import time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)")
    node.driver.start()
    waiting = [node.volume() for _ in references]
    calls = [begun(node, volume, reference) for volume, reference in zip(waiting, references, strict=True)]
    secrets = {"username": USER, "password": PASSWORD}
    assert shown(node.volume(), reference=fake.artifact("team/own", LAYERS), secrets=secrets, timeout=20)
    assert not any(call.done() for call in calls)
    gate.touch()
    for call, volume in zip(calls, waiting, strict=True):
        call.result(60)
        volume.unpublish()


# -- service accounts


@pytest.mark.parametrize("where", ["secrets", "context"])
@pytest.mark.parametrize("way", ["password", "exchange"])
def test_token_of_the_service_account_is_exchanged_where_policy_names_the_registry(
    node: Node, tokens: TokenRegistry, repository: str, *, where: str, way: str
) -> None:
    reference = tokens.pusher(repository).artifact(repository, LAYERS)
    if way == "password":
        tokens.tokens.let_read("serviceaccount", f"jwt-{repository}", repository)
    else:
        tokens.tokens.let_exchange(f"jwt-{repository}", repository)
    node.names(f'serviceAccountTokens: [{{match: "{tokens.address}/**", audience: {_AUDIENCE}}}]')
    node.driver.start()
    sent = {_TOKENS: audience(f"jwt-{repository}")}
    options = {"secrets": sent} if where == "secrets" else sent
    context = {**pod_context(), "reference": reference, "pullPolicy": "Always"}
    assert shown(node.volume(), **{**context, **options})
    assert "the pod's service-account token" in node.driver.log
    assert f"jwt-{repository}" not in node.driver.log
    # the next pod has another token, which the registry is asked about
    other = {_TOKENS: audience("jwt of another")}
    with refused(grpc.StatusCode.UNAUTHENTICATED, "the pod's service-account token"):
        node.volume().publish(**{**context, "pullPolicy": "IfNotPresent"}, secrets=other)


def test_tokens_among_the_secrets_count_before_those_of_the_context(
    node: Node, tokens: TokenRegistry, repository: str
) -> None:
    reference = tokens.pusher(repository).artifact(repository, LAYERS)
    tokens.tokens.let_read("serviceaccount", f"jwt-{repository}", repository)
    node.names(f'serviceAccountTokens: [{{match: "{tokens.address}/**", audience: {_AUDIENCE}}}]')
    node.driver.start()
    context = {**pod_context(), _TOKENS: audience("forged in the pod")}
    assert shown(node.volume(), reference=reference, secrets={_TOKENS: audience(f"jwt-{repository}")}, **context)


def test_token_of_the_service_account_goes_to_no_registry_that_policy_does_not_name(
    node: Node, fake: FakeRegistry
) -> None:
    fake.require_tokens()
    reference = fake.artifact("team/model", LAYERS)
    node.names(f'serviceAccountTokens: [{{match: "{fake.address}/other/**", audience: {_AUDIENCE}}}]')
    node.driver.start()
    with refused(grpc.StatusCode.UNAUTHENTICATED, "service-account token: not for this repository by policy"):
        node.volume().publish(reference=reference, secrets={_TOKENS: audience("jwt")}, **pod_context())
    assert fake.credentials_seen() == []
    assert not [request for request in fake.seen() if b"jwt" in request.body]


# -- identity tokens


def test_identity_token_is_refreshed_at_the_token_endpoint(node: Node, tokens: TokenRegistry, repository: str) -> None:
    reference = tokens.pusher(repository).artifact(repository, LAYERS)
    tokens.tokens.let_exchange(f"identity-{repository}", repository)
    node.driver.start()
    entry = {"auth": base64.b64encode(b"00000000:").decode(), "identitytoken": planted(f"identity-{repository}")}
    secret = {".dockerconfigjson": json.dumps({"auths": {tokens.address: entry}})}
    assert shown(node.volume(), reference=reference, secrets=secret)
    with refused(grpc.StatusCode.UNAUTHENTICATED, "the volume's secret"):
        node.volume().publish(
            reference=reference, secrets={".dockerconfigjson": secret[".dockerconfigjson"].replace("identity-", "no-")}
        )


# -- the order, and two tenants


def test_sources_are_used_in_their_order_and_a_refused_one_is_no_reason_for_the_next(
    node: Node, fake: FakeRegistry
) -> None:
    fake.require_tokens(secret="1", serviceaccount="2", provider="3", file="4")
    reference = fake.artifact("team/model", LAYERS)
    match = f'serviceAccountTokens: [{{match: "{fake.address}/team/*", audience: {_AUDIENCE}}}]'
    node.names(match, node.provider.policy, node.file)
    node.provider.configure(fake.address)
    node.provider.answers({fake.address: ("provider", "3")}, cacheDuration="0s")
    node.log_in(fake.address, "file", "4")
    node.driver.start()
    volume = node.volume()

    def users(secrets: dict[str, str]) -> list[str]:
        before = len(fake.seen("/token"))
        assert shown(volume, reference=reference, secrets=secrets, pullPolicy="Always", **pod_context())
        return [request.authorization for request in fake.seen("/token")[before:]]

    sent = {_TOKENS: audience("2")}
    assert users({**sent, "username": "secret", "password": "1"}) == [basic("secret", "1")]
    assert users(sent) == [basic("serviceaccount", "2")]
    assert users({}) == [basic("provider", "3")]
    node.provider.configure("elsewhere.example")
    assert users({}) == [basic("file", "4")]
    with refused(grpc.StatusCode.UNAUTHENTICATED, "the credential from the volume's secret"):
        volume.publish(
            reference=reference, secrets={**sent, "username": "secret", "password": "no"}, pullPolicy="Always"
        )


def test_two_namespaces_with_two_credentials_see_each_their_own(
    node: Node, tokens: TokenRegistry, repository: str
) -> None:
    """KEP-2535 as a story: the first pod's pull is no way in for the second, a rotated secret is asked about once."""
    reference = tokens.pusher(repository).artifact(repository, LAYERS)
    red, blue = {"username": "red", "password": "r"}, {"username": "blue", "password": "b"}
    tokens.tokens.let_read("red", "r", repository)
    tokens.tokens.let_read("blue", "b", "nothing/of/it")
    node.driver.start()
    of_red, of_blue = pod_context(namespace="red"), pod_context(namespace="blue", uid="uid-2")
    assert shown(node.volume(), reference=reference, secrets=red, **of_red)
    for policy, code in (
        ("IfNotPresent", grpc.StatusCode.UNAUTHENTICATED),
        ("Never", grpc.StatusCode.NOT_FOUND),
    ):
        with refused(code, reference):
            node.volume().publish(reference=reference, secrets=blue, pullPolicy=policy, **of_blue)
    before = len(tokens.tokens.seen("/token"))
    assert shown(node.volume(), reference=reference, secrets=red, **of_red)  # known: no registry is asked
    assert len(tokens.tokens.seen("/token")) == before
    tokens.tokens.let_read("red", "rotated", repository)
    rotated = {"username": "red", "password": "rotated"}
    assert shown(node.volume(), reference=reference, secrets=rotated, **of_red)
    assert shown(node.volume(), reference=reference, secrets=rotated, pullPolicy="Never", **of_red)
    assert tokens.tokens.asked_by()[before:] == [basic("red", "rotated")]
    tokens.tokens.let_read("blue", "b", repository)  # access is given, and counts at once
    assert shown(node.volume(), reference=reference, secrets=blue, **of_blue)
