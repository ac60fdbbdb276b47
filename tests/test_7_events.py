"""Events on pods: a real driver, and an API server that takes them, refuses them, hangs or is away."""

import gzip
import json
import os
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from csi_oras.telemetry.cluster import Cluster
from csi_oras.telemetry.events import MOST_WAITING, Event, Events, Pod, Post, Reason
from csi_oras.telemetry.metrics import EventOutcome, Metrics
from tests.support.api_server import TOKEN, ApiServer, refusal
from tests.support.artifacts import Layer, files, manifest, sha256
from tests.support.calls import publish_request, refused
from tests.support.cosign import Signer
from tests.support.driver import Driver, pod_context
from tests.support.fake_registry import FakeRegistry
from tests.support.fake_server import Bend, dripping, status
from tests.support.gate import Gate
from tests.support.pods import Held, wait_for
from tests.support.signing import rule

pytest_plugins = ["tests.support.fake_fixtures"]
in_a_cluster = pytest.mark.needs("root")


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    with ApiServer(tmp_path) as running:
        yield running


@pytest.fixture
def cluster(api: ApiServer, short_path: Path) -> Iterator[Driver]:
    """A driver that may write events."""
    with api.driver(short_path) as running:
        yield running


def publish(driver: Driver, pod: str, reference: str, **options: Any) -> Path:
    """Publish a volume of a pod, as often as it is called."""
    uid = f"uid-of-{pod}"[:60]
    target = driver.target(pod=uid)
    context = {**pod_context(name=pod, namespace="team-a", uid=uid), **options}
    driver.publish(target, volume_id=f"volume-{uid}", reference=reference, **context)
    return target


def outcomes(driver: Driver, outcome: str) -> float:
    """How many events ended so."""
    found = driver.metrics().items()
    return sum(number for name, number in found if name.startswith("csi_oras_events_total") and f'"{outcome}"' in name)


def complaints(driver: Driver) -> list[dict[str, Any]]:
    """The log lines that say that events are not written."""
    lines = (json.loads(line) for line in driver.log.splitlines() if line.startswith("{"))
    return [line for line in lines if line["event"].startswith("events of pods are not written")]


# -- what is told


@in_a_cluster
def test_cold_publish_tells_that_the_pull_begins_and_how_it_ended(
    api: ApiServer, cluster: Driver, fake: FakeRegistry
) -> None:
    layers = files(x=b"x" * 1500)
    reference = fake.artifact("team/model", layers)
    publish(cluster, "web-0", reference)
    pulling, (_, pulled) = api.wait("Pulling", "Pulled")
    assert pulling == ("Pulling", f"Pulling artifact {reference}")
    assert pulled.startswith(f"Pulled artifact {reference}@{sha256(manifest(layers))}: 1.5 kB in ")
    assert pulled.endswith(" s, 1.5 kB fetched")


@in_a_cluster
def test_event_is_of_the_pod_and_from_the_driver_on_its_node(
    api: ApiServer, cluster: Driver, fake: FakeRegistry
) -> None:
    publish(cluster, "web-0", fake.artifact("team/model", files(x=b"x")))
    api.wait("Pulling", "Pulled")
    first, second = api.events
    pod = {"apiVersion": "v1", "kind": "Pod", "name": "web-0", "namespace": "team-a", "uid": "uid-of-web-0"}
    for event in (first, second):
        assert event["involvedObject"] == pod
        assert event["source"] == {"component": "csi.oras.land", "host": "node-1"}
        assert (event["reportingComponent"], event["reportingInstance"]) == ("csi.oras.land", "node-1")
        assert (event["type"], event["count"]) == ("Normal", 1)
        assert event["firstTimestamp"] == event["lastTimestamp"]
        assert event["metadata"]["name"].startswith("web-0.")
    assert first["metadata"]["name"] != second["metadata"]["name"]
    wait_for(lambda: outcomes(cluster, "sent") == 2)


@in_a_cluster
def test_publish_of_what_is_local_tells_nothing(api: ApiServer, cluster: Driver, fake: FakeRegistry) -> None:
    reference = fake.artifact("team/model", files(x=b"x"))
    publish(cluster, "first", reference)
    publish(cluster, "second", reference)
    publish(cluster, "third", reference, pullPolicy="Always")
    publish(cluster, "last", fake.artifact("team/other", files(y=b"y")))
    api.wait("Pulling", "Pulled", pod="last")
    assert {event["involvedObject"]["name"] for event in api.events} == {"first", "last"}


