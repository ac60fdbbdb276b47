"""`store ls` and `store du` as a person or a script runs them, beside a driver and without one."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.artifacts import Layer, Pusher, files
from tests.support.driver import Driver
from tests.support.loop_disk import loop_disk

pytestmark = pytest.mark.needs("registry")
_LARGE = 1 << 20
_SIF = "application/vnd.sylabs.sif.layer.v1.sif"


def run(state: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "csi_oras", *arguments, "--state-dir", str(state)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr
    return ended.stdout


def document(state: Path, *arguments: str) -> Any:
    said = run(state, *arguments, "--json")
    assert said.count("\n") == 1
    return json.loads(said)


def du(path: Path) -> int:
    """Return the bytes on disk, each file once, as somebody else counts them."""
    said = subprocess.run(["du", "--block-size=1", "-s", path], capture_output=True, text=True, check=True).stdout
    return int(said.split()[0])


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def pair(pusher: Pusher, repository: str) -> tuple[str, str]:
    """Two versions that have a file in common, which the first has twice."""
    shared, one, two = (os.urandom(_LARGE) for _ in range(3))
    return (
        pusher.artifact(repository, files(same=shared, again=shared, f=one), "v1"),
        pusher.artifact(repository, files(same=shared, f=two), "v2"),
    )


# -- ls


@pytest.mark.needs("root")
def test_ls_says_what_keeps_an_artifact_and_when_it_was_used(short_path: Path, pair: tuple[str, str]) -> None:
    with Driver(short_path) as driver:
        run(driver.state, "pull", pair[0])
        targets = [driver.target(name) for name in ("one", "two")]
        for target in targets:
            driver.publish(target, volume_id=target.parent.name, reference=pair[1])
        lines = run(driver.state, "store", "ls").splitlines()
        assert lines[0].split() == ["DIGEST", "SIZE", "LAST", "USED", "KEPT", "REFERENCES"]
        assert [line.split()[1:] for line in lines[1:]] == [
            ["2.1", "MB", "just", "now", "shown", "by", "2", "volumes", pair[1]],
            ["3.1", "MB", "just", "now", pair[0]],
        ]
        for target in targets:
            driver.unpublish(target, volume_id=target.parent.name)
        assert "volume" not in run(driver.state, "store", "ls")


def test_ls_of_an_artifact_whose_tree_is_gone_has_no_local_bytes(state: Path, pair: tuple[str, str]) -> None:
    for reference in pair:
        run(state, "pull", reference)
    run(state, "pull", pair[1], "--include", "f")
    before = {found["references"][0]: (found["bytes"], found["localBytes"]) for found in document(state, "store", "ls")}
    assert before == {pair[0]: (3 * _LARGE, 3 * _LARGE), pair[1]: (2 * _LARGE, 2 * _LARGE)}
    for tree in (state / "trees").iterdir():
        if len(list(tree.iterdir())) > 1:
            tree.rename(state / "staging" / tree.name)
    after = {found["references"][0]: found["localBytes"] for found in document(state, "store", "ls")}
    assert after == {pair[0]: 0, pair[1]: _LARGE}
    assert "1.0 MB of 2.1 MB" in run(state, "store", "ls")


@pytest.mark.parametrize("command", ["ls", "du"])
def test_look_at_no_store_makes_none(state: Path, command: str) -> None:
    assert run(state, "store", command) != ""
    document(state, "store", command)
    assert not state.exists()


# -- du


def test_du_says_what_is_shown_and_what_it_takes(state: Path, pair: tuple[str, str]) -> None:
    for reference in pair:
        run(state, "pull", reference)
    found = document(state, "store", "du")
    assert set(found) == {
        "diskBytes", "shownBytes", "savedBytes", "blobs", "objects", "notShown", "unfinishedBytes", "otherBytes",
        "artifacts",
    }  # fmt: skip
    assert found["shownBytes"] == 5 * _LARGE
    assert found["savedBytes"] == {"links": 2 * _LARGE, "reflinks": 0}
    assert abs(found["diskBytes"] - du(state)) < 200_000  # the database's log goes when the command ends
    assert found["objects"] == {"count": 0, "bytes": 0}
    assert found["notShown"]["count"] == 2  # the manifests
    assert found["blobs"]["count"] == 5
    assert found["blobs"]["bytes"] == 3 * _LARGE + found["notShown"]["bytes"]
    content = found["blobs"]["bytes"] + found["objects"]["bytes"] + found["unfinishedBytes"] + found["otherBytes"]
    assert found["diskBytes"] == content
    shown = {artifact["references"][0]: artifact["shownBytes"] for artifact in found["artifacts"]}
    assert shown == {pair[0]: 3 * _LARGE, pair[1]: 2 * _LARGE}
    for artifact in found["artifacts"]:
        assert 0 <= artifact["ownBytes"] - _LARGE < 50_000
        assert 0 <= artifact["sharedBytes"] - _LARGE < 50_000


def test_du_for_people_is_the_largest_first_and_then_the_sums(state: Path, pair: tuple[str, str]) -> None:
    for reference in pair:
        run(state, "pull", reference)
    run(state, "pull", pair[1], "--include", "f")
    table, sums = run(state, "store", "du").split("\n\n")
    lines = [line.split() for line in table.splitlines()]
    assert lines[0] == ["DIGEST", "SHOWN", "OWN", "SHARED", "REFERENCES"]
    assert [(line[1:3], line[-1]) for line in lines[1:]] == [
        (["3.1", "MB"], pair[1]),  # with the tree of its selection
        (["3.1", "MB"], pair[0]),
    ]
    assert re.search(r"^shown +6.3 MB", sums, re.MULTILINE)
    assert re.search(r"^saved by links +3.1 MB", sums, re.MULTILINE)
    assert re.search(r"^saved by reflinks +0 bytes", sums, re.MULTILINE)
    assert "\x1b" not in table + sums


@pytest.mark.needs("root")
def test_du_counts_what_reflinks_save(tmp_path: Path, pusher: Pusher, repository: str) -> None:
    """An image of Apptainer is a program, and so no link to its blob."""
    layer = Layer(content=os.urandom(_LARGE), title="app.sif", media_type=_SIF)
    reference = pusher.artifact(repository, [layer])
    with loop_disk(tmp_path / "disk", "mkfs.btrfs", "-q"):
        state = tmp_path / "disk/state"
        run(state, "pull", reference)
        found = document(state, "store", "du")
        assert found["savedBytes"] == {"links": 0, "reflinks": _LARGE}
        assert found["shownBytes"] == _LARGE
        assert found["diskBytes"] < 1.5 * _LARGE
        assert (state / "views" / pusher.address / repository / "v1/app.sif").read_bytes() == layer.content
    assert _LARGE <= found["artifacts"][0]["ownBytes"] < 1.5 * _LARGE


@pytest.mark.needs("root")
def test_metrics_tell_what_is_shown_and_saved(short_path: Path, pair: tuple[str, str]) -> None:
    for reference in pair:
        run(short_path / "state", "pull", reference)
    with Driver(short_path) as driver:
        deadline = time.monotonic() + 30
        while 'csi_oras_store_saved_bytes{by="reflinks"}' not in (found := driver.metrics()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert found["csi_oras_store_shown_bytes"] == 5 * _LARGE
    assert found['csi_oras_store_saved_bytes{by="links"}'] == 2 * _LARGE
    assert found['csi_oras_store_saved_bytes{by="reflinks"}'] == 0
