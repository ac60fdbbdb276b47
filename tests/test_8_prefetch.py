"""Prefetch through a real driver: what node policy wishes for is here before a pod asks, stays fresh, and stays."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_oras.demo.distribution import Distribution
from csi_oras.oci.reference import Reference
from csi_oras.transfer.labels import label_of
from tests.support.access_log import AccessLog
from tests.support.api_server import ApiServer, refusal
from tests.support.artifacts import Pusher, files, manifest, sha256
from tests.support.driver import Driver
from tests.support.fake_registry import FakeRegistry
from tests.support.pods import Held, wait_for
from tests.support.volume import Volume
from tests.support.wishing import WishList, rows, states, wait_for_states

pytestmark = pytest.mark.needs("root", "registry")
pytest_plugins = ["tests.support.fake_fixtures"]


@pytest.fixture
def wishes(short_path: Path) -> WishList:
    return WishList(short_path, "store: {minAge: 0s}\n")


def collect(driver: Driver, wishes: WishList) -> None:
    """Take away whatever nobody holds."""
    line = [sys.executable, "-m", "csi_oras", "store", "gc", "--all", "--state-dir", str(driver.state)]
    subprocess.run([*line, "--config", str(wishes.path)], check=True, capture_output=True, timeout=60)


def blobs(driver: Driver) -> set[str]:
    return {f"sha256:{path.name}" for path in (driver.state / "blobs" / "sha256").iterdir()}


def test_wish_is_pulled_and_a_pod_then_asks_for_no_blob(
    wishes: WishList, short_path: Path, pusher: Pusher, registry: Distribution, repository: str
) -> None:
    layers = files(model=b"m" * 5000)
    reference = pusher.artifact(repository, layers)
    wishes.set(reference, every="1h")
    with wishes.driver(short_path) as driver:
        wait_for_states(driver.state, {reference: "ready"})
        row = rows(driver.state)[reference]
        assert (row["state"], row["digest"]) == ("ready", sha256(manifest(layers)))
        asked = len(AccessLog(registry, repository).requests())
        volume = Volume(driver)
        volume.publish(reference=reference)
        assert volume.names() == ["model"]
        assert len(AccessLog(registry, repository).requests()) == asked
        assert driver.metrics()['csi_oras_prefetch_artifacts{state="ready"}'] == 1
        volume.unpublish()


def test_unchanged_tag_costs_one_head(
    wishes: WishList, short_path: Path, pusher: Pusher, registry: Distribution, repository: str
) -> None:
    reference = pusher.artifact(repository, files(x=b"x"))
    wishes.set(reference, every="1s")
    with wishes.driver(short_path) as driver:
        wait_for_states(driver.state, {reference: "ready"})
        log = AccessLog(registry, repository)
        before = [request for request in log.requests() if request.method == "GET"]
        wait_for(lambda: len([r for r in log.requests() if r.method == "HEAD"]) >= 2)
        assert [request for request in log.requests() if request.method == "GET"] == before


def test_tag_that_moved_is_followed_and_the_old_artifact_can_be_collected(
    wishes: WishList, short_path: Path, pusher: Pusher, repository: str
) -> None:
    old, new = files(x=b"old"), files(x=b"new")
    reference = pusher.artifact(repository, old)
    wishes.set(reference)
    with wishes.driver(short_path) as driver:
        wait_for_states(driver.state, {reference: "ready"})
        collect(driver, wishes)
        assert sha256(b"old") in blobs(driver)
        pusher.artifact(repository, new)
        wait_for(lambda: rows(driver.state)[reference]["digest"] == sha256(manifest(new)))
        collect(driver, wishes)
        assert sha256(b"new") in blobs(driver)
        assert sha256(b"old") not in blobs(driver)


def test_glob_means_the_tags_that_match_and_follows_them(
    wishes: WishList, short_path: Path, pusher: Pusher, repository: str
) -> None:
    for tag in ("v1", "v2", "latest", "1.0"):
        pusher.artifact(repository, files(x=tag.encode()), tag)
    name = f"{pusher.address}/{repository}"
    wishes.set(f"{name}:v*")
    with wishes.driver(short_path) as driver:
        wait_for_states(driver.state, {f"{name}:v1": "ready", f"{name}:v2": "ready"})
        assert {sha256(b"v1"), sha256(b"v2")} <= blobs(driver)
        assert not {sha256(b"latest"), sha256(b"1.0")} & blobs(driver)
        pusher.artifact(repository, files(x=b"v3"), "v3")
        wait_for_states(driver.state, {f"{name}:{tag}": "ready" for tag in ("v1", "v2", "v3")})


def test_changed_policy_is_in_force_while_another_wish_is_pulled(
    wishes: WishList, short_path: Path, pusher: Pusher, repository: str, fake: FakeRegistry
) -> None:
    slow = fake.artifact("team/slow", files(x=b"slow"))
    held = Held()
    fake.bend("/blobs/", held)
    gone = pusher.artifact(repository, files(x=b"gone"), "gone")
    added = pusher.artifact(repository, files(x=b"added"), "added")
    wishes.set(slow, gone)
    with wishes.driver(short_path) as driver:
        wait_for_states(driver.state, {slow: "pulling", gone: "ready"})
        wishes.set(slow, added)
        wait_for_states(driver.state, {slow: "pulling", added: "ready"})
        held.release()
        wait_for_states(driver.state, {slow: "ready", added: "ready"})
        collect(driver, wishes)
        assert sha256(b"added") in blobs(driver)
        assert sha256(b"gone") not in blobs(driver)


def test_wish_that_is_dropped_in_mid_pull_is_kept_no_longer(
    wishes: WishList, short_path: Path, fake: FakeRegistry
) -> None:
    slow = fake.artifact("team/slow", files(x=b"slow"))
    held = Held()
    fake.bend("/blobs/", held)
    wishes.set(slow)
    with wishes.driver(short_path) as driver:
        wait_for_states(driver.state, {slow: "pulling"})
        wishes.set()
        wait_for_states(driver.state, {})
        held.release()
        wait_for(lambda: driver.metrics()["csi_oras_pulls_in_flight"] == 0)
        wait_for(lambda: states(driver.state) == {})

        def collected() -> bool:
            collect(driver, wishes)
            return sha256(b"slow") not in blobs(driver)

        wait_for(collected)


def test_failed_wish_keeps_what_it_has_and_is_tried_again(
    wishes: WishList, short_path: Path, tmp_path: Path, repository: str
) -> None:
    with Distribution(tmp_path / "registry") as registry:
        reference = Pusher(registry.address).artifact(repository, files(x=b"kept"))
        wishes.set(reference)
        with wishes.driver(short_path) as driver:
            wait_for_states(driver.state, {reference: "ready"})
            digest = rows(driver.state)[reference]["digest"]
            registry.stop()
            wait_for_states(driver.state, {reference: "failed"})
            row = rows(driver.state)[reference]
            assert (row["state"], row["digest"]) == ("failed", digest)
            assert registry.address in row["error"]
            assert any(name == "csi_oras_prefetch_failures_total" for name in driver.metrics())
            collect(driver, wishes)
            assert sha256(b"kept") in blobs(driver)
            registry.start()
            wait_for_states(driver.state, {reference: "ready"})
            assert rows(driver.state)[reference]["error"] == ""


def test_wishes_go_on_after_the_driver_was_killed_in_mid_pull(
    wishes: WishList, short_path: Path, fake: FakeRegistry
) -> None:
    reference = fake.artifact("team/model", files(x=b"x"))
    held = Held()
    fake.bend("/blobs/", held)
    wishes.set(reference)
    with wishes.driver(short_path) as driver:
        wait_for_states(driver.state, {reference: "pulling"})
        driver.kill()
        held.release()
        driver.start()
        wait_for_states(driver.state, {reference: "ready"})


def test_wish_of_what_node_policy_denies_fails_and_asks_nobody(short_path: Path, fake: FakeRegistry) -> None:
    wishes = WishList(short_path, "registries: {deny: ['**/secret']}\n")
    reference = fake.artifact("team/secret", files(x=b"x"))
    glob = reference.replace(":v1", ":v*")
    wishes.set(reference, glob)
    with wishes.driver(short_path) as driver:
        wait_for_states(driver.state, {reference: "failed", glob: "failed"})
        assert {"policy" in row["error"] for row in rows(driver.state).values()} == {True}
    assert fake.count() == 0


def test_wishes_of_a_dead_registry_hold_up_no_others(
    wishes: WishList, short_path: Path, fake: FakeRegistry, pusher: Pusher, repository: str
) -> None:
    held = Held()
    fake.bend("/manifests/", held)
    dead = [fake.artifact("team/model", files(x=b"x"), f"v{number}") for number in range(4)]
    living = pusher.artifact(repository, files(x=b"x"))
    tried, others = dead[:2], dead[2:]
    wishes.set(*dead, living)
    with wishes.driver(short_path) as driver:
        meanwhile = {**dict.fromkeys(tried, "pulling"), **dict.fromkeys(others, "waiting"), living: "ready"}
        wait_for_states(driver.state, meanwhile)
        assert {reference: row["state"] for reference, row in rows(driver.state).items()} == meanwhile
        held.release()
        wait_for_states(driver.state, dict.fromkeys([*dead, living], "ready"))


def test_controller_pulls_no_wishes(wishes: WishList, short_path: Path, fake: FakeRegistry) -> None:
    wishes.set(fake.artifact("team/model", files(x=b"x")))
    driver = wishes.driver(short_path)
    driver.mode = "controller"
    with driver:
        assert states(driver.state) == {}
    assert fake.count() == 0


# -- what the cluster is told


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    with ApiServer(tmp_path) as running:
        yield running


def under_prefix(api: ApiServer) -> dict[str, str]:
    return {key: value for key, value in api.labels.items() if key.startswith("prefetch.csi.oras.land/")}


def test_node_is_told_once_of_each_change(
    wishes: WishList, short_path: Path, api: ApiServer, pusher: Pusher, repository: str
) -> None:
    old, new = files(x=b"old"), files(x=b"new")
    reference = pusher.artifact(repository, old)
    missing = f"{pusher.address}/{repository}:none"
    wishes.set(reference, missing)
    with api.driver(short_path, "--config", str(wishes.path)):
        wait_for(lambda: len(api.told()) == 2)
        pusher.artifact(repository, new)
        wait_for(lambda: len(api.told()) == 3)
    told = sorted(api.told())
    assert [reason for reason, _ in told] == ["PrefetchFailed", "Prefetched", "Prefetched"]
    assert told[0][1].startswith(f"Prefetch failed: {missing}: ")
    pinned = sorted(f"{reference}@{sha256(manifest(layers))}" for layers in (old, new))
    assert [message for _, message in told[1:]] == [f"Prefetched artifact {pin}: 3 B" for pin in pinned]
    for event in api.events:
        assert event["involvedObject"] == {"apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": "node-1"}
        assert event["metadata"]["namespace"] == "default"
        assert event["type"] == ("Warning" if event["reason"] == "PrefetchFailed" else "Normal")


def test_labels_of_the_node_follow_what_it_keeps_and_no_others_are_touched(
    wishes: WishList, short_path: Path, api: ApiServer, pusher: Pusher, repository: str
) -> None:
    layers = files(x=b"x")
    reference = pusher.artifact(repository, layers)
    api.labels |= {"prefetch.csi.oras.land/stale": "0123456789ab", "team": "a"}
    wishes.set(reference, reference.replace(":v1", ":none"))
    with api.driver(short_path, "--config", str(wishes.path), "--label-node"):
        digest = sha256(manifest(layers)).removeprefix("sha256:")
        wait_for(lambda: under_prefix(api) == {label_of(Reference.parse(reference)): digest[:12]})
        wishes.set()
        wait_for(lambda: under_prefix(api) == {})
        assert api.labels == {"kubernetes.io/hostname": "node-1", "team": "a"}


def test_driver_without_the_flag_touches_no_label(
    wishes: WishList, short_path: Path, api: ApiServer, pusher: Pusher, repository: str
) -> None:
    wishes.set(pusher.artifact(repository, files(x=b"x")))
    with api.driver(short_path, "--config", str(wishes.path)):
        api.wait("Prefetched")
        assert api.seen("/api/v1/nodes") == []


def test_labels_that_may_not_be_set_are_complained_of_once_and_wishes_go_on(
    wishes: WishList, short_path: Path, api: ApiServer, pusher: Pusher, repository: str
) -> None:
    api.bend("/api/v1/nodes", lambda _request, _answer: refusal(403, "Forbidden"))
    reference = pusher.artifact(repository, files(x=b"x"))
    wishes.set(reference)
    with api.driver(short_path, "--config", str(wishes.path), "--label-node") as driver:
        wait_for(lambda: "the labels of the node are not set" in driver.log)
        wait_for_states(driver.state, {reference: "ready"})
        assert driver.log.count("the labels of the node are not set") == 1