@in_a_cluster
def test_each_pod_that_waits_for_one_pull_is_told(api: ApiServer, cluster: Driver, fake: FakeRegistry) -> None:
    reference = fake.artifact("team/model", files(x=b"x"))
    held = Held()
    fake.bend("/blobs/", held)
    pods = ["one", "two", "three"]
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(publish, cluster, pod, reference) for pod in pods]
        for pod in pods:
            api.wait("Pulling", pod=pod)
        held.release()
        for call in calls:
            call.result(30)
    for pod in pods:
        api.wait("Pulling", "Pulled", pod=pod)


@in_a_cluster
def test_slow_pull_is_told_with_its_progress_and_not_again_by_each_retry(
    api: ApiServer, cluster: Driver, fake: FakeRegistry
) -> None:
    with Gate(fake.address) as gate:
        reference = fake.artifact("team/model", [Layer(content=os.urandom(8 << 20), title="x")])
        reference = reference.replace(fake.address, gate.address)
        gate.hold_after(4 << 20)
        for _ in range(3):
            with refused(grpc.StatusCode.ABORTED):
                publish(cluster, "web-0", reference, timeout=3)
        gate.open()
        publish(cluster, "web-0", reference)
    _, (_, slow), _ = api.wait("Pulling", "PullSlow", "Pulled")
    assert slow.startswith(f"Still pulling artifact {reference}: ")
    assert " % (" in slow
    assert " MB of 8.4 MB" in slow
    assert [event["type"] for event in api.events] == ["Normal"] * 3


@in_a_cluster
def test_failed_pull_is_left_to_the_kubelet_to_tell(api: ApiServer, cluster: Driver, fake: FakeRegistry) -> None:
    with refused(grpc.StatusCode.NOT_FOUND):
        publish(cluster, "web-0", f"{fake.address}/team/absent:v1")
    publish(cluster, "last", fake.artifact("team/other", files(y=b"y")))
    api.wait("Pulling", "Pulled", pod="last")
    assert api.told("web-0") == []


@pytest.fixture
def warned(api: ApiServer, short_path: Path) -> Iterator[Driver]:
    """A driver whose policy wants signatures, and warns where there are none."""
    (short_path / "key.pub").write_bytes(Signer.of().public)
    (short_path / "policy.yaml").write_text(f"verification:\n{rule('**', short_path / 'key.pub', mode='warn')}")
    with api.driver(short_path, "--config", str(short_path / "policy.yaml")) as running:
        yield running


@in_a_cluster
def test_unsigned_artifact_that_is_let_through_is_a_warning_to_each_of_its_pods(
    api: ApiServer, warned: Driver, fake: FakeRegistry
) -> None:
    reference = fake.artifact("team/model", files(x=b"x"))
    publish(warned, "cold", reference)
    *_, (_, cold) = api.wait("Pulling", "Pulled", "NotVerified", pod="cold")
    assert reference in cold
    assert "let through with a warning" in cold.lower()
    assert "is not signed, and node policy wants it signed" in cold
    publish(warned, "warm", reference)
    publish(warned, "unchanged", reference, pullPolicy="Always")
    for pod in ("warm", "unchanged"):
        ((_, message),) = api.wait("NotVerified", pod=pod)
        assert reference in message
    found = [event["type"] for event in api.events if event["reason"] == "NotVerified"]
    assert found == ["Warning"] * 3


# -- what stands in the way


@in_a_cluster
def test_driver_without_permission_says_so_once_and_goes_on(
    api: ApiServer, cluster: Driver, fake: FakeRegistry
) -> None:
    api.bend("/events", lambda _request, _answer: refusal(403, "Forbidden"))
    for number in range(3):
        publish(cluster, f"pod-{number}", fake.artifact(f"team/model-{number}", files(x=bytes([number]))))
    wait_for(lambda: outcomes(cluster, "forbidden") == 6)
    (line,) = complaints(cluster)
    assert (line["level"], line["outcome"]) == ("warning", "forbidden")
    assert "events is forbidden" in line["cause"]
    assert api.count("/events") == 1


@in_a_cluster
def test_namespace_that_ends_takes_no_events_and_is_no_lack_of_permission(
    api: ApiServer, cluster: Driver, fake: FakeRegistry
) -> None:
    ending = refusal(403, "Forbidden", causes=[{"reason": "NamespaceTerminating", "message": "it ends"}])
    api.bend("/events", lambda _request, _answer: ending, times=1)
    publish(cluster, "web-0", fake.artifact("team/model", files(x=b"x")))
    api.wait("Pulled")
    assert outcomes(cluster, "refused") == 1


