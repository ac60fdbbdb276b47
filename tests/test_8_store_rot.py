"""What rots under a driver: found by a command or by itself, told to the pod, and whole for the next volume."""

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from csi_oras.oci.media_types import UNPACK
from csi_oras.store.database import Database
from csi_oras.store.paths import StatePaths
from csi_oras.store.quarantine import Quarantine
from csi_oras.volume.adopt import shown_quarantined
from tests.support.api_server import ApiServer
from tests.support.artifacts import Layer, files, sha256
from tests.support.calls import refused
from tests.support.driver import Driver, pod_context
from tests.support.fake_registry import FakeRegistry
from tests.support.kinds_archives import oras_directory
from tests.support.pods import wait_for
from tests.support.rot import rot
from tests.support.unpacking import reg, tar
from tests.support.volume import Volume

pytestmark = pytest.mark.needs("root")
pytest_plugins = ["tests.support.fake_fixtures"]

WHOLE = b"a blob's bytes"
RUN = b"#!/bin/sh\n"
LAYERS: list[Layer] = [*files(blob=WHOLE), oras_directory("bin", tar(reg("bin/run", RUN, 0o755)))]


@pytest.fixture
def reference(fake: FakeRegistry) -> str:
    return fake.artifact("team/model", LAYERS)


@pytest.fixture
def first(driver: Driver, reference: str) -> Iterator[Volume]:
    """A volume that is there before anything rots."""
    volume = Volume(driver)
    volume.publish(reference=reference, **pod_context(name="first", namespace="team-a"))
    yield volume
    volume.unpublish()
    assert volume.is_gone()


def verify(state: Path) -> tuple[int, Any]:
    """The exit code of `store verify --json`, and what it prints."""
    command = [sys.executable, "-m", "csi_oras", "store", "verify", "--state-dir", str(state), "--json"]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert ended.stdout.count("\n") == 1, ended.stderr
    return ended.returncode, json.loads(ended.stdout)


def stored(driver: Driver, path: Path) -> Path:
    """The blob or object that a volume shows at a path."""
    places = [*driver.state.glob("blobs/*/*"), *driver.state.glob("objects/*/*")]
    (found,) = [place for place in places if place.samefile(path)]
    return found


