"""`outbox` as a person or a script runs it, beside a driver and without one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from csi_oras.oci.media_types import REF_NAME
from csi_oras.store.outbox import EntryState, OutboxEntry, OutboxState
from tests.support.artifacts import Pusher, files
from tests.support.driver import Driver
from tests.support.fake_registry import FakeRegistry
from tests.support.interop import read_layout
from tests.support.outboxes import Outboxing, kept
from tests.support.outside import contents
from tests.support.pods import wait_for

pytest_plugins = ["tests.support.outbox_fixtures"]
pytestmark = pytest.mark.needs("registry", "root")


def ended(state: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "csi_oras", "outbox", *arguments, "--state-dir", str(state)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def run(state: Path, *arguments: str) -> str:
    found = ended(state, *arguments)
    assert (found.returncode, found.stderr) == (0, ""), found.stderr
    return found.stdout


def document(state: Path, *arguments: str) -> Any:
    said = run(state, *arguments, "--json")
    assert said.count("\n") == 1
    return json.loads(said)


@pytest.fixture
def target(pusher: Pusher, repository: str) -> str:
    return f"{pusher.address}/{repository}:out"


@pytest.fixture
def stuck(at: Outboxing, target: str) -> OutboxEntry:
    """An entry that nothing can push as it is."""
    entry = at.capture(target, {"a": b"12345"})
    os.mkfifo(entry.writing.upper / "pipe")
    at.failure(entry)
    wait_for(lambda: not entry.is_locked())
    return entry


def test_ls_of_no_store_makes_none(tmp_path: Path) -> None:
    assert run(tmp_path / "none", "ls") == "the outbox is empty\n"
    assert document(tmp_path / "none", "ls") == []
    assert not (tmp_path / "none").exists()
    assert ended(tmp_path / "none", "drop", "x", "--yes").returncode == 1


def test_ls_says_what_waits_and_why(at: Outboxing, target: str, stuck: OutboxEntry) -> None:
    at.capture(target, {"b": b"12"})
    failed, waiting = document(at.state, "ls")
    assert failed.pop("error").endswith("leave these out with writeBackExclude the next time")
    assert failed == {
        "id": stuck.id, "reference": target, "state": "failed", "attempts": 1, "namespace": "team", "pod": "writer",
        "bytes": 5,
    }  # fmt: skip
    assert (waiting["state"], waiting["attempts"], waiting["error"], waiting["bytes"]) == ("waiting", 0, "", 2)
    said = run(at.state, "ls")
    assert "team/writer" in said
    assert '"pipe" is a FIFO' in said


def test_ls_shows_an_entry_that_nothing_is_known_of(at: Outboxing, stuck: OutboxEntry) -> None:
    (stuck.writing.directory / "volume.json").unlink()
    (stuck.writing.directory / "state.json").unlink()
    (row,) = document(at.state, "ls")
    assert (row["id"], row["reference"], row["state"], row["bytes"]) == (stuck.id, "", "waiting", 5)
    assert row["error"]


def test_ls_shows_the_others_beside_an_entry_that_cannot_be_read(at: Outboxing, stuck: OutboxEntry) -> None:
    (at.state / "outbox" / "zz").mkdir()
    found, broken = document(at.state, "ls")
    assert (found["id"], found["bytes"]) == (stuck.id, 5)
    assert (broken["id"], broken["bytes"], "No such file" in broken["error"]) == ("zz", 0, True)


def test_retry_now_pushes_without_a_driver(at: Outboxing, target: str, stuck: OutboxEntry) -> None:
    found = ended(at.state, "retry", "--now")
    assert found.returncode == 1
    assert '"pipe" is a FIFO' in found.stdout
    assert stuck.state().attempts == 2
    (stuck.writing.upper / "pipe").unlink()
    (row,) = document(at.state, "retry", stuck.id, "--now")
    assert (row["error"], row["reference"]) == ("", str(at.pull(target)[0].reference))
    assert (at.pull(target)[0].path / "a").read_bytes() == b"12345"
    assert document(at.state, "ls") == []
    assert document(at.state, "retry") == []


def test_driver_pushes_what_is_retried(
    at: Outboxing, target: str, stuck: OutboxEntry, short_path: Path, tmp_path: Path
) -> None:
    at.close()
    (short_path / "state").symlink_to(at.state)
    with Driver(short_path) as driver:
        assert driver.metrics()['csi_oras_outbox_entries{state="failed"}'] == 1
        (stuck.writing.upper / "pipe").unlink()
        expected = {"id": stuck.id, "reference": "", "error": "", "pushing": False}
        assert document(at.state, "retry", stuck.id) == [expected]
        wait_for(lambda: not stuck.writing.directory.exists())
        wait_for(lambda: driver.metrics().get('csi_oras_outbox_pushes_total{outcome="ok"}') == 1)
    reader = Outboxing(tmp_path / "reader")
    assert (reader.pull(target)[0].path / "a").read_bytes() == b"12345"
    reader.close()


def test_export_gives_the_files_as_the_pod_left_them(at: Outboxing, pusher: Pusher, repository: str, target: str,
                                                     tmp_path: Path) -> None:  # fmt: skip
    _, base = at.pull(pusher.artifact(repository, files(old=b"old", gone=b"gone", kept=b"kept")))
    entry = at.capture(target, {"old": b"new", "d/e/f": b"deep", "gone": None}, base=base)
    (entry.writing.upper / "run").write_bytes(b"#!")
    (entry.writing.upper / "run").chmod(0o700)
    (entry.writing.upper / "link").symlink_to("d/e")
    os.mkfifo(entry.writing.upper / "pipe")
    to = tmp_path / "to"
    found = document(at.state, "export", entry.id, "--to", str(to))
    assert found["left"] == [{"name": "pipe", "reason": "is a FIFO"}]
    assert {path.name: path.read_bytes() for path in to.rglob("*") if path.is_file() and not path.is_symlink()} == {
        "old": b"new", "kept": b"kept", "f": b"deep", "run": b"#!",
    }  # fmt: skip
    assert (to / "link").readlink() == Path("d/e")
    assert os.access(to / "run", os.X_OK)
    assert kept(entry.writing)["old"] == b"new"
    again = ended(at.state, "export", entry.id, "--to", str(to))
    assert again.returncode == 1
    assert "is not empty" in again.stderr


def test_export_of_holes_takes_no_room(at: Outboxing, stuck: OutboxEntry, tmp_path: Path) -> None:
    for name, content, size in (("all", b"", 1 << 40), ("end", b"end", 1 << 40), ("within", b"x" * 5000, 1 << 40)):
        with (stuck.writing.upper / name).open("wb") as file:
            file.truncate(size)
            file.seek({"all": 0, "end": size - 3, "within": 1 << 30}[name])
            file.write(content)
    to = tmp_path / "to"
    run(at.state, "export", stuck.id, "--to", str(to))
    assert {path.name: path.stat().st_size for path in to.iterdir()} == {
        "a": 5, "all": 1 << 40, "end": 1 << 40, "within": 1 << 40,
    }  # fmt: skip
    assert sum(path.stat().st_blocks * 512 for path in to.iterdir()) < 1 << 20
    with (to / "within").open("rb") as file:
        file.seek((1 << 30) - 1)
        assert file.read(5002) == b"\0" + b"x" * 5000 + b"\0"
    with (to / "end").open("rb") as file:
        file.seek((1 << 40) - 4)
        assert file.read() == b"\0end"


@pytest.mark.parametrize("lost", ["record", "base"])
def test_export_gives_what_was_written_whatever_became_of_record_and_base(
    at: Outboxing, target: str, tmp_path: Path, lost: str
) -> None:
    with FakeRegistry() as gone:
        _, base = at.pull(gone.artifact("t/base", files(old=b"old", kept=b"kept")))
    entry = at.capture(target, {"old": b"new", "d/e": b"deep", "kept": None}, base=base)
    if lost == "record":
        (entry.writing.directory / "volume.json").write_bytes(b"{")
    else:
        shutil.rmtree(at.state / "trees")
        shutil.rmtree(at.state / "blobs")
    failed = ended(at.state, "export", entry.id, "--to", str(tmp_path / "whole"))
    assert failed.returncode == 1
    assert lost == "base" or "--written" in failed.stderr
    assert document(at.state, "export", entry.id, "--to", str(tmp_path / "to"), "--written")["files"] == 2
    assert contents(tmp_path / "to") == {"old": b"new", "d/e": b"deep"}


def test_export_as_a_layout_is_what_would_be_pushed(at: Outboxing, pusher: Pusher, repository: str, target: str,
                                                    tmp_path: Path) -> None:  # fmt: skip
    _, base = at.pull(pusher.artifact(repository, files(old=b"old", gone=b"gone", kept=b"kept")))
    entry = at.capture(target, {"old": b"new", "gone": None}, base=base)
    os.mkfifo(entry.writing.upper / "pipe")
    to = tmp_path / "to"
    found = document(at.state, "export", entry.id, "--to", str(to), "--oci")
    assert found["left"] == [{"name": "pipe", "reason": "is a FIFO"}]
    assert read_layout(to) == {"kept": b"kept", "old": b"new"}
    (named,) = json.loads((to / "index.json").read_text())["manifests"]
    assert named["annotations"] == {REF_NAME: found["tag"]} == {REF_NAME: "out"}
    assert kept(entry.writing)["old"] == b"new"
    assert "is not empty" in ended(at.state, "export", entry.id, "--to", str(to), "--oci").stderr
    (entry.writing.upper / "pipe").unlink()
    assert str(at.push(entry)) == named["digest"] == found["digest"]


def test_export_as_a_layout_of_what_nobody_changed_is_the_base(at: Outboxing, pusher: Pusher, repository: str,
                                                               target: str, tmp_path: Path) -> None:  # fmt: skip
    pulled, base = at.pull(pusher.artifact(repository, files(a=b"a", b=b"b")))
    entry = at.capture(target, {}, base=base)
    found = document(at.state, "export", entry.id, "--to", str(tmp_path / "to"), "--oci")
    assert found["digest"] == str(pulled.artifact)
    assert read_layout(tmp_path / "to") == {"a": b"a", "b": b"b"}  # what the volume did not show is fetched


def test_drop_wants_yes_and_takes_all(at: Outboxing, stuck: OutboxEntry) -> None:
    assert ended(at.state, "drop", stuck.id).returncode == 2
    assert stuck.writing.directory.exists()
    assert document(at.state, "drop", stuck.id, "--yes") == {"id": stuck.id}
    assert list((at.state / "outbox").iterdir()) == []
    gone = ended(at.state, "drop", stuck.id, "--yes")
    assert (gone.returncode, gone.stderr.count("\n")) == (1, 1)
    assert "is not in the outbox" in gone.stderr


def test_commands_leave_alone_what_is_being_pushed(at: Outboxing, target: str, tmp_path: Path) -> None:
    entry = at.capture(target, {"a": b"1"})
    entry.save(OutboxState(state=EntryState.PUSHING))
    assert document(at.state, "ls")[0]["state"] == "waiting"  # for whoever pushed it was killed
    with entry.locked():
        assert document(at.state, "ls")[0]["state"] == "pushing"
        for arguments in (["drop", entry.id, "--yes"], ["export", entry.id, "--to", str(tmp_path / "to")]):
            found = ended(at.state, *arguments)
            assert found.returncode == 1
            assert "is being pushed at this moment; try again when that attempt ends" in found.stderr
        assert ended(at.state, "retry", entry.id).returncode == 1
    assert kept(entry.writing) == {"a": b"1"}


def test_retry_of_all_leaves_alone_what_is_being_pushed_and_retries_the_others(
    at: Outboxing, target: str, stuck: OutboxEntry
) -> None:
    entry = at.capture(target, {"a": b"1"})
    with entry.locked():
        assert run(at.state, "retry") == f"{stuck.id}  is tried again\n{entry.id}  is being pushed at this moment\n"
        found = {row["id"]: row for row in document(at.state, "retry")}
    assert (found[entry.id]["pushing"], found[stuck.id]["pushing"]) == (True, False)
    assert stuck.state().state is EntryState.WAITING