@in_a_cluster
def test_api_server_that_hangs_delays_no_publish(api: ApiServer, cluster: Driver, fake: FakeRegistry) -> None:
    held = Held()
    api.bend("/events", held)
    for number in range(5):
        target = publish(cluster, f"pod-{number}", fake.artifact(f"team/model-{number}", files(x=bytes([number]))))
        assert (target / "x").exists()
    held.wait()
    assert api.events == []  # every publish has ended, and no event was answered
    assert outcomes(cluster, "sent") == 0
    held.release()


@in_a_cluster
def test_api_server_that_is_away_is_tried_again(api: ApiServer, cluster: Driver, fake: FakeRegistry) -> None:
    api.bend("/events", status(503), times=1)
    publish(cluster, "web-0", fake.artifact("team/model", files(x=b"x")))
    api.wait("Pulling", "Pulled")
    (line,) = complaints(cluster)
    assert line["outcome"] == "unreachable"
    wait_for(lambda: outcomes(cluster, "sent") == 2)


@in_a_cluster
def test_api_server_that_drips_its_answer_is_given_up_and_tried_again(
    api: ApiServer, cluster: Driver, fake: FakeRegistry
) -> None:
    api.bend("/events", dripping(b"HTTP/1.1 201 Created\r\nContent-Length: 1000\r\n\r\n", 0.5), times=1)
    api.bend("/events", lambda _request, _answer: refusal(409, "AlreadyExists"), times=1)  # it was taken
    publish(cluster, "web-0", fake.artifact("team/model", files(x=b"x")))
    api.wait("Pulling", "Pulled")
    (line,) = complaints(cluster)
    assert line["outcome"] == "unreachable"
    assert line["cause"].startswith("ReadTimeout")
    wait_for(lambda: outcomes(cluster, "sent") == 2)


@in_a_cluster
def test_event_whose_answer_was_lost_is_not_written_twice(api: ApiServer, cluster: Driver, fake: FakeRegistry) -> None:
    def taken_and_lost(request: Any, answer: Any) -> Any:
        api.events.append(json.loads(request.body))
        return replace(answer, status=500)

    api.bend("/events", taken_and_lost, times=1)
    api.bend("/events", lambda _request, _answer: refusal(409, "AlreadyExists"), times=1)
    publish(cluster, "web-0", fake.artifact("team/model", files(x=b"x")))
    api.wait("Pulling", "Pulled")
    first, again, _ = api.seen("/events")
    assert first.body == again.body
    wait_for(lambda: outcomes(cluster, "sent") == 2)


