"""`store prefetch` as a person and a program see it, beside a driver and without one."""

import json
from pathlib import Path

import pytest

from tests.support.artifacts import Pusher, files, manifest, sha256
from tests.support.driver import Driver
from tests.support.volume import Volume
from tests.support.wishing import WishList, command, rows, wait_for_states

pytestmark = pytest.mark.needs("registry")


@pytest.fixture
def wishes(short_path: Path) -> WishList:
    return WishList(short_path)


def test_wish_that_was_never_tried_waits_and_looking_makes_nothing(wishes: WishList, tmp_path: Path) -> None:
    wishes.set("registry.example/a:v1", "registry.example/b:v*")
    found = rows(tmp_path / "state", "--config", str(wishes.path))
    waiting = {"digest": "", "state": "waiting", "updated": None, "error": "", "label": ""}
    assert list(found.values()) == [
        {"reference": "registry.example/a:v1", **waiting},
        {"reference": "registry.example/b:v*", **waiting},
    ]
    assert not (tmp_path / "state").exists()


def test_now_brings_everything_without_a_driver_and_ends_with_1_if_one_failed(
    wishes: WishList, tmp_path: Path, pusher: Pusher, repository: str
) -> None:
    layers = files(x=b"x")
    reference = pusher.artifact(repository, layers)
    missing = f"{pusher.address}/{repository}:none"
    options = ("--config", str(wishes.path), "--json")
    wishes.set(reference, missing)
    said = command(tmp_path / "state", "--now", *options)
    assert said.returncode == 1
    ready, failed = sorted(json.loads(said.stdout), key=lambda row: str(row["state"]), reverse=True)
    assert (ready["reference"], ready["digest"]) == (reference, sha256(manifest(layers)))
    assert (ready["state"], ready["error"]) == ("ready", "")
    assert ready["updated"].endswith("Z")
    assert (failed["reference"], failed["state"], failed["digest"]) == (missing, "failed", "")
    assert missing in failed["error"]
    wishes.set(reference)
    said = command(tmp_path / "state", "--now", *options)
    assert (said.returncode, [row["state"] for row in json.loads(said.stdout)]) == (0, ["ready"])


@pytest.mark.needs("root")
def test_now_beside_a_driver_is_seen_by_both(
    wishes: WishList, short_path: Path, pusher: Pusher, repository: str
) -> None:
    reference = pusher.artifact(repository, files(x=b"old"))
    wishes.set(reference, every="1h")
    with wishes.driver(short_path) as driver:
        wait_for_states(driver.state, {reference: "ready"})
        pusher.artifact(repository, files(x=b"new"))
        assert command(driver.state, "--now", "--config", str(wishes.path)).returncode == 0
        volume = Volume(driver)
        volume.publish(reference=reference)
        assert (volume.target / "x").read_bytes() == b"new"
        volume.unpublish()


def test_table_is_for_people(wishes: WishList, tmp_path: Path, pusher: Pusher, repository: str) -> None:
    layers = files(x=b"x")
    reference = pusher.artifact(repository, layers)
    wishes.set(reference, reference.replace(":v1", ":w*"))
    said = command(tmp_path / "state", "--now", "--config", str(wishes.path))
    head, *lines = said.stdout.splitlines()
    assert head.split() == ["REFERENCE", "STATE", "DIGEST", "UPDATED", "ERROR"]
    ready, failed = sorted(lines)
    assert ready.split()[:2] == [reference, "ready"]
    assert ready.split()[2] == sha256(manifest(layers)).removeprefix("sha256:")[:12]
    assert failed.split()[:2] == [reference.replace(":v1", ":w*"), "failed"]
    assert "none of 1 tags matches" in failed
    assert command(tmp_path / "none").stdout == "node policy wishes for nothing\n"


def test_now_without_a_policy_lets_go_of_nothing(
    wishes: WishList, tmp_path: Path, pusher: Pusher, repository: str
) -> None:
    reference = pusher.artifact(repository, files(x=b"x"))
    wishes.set(reference)
    state = tmp_path / "state"
    assert command(state, "--now", "--config", str(wishes.path)).returncode == 0
    said = command(state, "--now")
    assert said.returncode == 2
    assert "--now goes with --config" in said.stderr
    assert [row["state"] for row in rows(state).values()] == ["ready"]


def test_policy_that_is_wrong_is_told_with_its_line(wishes: WishList, tmp_path: Path) -> None:
    wishes.set("registry.example/*:v1")
    said = command(tmp_path / "state", "--config", str(wishes.path))
    assert said.returncode == 1
    assert "line 1" in said.stderr


@pytest.mark.needs("root")
def test_driver_does_not_start_on_what_is_no_wish(wishes: WishList, short_path: Path) -> None:
    wishes.set("registry.example/a:v1@v2*")
    with (
        pytest.raises(AssertionError, match=r"the driver ended: .*line 1.*prefetch\.reference"),
        Driver(short_path, "--config", str(wishes.path)),
    ):
        pass
