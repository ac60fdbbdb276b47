"""Secrets: planted everywhere one can come from, and looked for everywhere one could come out."""

import base64
import json
import os
from pathlib import Path

import grpc
import pytest

from csi_oras.csi.pb import csi_pb2
from tests.support.artifacts import files
from tests.support.calls import publish_request
from tests.support.driver import Driver, mount_capability, pod_context
from tests.support.fake_registry import FakeRegistry
from tests.support.fake_server import Answer, Request, header, status
from tests.support.planted import planted
from tests.support.pods import wait_for
from tests.support.providers import FakeProvider

pytest_plugins = ["tests.support.fake_fixtures"]
pytestmark = pytest.mark.needs("root")

PASSWORD, WRONG, TOKEN, POD_TOKEN = (planted(name) for name in ("password", "wrong", "token", "pod-token"))
CONFIG, PLUGIN, NOISE, FILE, IDENTITY = (planted(name) for name in ("config", "plugin", "noise", "file", "identity"))
ATTRIBUTE = "planted-attribute"
"""No secret, and none of the log's business all the same."""
_TOKENS = "csi.storage.k8s.io/serviceAccount.tokens"
_DEBUG = """
import logging
from csi_oras.telemetry import logs

configure = logs.configure
logs.configure = lambda log_format, stream=None, level=logging.DEBUG: configure(log_format, stream, logging.DEBUG)
logging.getLogger().setLevel(logging.DEBUG)
"""