def told(driver: Driver) -> list[dict[str, Any]]:
    """The log lines that say that something was corrupt."""
    lines = [json.loads(line) for line in driver.log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"].startswith("content of the store was corrupt")]


def again(driver: Driver, reference: str) -> dict[str, bytes]:
    """What the next volume of an artifact shows."""
    volume = Volume(driver)
    volume.publish(reference=reference, **pod_context(name="next", namespace="team-a"))
    shown = {name: (volume.target / name).read_bytes() for name in volume.names()}
    volume.unpublish()
    return shown


def test_what_rots_is_set_aside_and_the_next_volume_fetches_it_again(
    driver: Driver, fake: FakeRegistry, reference: str, first: Volume
) -> None:
    assert verify(driver.state)[0] == 0
    rot(stored(driver, first.target / "blob"))
    rot(stored(driver, first.target / "bin/run"))
    wrong = (first.target / "blob").read_bytes()
    fetched = fake.count(f"/blobs/{sha256(WHOLE)}")

    code, document = verify(driver.state)
    checked = {**document, "bytes": document["bytes"] > len(WHOLE + RUN)}
    # a manifest, two layers and an unpacked file
    assert (code, checked) == (1, {"checked": 4, "bytes": True, "corrupt": [sha256(WHOLE), sha256(RUN)]})

    assert again(driver, reference) == {"blob": WHOLE, "bin/run": RUN}
    assert fake.count(f"/blobs/{sha256(WHOLE)}") > fetched
    assert first.mounts == 1  # and its pod has what it had
    assert (first.target / "blob").read_bytes() == wrong != WHOLE
    assert verify(driver.state)[0] == 0


def test_corruption_that_somebody_else_finds_is_in_log_and_metrics(driver: Driver, first: Volume) -> None:
    rot(stored(driver, first.target / "blob"))
    rot(stored(driver, first.target / "bin/run"))
    assert verify(driver.state)[0] == 1
    wait_for(lambda: len(told(driver)) == 2)
    lines = {line["kind"]: line for line in told(driver)}
    assert {kind: line["digest"] for kind, line in lines.items()} == {"blob": sha256(WHOLE), "object": sha256(RUN)}
    for line in lines.values():
        assert (line["volumes"], len(line["artifacts"])) == ([first.volume_id], 1)
    metrics = driver.metrics()
    assert [metrics[f'csi_oras_corrupt_total{{kind="{kind}"}}'] for kind in ("blob", "object")] == [1, 1]


def test_driver_finds_what_rots_by_itself_once_a_week(driver: Driver, reference: str, first: Volume) -> None:
    database = Database(driver.state / "state.db")
    wait_for(lambda: database.query("SELECT position FROM passes") == [("~",)])
    rot(stored(driver, first.target / "blob"))
    driver.stop()
    database.query("UPDATE passes SET began = began - 7 * 24 * 3600")
    database.close()
    driver.start()
    wait_for(lambda: [line["digest"] for line in told(driver)] == [sha256(WHOLE)])
    assert again(driver, reference) == {"blob": WHOLE, "bin/run": RUN}
    assert first.mounts == 1


def test_mount_of_what_was_quarantined_is_ours_also_when_all_records_are_lost(
    driver: Driver, reference: str, first: Volume
) -> None:
    rot(stored(driver, first.target / "blob"))
    assert verify(driver.state)[0] == 1
    driver.kill()
    for path in driver.state.glob("state.db*"):
        path.unlink()
    driver.start()
    first.publish(reference=reference, **pod_context(name="first", namespace="team-a"))  # as a kubelet asks again
    assert first.mounts == 1
    driver.kill()
    for path in driver.state.glob("state.db*"):
        path.unlink()
    driver.start()
    first.unpublish()
    assert first.is_gone()


def test_what_a_pod_shows_stays_until_it_is_gone(driver: Driver, first: Volume) -> None:
    rot(stored(driver, first.target / "blob"))
    assert verify(driver.state)[0] == 1
    quarantine = Quarantine(StatePaths(driver.state), grace=0)
    assert quarantine.sweep(lambda: shown_quarantined(driver.state / "trees")) == 0
    assert (first.target / "bin/run").read_bytes() == RUN
    first.unpublish()
    assert quarantine.sweep(lambda: shown_quarantined(driver.state / "trees")) > 0
    assert list((driver.state / "quarantine").iterdir()) == []


def test_pod_that_shows_what_has_rotted_is_told(tmp_path: Path, short_path: Path, fake: FakeRegistry) -> None:
    reference = fake.artifact("team/model", LAYERS)
    with ApiServer(tmp_path) as api, api.driver(short_path) as driver:
        volume = Volume(driver)
        uid = volume.target.parents[3].name
        volume.publish(reference=reference, **pod_context(name="web-0", namespace="team-a", uid=uid))
        rot(stored(driver, volume.target / "blob"))
        assert verify(driver.state)[0] == 1
        *_, (_, message) = api.wait("Pulling", "Pulled", "Corrupt")
        assert reference in message
        assert sha256(WHOLE) in message
        event = api.events[-1]
        pod = {"apiVersion": "v1", "kind": "Pod", "name": "web-0", "namespace": "team-a", "uid": uid}
        assert (event["type"], event["involvedObject"]) == ("Warning", pod)
        volume.unpublish()


def test_verify_of_no_store_makes_none(tmp_path: Path) -> None:
    assert verify(tmp_path / "state") == (0, {"checked": 0, "bytes": 0, "corrupt": []})
    assert not (tmp_path / "state").exists()


def test_verify_says_to_people_what_is_corrupt_and_what_becomes_of_it(driver: Driver, first: Volume) -> None:
    command = [sys.executable, "-m", "csi_oras", "store", "verify", "--state-dir", str(driver.state)]
    whole = subprocess.run(command, check=True, capture_output=True, text=True)
    assert whole.stdout.endswith(": all of it is true\n")
    rot(stored(driver, first.target / "blob"))
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ended.returncode == 1
    assert f"corrupt blob {sha256(WHOLE)}: set aside, the next volume fetches it again\n" in ended.stdout
    assert ended.stdout.endswith(": 1 corrupt\n")


def test_verify_draws_a_bar_where_there_is_a_terminal(driver: Driver, first: Volume) -> None:
    assert first.mounts == 1
    command = f"{sys.executable} -m csi_oras store verify --state-dir {driver.state}"
    drawn = subprocess.run(["script", "-qec", command, "/dev/null"], check=True, capture_output=True, text=True)
    assert "━" in drawn.stdout
    assert ": all of it is true" in drawn.stdout


def test_archive_that_rotted_is_not_unpacked_for_another_selection_and_comes_anew(
    driver: Driver, fake: FakeRegistry
) -> None:
    archive = gzip.compress(tar(reg("data/a", b"a" * 5000), reg("data/b", b"b" * 5000)))
    layer = Layer(content=archive, title="data", annotations={UNPACK: "true"})
    reference = fake.artifact("team/plain", [layer])
    first, second = Volume(driver), Volume(driver)
    first.publish(reference=reference, include="data/a")
    (blob,) = driver.state.glob(f"blobs/sha256/{sha256(archive).removeprefix('sha256:')}")
    rot(blob, archive[:-20] + bytes(20))
    with refused(grpc.StatusCode.UNAVAILABLE, "rotted"):
        second.publish(reference=reference, include="data/b")
    second.publish(reference=reference, include="data/b")
    assert (second.target / "data/b").read_bytes() == b"b" * 5000
    for volume in (first, second):
        volume.unpublish()