@in_a_cluster
def test_server_with_another_authority_is_not_shown_the_token(
    api: ApiServer, short_path: Path, fake: FakeRegistry, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    with ApiServer(tmp_path / "other") as other:
        (api.account / "ca.crt").write_bytes((other.account / "ca.crt").read_bytes())
    with api.driver(short_path) as driver:
        publish(driver, "web-0", fake.artifact("team/model", files(x=b"x")))
        wait_for(lambda: complaints(driver) != [])
        assert "CERTIFICATE_VERIFY_FAILED" in complaints(driver)[0]["cause"]
    assert api.requests == []


@in_a_cluster
def test_rotated_token_is_read_again(api: ApiServer, cluster: Driver, fake: FakeRegistry) -> None:
    publish(cluster, "before", fake.artifact("team/model", files(x=b"x")))
    api.wait("Pulling", "Pulled")
    api.rotate("planted-token-rotated")
    publish(cluster, "after", fake.artifact("team/other", files(y=b"y")))
    api.wait("Pulling", "Pulled", pod="after")
    assert set(api.credentials_seen()) == {f"Bearer {TOKEN}", "Bearer planted-token-rotated"}


@in_a_cluster
def test_token_is_in_no_event_log_line_or_metric(api: ApiServer, cluster: Driver, fake: FakeRegistry) -> None:
    api.bend("/events", lambda _request, _answer: refusal(401, "Unauthorized"), times=2)
    publish(cluster, "web-0", fake.artifact("team/model", files(x=b"x")), secrets={"username": "u", "password": "p"})
    api.wait("Pulling", "Pulled")
    said = cluster.log + json.dumps(api.events) + str(cluster.metrics())
    assert TOKEN not in said


HOSTILE = {
    "path": ("web/../../secrets", "team-a", "uid-1"),
    "namespace path": ("web-0", "..", "uid-1"),
    "query": ("web-0", "team-a?x=y", "uid-1"),
    "header": ("web-0", "team-a\r\nX: y", "uid-1"),
    "upper case": ("Web-0", "team-a", "uid-1"),
    "newline": ("web-0\n", "team-a", "uid-1"),
    "dots": ("web..0", "team-a", "uid-1"),
    "namespace with dots": ("web-0", "team.a", "uid-1"),
    "long name": ("x" * 254, "team-a", "uid-1"),
    "long namespace": ("web-0", "x" * 64, "uid-1"),
    "uid": ("web-0", "team-a", "uid/1"),
    "long uid": ("web-0", "team-a", "x" * 65),
    "no uid": ("web-0", "team-a", ""),
    "no name": ("", "team-a", "uid-1"),
    "unicode": ("web-\u0131", "team-a", "uid-1"),
}


@pytest.mark.parametrize("names", HOSTILE.values(), ids=HOSTILE.keys())
def test_pod_with_a_name_that_is_none_is_no_pod(names: tuple[str, str, str]) -> None:
    assert Pod.find(*names) is None


@pytest.mark.parametrize(("name", "namespace"), [("a", "b"), ("web-0.x", "team-a"), ("x" * 253, "y" * 63)])
def test_pod_with_a_name_that_is_one_is_a_pod(name: str, namespace: str) -> None:
    uid = "0e4b2a0c-9a53-4a39-9c8b-f2dc21d8b8a1"
    assert Pod.find(name, namespace, uid) == Pod(name=name, namespace=namespace, uid=uid)


@in_a_cluster
def test_pods_with_hostile_names_make_no_request(api: ApiServer, cluster: Driver, fake: FakeRegistry) -> None:
    for number, (name, namespace, uid) in enumerate(HOSTILE.values()):
        keys = (f"csi.storage.k8s.io/pod.{key}" for key in ("name", "namespace", "uid"))
        context = dict(zip(keys, (name, namespace, uid), strict=True))
        reference = fake.artifact(f"team/model-{number}", files(x=bytes([number])))
        request = publish_request(
            cluster.target(pod=f"p{number}"), volume_id=f"v{number}", reference=reference, **context
        )
        cluster.node.NodePublishVolume(request, timeout=30)
    publish(cluster, "honest", fake.artifact("team/last", files(y=b"y")))
    api.wait("Pulling", "Pulled")
    assert {request.path for request in api.requests} == {"/api/v1/namespaces/team-a/events"}
    assert "Traceback" not in cluster.log


@in_a_cluster
def test_driver_of_a_test_writes_no_events_to_the_cluster_that_the_test_runs_in(
    short_path: Path, api: ApiServer
) -> None:
    with Driver(short_path, environment=api.environment()) as driver:
        assert driver.process is not None
        command = Path(f"/proc/{driver.process.pid}/cmdline").read_text().split("\0")
        account = Path(command[command.index("--service-account-dir") + 1])
        assert not account.exists()


@in_a_cluster
def test_driver_outside_of_a_cluster_says_once_that_pods_get_no_events(
    short_path: Path, api: ApiServer, fake: FakeRegistry
) -> None:
    (api.account / "token").unlink()
    with api.driver(short_path) as driver:
        publish(driver, "web-0", fake.artifact("team/model", files(x=b"x")))
        lines = [json.loads(line) for line in driver.log.splitlines() if "pods get no events" in line]
        assert [line["level"] for line in lines] == ["info"]
        assert not any(name.startswith("csi_oras_events_total") for name in driver.metrics())
    assert api.requests == []


# -- the answer


@pytest.fixture
def speaker(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Speaks to the API server, and gives it little time."""
    for name, value in api.environment().items():
        monkeypatch.setenv(name, value)
    speaker = Cluster(api.account, "csi.oras.land", "node-1", seconds=1)
    yield speaker
    speaker.close()


def event() -> Event:
    return Event(involved=pod(1), reason=Reason.PULLED, message="pulled", time=1000.0)


OK = b"HTTP/1.1 201 Created\r\n"
ENDLESS = {
    "status line": dripping(b"", 0.05),
    "headers": dripping(OK + b"X: ", 0.05),
    "interim answers": dripping(b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + b"HTTP/1.1 ", 0.05),
    "body": dripping(OK + b"Content-Length: 1000000\r\n\r\n", 0.05),
    "body of no length": dripping(OK + b"\r\n", 0.05),
    "refusal": dripping(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 1000000\r\n\r\n", 0.05),
}


@pytest.mark.parametrize("bend", ENDLESS.values(), ids=ENDLESS.keys())
def test_post_of_an_answer_that_drips_ends(api: ApiServer, speaker: Cluster, bend: Bend) -> None:
    api.bend("/events", bend, times=1)
    outcome, cause = speaker.post(event())
    assert outcome is EventOutcome.UNREACHABLE
    assert "Error" in cause or "Timeout" in cause
    assert speaker.post(event()) == (EventOutcome.SENT, "")


def test_post_of_a_long_answer_is_unreachable(api: ApiServer, speaker: Cluster) -> None:
    api.bend("/events", status(201, b" " * (3 << 20)))
    cause = "ReadError: the answer is longer than 1048576 bytes"
    assert speaker.post(event()) == (EventOutcome.UNREACHABLE, cause)


def test_post_of_a_compressed_answer_is_not_expanded(api: ApiServer, speaker: Cluster) -> None:
    bomb = gzip.compress(bytes(64 << 20))
    api.bend("/events", status(201, bomb, Content_Encoding="gzip", Content_Type="application/json"))
    tracemalloc.start()
    try:
        outcome, _ = speaker.post(event())
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert outcome is EventOutcome.UNREACHABLE


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (307, EventOutcome.REFUSED),
        (403, EventOutcome.FORBIDDEN),
        (409, EventOutcome.SENT),
        (422, EventOutcome.REFUSED),
        (503, EventOutcome.UNREACHABLE),
    ],
)
@pytest.mark.parametrize(
    "said",
    [
        (b"", {}),
        (b"evil", {"Content_Type": "application/json"}),
        (b"[1]", {"Content_Type": "application/json"}),
        (b"[" * 100_000, {"Content_Type": "application/json"}),
        (b"evil", {"Content_Type": "text/plain; charset=zlib"}),
    ],
    ids=["no type", "no JSON", "another document", "deep", "no charset"],
)
def test_post_of_a_refusal_that_is_no_status_document_goes_by_its_code(
    api: ApiServer, speaker: Cluster, code: int, outcome: EventOutcome, said: tuple[bytes, dict[str, str]]
) -> None:
    body, headers = said
    api.bend("/events", status(code, body, **headers))
    found, cause = speaker.post(event())
    assert found is outcome
    assert cause.startswith(f"{code}: ") or outcome is EventOutcome.SENT


# -- the queue


class Collected:
    """A post that keeps what it is given, from when it is let."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.begun = threading.Event()
        self.free = threading.Event()

    def connect(self) -> Post:
        return self.post

    def post(self, event: Event) -> tuple[EventOutcome, str]:
        self.begun.set()
        assert self.free.wait(30)
        self.events.append(event)
        return EventOutcome.SENT, ""


def pod(number: int) -> Pod:
    return Pod(name=f"pod-{number}", namespace="team-a", uid=f"uid-{number}")


def counted(metrics: Metrics, reason: Reason, outcome: EventOutcome) -> float:
    labels = {"reason": reason.value, "outcome": outcome.value}
    return metrics.registry.get_sample_value("csi_oras_events_total", labels) or 0


def test_emit_when_the_queue_is_full_drops_and_counts() -> None:
    post, metrics = Collected(), Metrics("driver", "1")
    events = Events(post.connect, metrics)
    events.emit(pod(0), Reason.PULLED, "a", "first")
    assert post.begun.wait(30)  # it is in hand, and the queue is empty
    for number in range(1, MOST_WAITING + 4):
        events.emit(pod(number), Reason.PULLED, "a", "one more")
    assert counted(metrics, Reason.PULLED, EventOutcome.DROPPED) == 3
    post.free.set()
    wait_for(lambda: counted(metrics, Reason.PULLED, EventOutcome.SENT) == MOST_WAITING + 1)


def test_emit_of_the_same_is_silent_for_a_while_and_no_longer() -> None:
    post, metrics, now = Collected(), Metrics("driver", "1"), [1000.0]
    post.free.set()
    events = Events(post.connect, metrics, clock=lambda: now[0])
    for seconds in (0, 299, 2, 298, 1):
        now[0] += seconds
        events.emit(pod(1), Reason.SLOW, "model", f"at {now[0]:.0f}")
        events.emit(pod(1), Reason.PULLING, "model", "pulling")
    events.emit(pod(1), Reason.SLOW, "other", "another artifact")
    events.emit(pod(2), Reason.SLOW, "model", "another pod")
    wait_for(lambda: len(post.events) == 5)
    said = [event.message for event in post.events]
    assert said == ["at 1000", "pulling", "at 1301", "another artifact", "another pod"]


def test_emit_of_a_long_message_is_cut_to_what_an_event_holds() -> None:
    post, metrics = Collected(), Metrics("driver", "1")
    post.free.set()
    Events(post.connect, metrics).emit(pod(1), Reason.PULLED, "a", "\U0001f600" * 1000)
    wait_for(lambda: len(post.events) == 1)
    assert 900 < len(post.events[0].message.encode()) <= 1024