class Collector:
    """Calls that fail and calls that do not, and everything that they say."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.said: list[str] = []

    def publish(self, name: str, **options: object) -> bool:
        target = self.driver.target(pod=name)
        context = {**pod_context(name=name), _TOKENS: json.dumps({"fake": {"token": POD_TOKEN}})}
        try:
            self.driver.publish(target, volume_id=name, **{**context, **options})  # type: ignore[arg-type]
        except grpc.RpcError as error:
            self.said.append(str(error))
            return False
        self.driver.unpublish(target, volume_id=name)
        return True

    def create(self, **options: object) -> None:
        request = csi_pb2.CreateVolumeRequest(
            name="pvc-1",
            volume_capabilities=[mount_capability()],
            **options,  # type: ignore[arg-type]
        )
        try:
            self.said.append(str(self.driver.controller.CreateVolume(request, timeout=30)))
        except grpc.RpcError as error:
            self.said.append(str(error))


def repeated(request: Request, answer: Answer) -> Answer:
    """Repeat to who comes with a token what he came with."""
    said = {"errors": [{"code": "DENIED", "message": f"no access with {request.authorization}"}]}
    return Answer(status=403, body=json.dumps(said).encode()) if request.authorization else answer


def everything(collector: Collector, fake: FakeRegistry) -> None:
    """Go through each way that a secret can take."""
    reference = fake.artifact("team/model", files(x=b"content"))
    good, wrong = {"username": "alice", "password": PASSWORD}, {"username": "alice", "password": WRONG}
    docker = {"auths": {fake.address: {"auth": base64.b64encode(f"alice:{PASSWORD}".encode()).decode()}}}
    fake.require_basic("alice", PASSWORD)
    assert collector.publish("basic", reference=reference, secrets=good)
    assert not collector.publish("wrong", reference=reference, secrets=wrong, pullPolicy="Always")
    fake.require_tokens(alice=PASSWORD)
    other = fake.artifact("team/other", files(y=b"other"))
    assert collector.publish("bearer", reference=other, secrets={".dockerconfigjson": json.dumps(docker)})
    assert not collector.publish("token", reference=other, secrets=wrong, pullPolicy="Always")
    # a token server that sends nonsense with a token in it, and a registry that repeats what it was sent
    fake.bend("/token", lambda _r, a: a.having(X_Echo=TOKEN), times=1)
    fake.expire_tokens()
    fake.artifact("team/third", files(z=b"third"))
    collector.publish("echo", reference=f"{fake.address}/team/third:v1", secrets=good)
    fake.bend("/token", status(200, json.dumps({"token": f"{TOKEN}\n"}).encode()), times=4)
    fake.expire_tokens()
    collector.publish("bad-token", reference=f"{fake.address}/team/third:v1", secrets=good, pullPolicy="Always")
    fake.bend("/manifests/", header(Content_Length="1"), times=4)
    collector.publish("broken", reference=reference, secrets=good, pullPolicy="Always")
    fake.bend("/manifests/", repeated, times=2)
    fake.bend("/manifests/", status(403))
    collector.publish("repeated", reference=reference, secrets=good, pullPolicy="Always")
    fake.straighten()
    assert not collector.publish("user", reference=f"alice:{PASSWORD}@{reference}", secrets=good)
    assert not collector.publish("scheme", reference=f"https://alice:{PASSWORD}@{reference}")
    collector.create(parameters={"reference": f"alice:{PASSWORD}@{reference}"})
    # what is no secret by its place, but none of the log's business
    collector.publish("attribute", reference=reference, secrets=good, include=f"*,{ATTRIBUTE}")
    collector.publish("config", reference=reference, secrets={".dockerconfigjson": f'{{"auths": "{CONFIG}"'})
    collector.publish("keys", reference=reference, secrets={"unknown": CONFIG})
    collector.create(parameters={"reference": reference, "include": ATTRIBUTE}, secrets=good)
    collector.create(parameters={"reference": reference}, secrets=wrong)


def sources(directory: Path, fake: FakeRegistry) -> Path:
    """Write a policy with a plugin, a docker config and service accounts, each for repositories of its own."""
    plugin, docker, policy = FakeProvider(directory / "plugin"), directory / "config.json", directory / "policy.yaml"
    plugin.configure(f"{fake.address}/plugin", env=[{"name": "KEY", "value": NOISE}])
    plugin.answers({fake.address: ("robot", PLUGIN)})
    (plugin.here / "noise").write_text(NOISE)
    docker.write_text(json.dumps({"auths": {f"{fake.address}/file": {"username": "file", "password": FILE}}}))
    rule = f'{{match: "{fake.address}/account/**", audience: fake}}'
    policy.write_text(f"credentials: {{dockerConfig: [{docker}], {plugin.policy}, serviceAccountTokens: [{rule}]}}\n")
    return policy


def every_source(collector: Collector, fake: FakeRegistry) -> None:
    """Go through what the node and the cluster give, taken and refused."""
    entry = {"auths": {fake.address: {"identitytoken": IDENTITY}}}
    secrets = {"secrets": {".dockerconfigjson": json.dumps(entry)}}
    fake.require_tokens(robot=PLUGIN, file=FILE, serviceaccount=POD_TOKEN)
    for name, options in (("plugin", {}), ("file", {}), ("account", {}), ("identity", secrets)):
        reference = fake.artifact(f"{name}/model", files(x=b"content"))
        assert collector.publish(name, reference=reference, **options) == (name != "identity")
        fake.bend("/token", lambda request, _: Answer(status=401, body=repr(request).encode()))
        fake.expire_tokens()
        assert not collector.publish(f"{name}-refused", reference=reference, pullPolicy="Always", **options)
        fake.straighten()


@pytest.mark.parametrize("log_format", ["json", "text"])
@pytest.mark.parametrize("level", ["info", "debug"])
def test_no_secret_comes_out_anywhere(short_path: Path, fake: FakeRegistry, log_format: str, level: str) -> None:
    patch = short_path / "patch"
    patch.mkdir()
    (patch / "sitecustomize.py").write_text(_DEBUG if level == "debug" else "")
    path = os.pathsep.join(filter(None, (str(patch), os.environ.get("PYTHONPATH"))))
    flags = ("--log-format", log_format, "--config", str(sources(short_path, fake)))
    with Driver(short_path, *flags, environment={"PYTHONPATH": path}) as driver:
        collector = Collector(driver)
        everything(collector, fake)
        every_source(collector, fake)
        log, metrics = driver.log, "\n".join(driver.metrics())
        driver.stop()
        kept = {path: path.read_bytes() for path in driver.state.rglob("*") if path.is_file()}
    tokens = {request.authorization.partition(" ")[2] for request in fake.seen() if request.authorization}
    assert len(tokens) >= 4
    secrets = {PASSWORD, WRONG, TOKEN, POD_TOKEN, CONFIG, PLUGIN, NOISE, FILE, IDENTITY, *tokens}
    answers = "\n".join(said for said in collector.said if ATTRIBUTE not in said)
    for secret in secrets:
        assert secret not in driver.log
        assert secret not in metrics
        assert secret not in "\n".join(collector.said)
        assert [path for path, content in kept.items() if secret.encode() in content] == []
    assert ATTRIBUTE not in log
    assert "planted" not in metrics
    assert "planted" not in answers
    assert (level == "debug") == ("debug" in log)


def test_each_line_of_a_publish_says_which_volume_pod_and_reference(driver: Driver, fake: FakeRegistry) -> None:
    reference = fake.artifact("team/model", files(x=b"content"))
    target = driver.target()
    wait_for(lambda: '"recovered"' in driver.log)  # what a driver says by itself after its start
    before = len(driver.log.splitlines())
    pod = pod_context(name="web-0", namespace="team-a")
    driver.node.NodePublishVolume(publish_request(target, volume_id="my-volume", reference=reference, **pod))
    lines = [json.loads(line) for line in driver.log.splitlines()[before:]]
    assert len(lines) >= 2
    assert {line["event"] for line in lines} >= {"pull ended", "published"}
    for line in lines:
        assert (line["volume_id"], line["pod"]) == ("my-volume", "team-a/web-0"), line
        assert line["reference"].startswith(reference), line
        assert line["method"] == "NodePublishVolume"
    driver.unpublish(target, volume_id="my-volume")
    (gone,) = (json.loads(line) for line in driver.log.splitlines() if '"unpublished"' in line)
    assert (gone["volume_id"], gone["pod"]) == ("my-volume", "team-a/web-0")
    assert gone["reference"].startswith(reference)


def test_control_characters_of_a_request_do_not_reach_the_terminal(short_path: Path, fake: FakeRegistry) -> None:
    with Driver(short_path, "--log-format", "text") as driver:
        collector = Collector(driver)
        for evil in ("\x1b[2Jcleared", "a\nforged line", "\u202egnp.exe"):
            fake.bend("/manifests/", status(403, json.dumps({"errors": [{"code": "X", "message": evil}]}).encode()))
            assert not collector.publish("one", reference=f"{fake.address}/a/b:v1", include=evil)
            assert not collector.publish("two", reference=f"{fake.address}/a/b:{evil}")
            assert not collector.publish("three", reference="reg.example/a:v1", **{evil: "x"})
            context = {"csi.storage.k8s.io/pod.name": evil, "csi.storage.k8s.io/pod.namespace": evil}
            assert not collector.publish("four", reference=f"{fake.address}/a/b:v1", **context)
            fake.straighten()
        assert "\x1b[2J" not in driver.log
        assert "\u202e" not in driver.log
        assert not any(line.startswith("forged line") for line in driver.log.splitlines())


def test_metrics_name_no_pod_digest_or_repository(driver: Driver, fake: FakeRegistry) -> None:
    reference = fake.artifact("team/model", files(x=b"content"))
    target = driver.target()
    driver.node.NodePublishVolume(publish_request(target, reference=reference, **pod_context(name="web-0")))
    text = "\n".join(driver.metrics())
    assert fake.address in text
    for word in ("team/model", "sha256:", "web-0", "uid-1", "volume-1"):
        assert word not in text
    driver.unpublish(target)


def test_metrics_count_what_was_done(driver: Driver, fake: FakeRegistry) -> None:
    reference = fake.artifact("team/model", files(x=b"content"))
    target, second = driver.target(), driver.target(pod="uid-2")
    driver.publish(target, reference=reference)
    driver.publish(second, volume_id="v2", reference=reference, include="x")
    found = driver.metrics()
    call = 'csi_plugin_operations_seconds_count{driver_name="csi.oras.land",grpc_status_code="OK",method_name='
    assert found[call + '"/csi.v1.Node/NodePublishVolume"}'] == 2
    assert found["csi_oras_pull_bytes_total"] == 7
    assert found["csi_oras_cache_misses_total"] == 1
    assert found["csi_oras_cache_hits_total"] == 1
    assert found['csi_oras_published_volumes{mode="eager"}'] == 2
    assert found[f'csi_oras_pull_duration_seconds_count{{outcome="ok",registry="{fake.address}"}}'] == 2
    driver.unpublish(target)
    driver.unpublish(second, volume_id="v2")
    assert driver.metrics()['csi_oras_published_volumes{mode="eager"}'] == 0
