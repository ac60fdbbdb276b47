"""The outbox: what a pod wrote is in its registry in the end, once, under its tag or beside it, or is kept."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from csi_oras.errors import (
    AccessDeniedError,
    ContentChangedError,
    LimitExceededError,
    RegistryUnavailableError,
    UnauthenticatedError,
    UnsupportedContentError,
    VolumeBusyError,
    VolumeNotFoundError,
)
from csi_oras.oci.digest import Digest
from csi_oras.registry.credentials import to_text
from csi_oras.store.outbox import EntryState, OutboxEntry, OutboxState
from csi_oras.telemetry.events import Reason
from csi_oras.transfer.outbox import MOST_DEATHS, MOST_REFUSALS
from tests.support.artifacts import files, manifest, sha256
from tests.support.fake_registry import FakeRegistry
from tests.support.fake_server import Answer, Request, status
from tests.support.fakes import user
from tests.support.outboxes import Outboxing, kept, tags, titles
from tests.support.overlays import Overlay
from tests.support.pods import wait_for
from tests.support.small_disk import small_disk

pytest_plugins = ["tests.support.fake_fixtures", "tests.support.outbox_fixtures"]
pytestmark = pytest.mark.needs("root")  # who makes a whiteout has to be

UPLOADS = "/blobs/uploads/"


def test_tag_that_means_what_it_did_is_moved_and_another_is_left_alone(
    at: Outboxing, fake: FakeRegistry, target: str
) -> None:
    before = Digest.parse(sha256(manifest(files(x=b"x"))))
    fake.artifact("t/out", files(x=b"x"))
    first = at.capture(target, {"a": b"1"}, meant=before)
    late = at.capture(target, {"a": b"2"}, meant=before)
    digest = at.push(first)
    second = at.push(late)
    assert sha256(fake.manifests["t/out"]["v1"][0]) == str(digest)
    assert tags(fake) == {"v1", f"v1-{second.encoded[:12]}"}
    assert titles(fake, f"v1-{second.encoded[:12]}") == {"a": b"2"}
    assert at.told[-1][0] is Reason.TAG_MOVED


@pytest.mark.parametrize("path", ["/manifests/v1$", "/manifests/sha256:"])
def test_what_is_written_late_is_pushed_too_and_the_tag_moves_on(
    at: Outboxing, fake: FakeRegistry, target: str, tmp_path: Path, path: str
) -> None:
    overlay = Overlay(tmp_path / "late")  # whoever has it bound elsewhere can write when the volume is unmounted
    late = tmp_path / "bound"
    late.mkdir()
    with ExitStack() as stack:
        volume = replace(at.volume(target), exclude=("*.log",))
        writing = at.app.writable.make(volume, to_text(None))
        overlay.upper, overlay.work = writing.upper, writing.work
        with overlay.mounted() as shown:
            (shown / "a").write_bytes(b"1")
            (shown / "b.log").write_bytes(b"1")
            subprocess.run(["mount", "--bind", shown, late], check=True)
            stack.callback(lambda: subprocess.run(["umount", late], check=True))
        entry = OutboxEntry(at.app.writable.capture(writing))

        def write(name: str) -> Callable[[Request, Answer], Answer]:
            def bend(_request: Request, answer: Answer) -> Answer:
                (late / name).write_bytes(b"22")
                return answer

            return bend

        fake.bend(path, write("a"), times=1, method="PUT")
        with pytest.raises(ContentChangedError, match="written to while it was pushed"):
            at.outbox.attempt(entry)
        fake.straighten()
        fake.bend(path, write("b.log"), times=1, method="PUT")
        at.outbox.attempt(entry)
    assert titles(fake) == {"a": b"22"}
    assert tags(fake) == {"v1"}
    assert not entry.writing.directory.exists()


def test_twenty_writers_of_one_tag_lose_nothing(at: Outboxing, fake: FakeRegistry, target: str) -> None:
    entries = [at.capture(target, {"a": str(number).encode()}) for number in range(20)]
    futures = [at.outbox.begin(entry.writing) for entry in entries]
    digests = {future.result(100) for future in futures}
    assert len(tags(fake)) == 20
    assert {titles(fake, tag)["a"] for tag in tags(fake)} == {str(number).encode() for number in range(20)}
    assert {sha256(fake.manifests["t/out"][tag][0]) for tag in tags(fake)} == {str(digest) for digest in digests}


def test_push_that_was_killed_before_its_entry_went_is_done_and_sends_nothing(
    fake: FakeRegistry, target: str, tmp_path: Path
) -> None:
    at = Outboxing(tmp_path / "node")
    entry = at.capture(target, {"a": b"1", "b/link": b"2"})
    copy = at.state / "copy"
    shutil.copytree(entry.writing.directory, copy, symlinks=True)
    digest = at.push(entry)
    sent = fake.count(UPLOADS, "POST")
    copy.rename(entry.writing.directory)
    again = at.restart(tmp_path / "node")
    assert again.push(entry) == digest
    assert fake.count(UPLOADS, "POST") == sent
    assert tags(fake) == {"v1"}
    again.close()


def test_registry_that_is_down_is_tried_until_it_is_back(at: Outboxing, fake: FakeRegistry, target: str) -> None:
    entry = at.capture(target, {"a": b"1"})
    fake.bend("/v2/", status(503), times=8)
    future = at.outbox.begin(entry.writing)
    assert isinstance(future.exception(60), RegistryUnavailableError)  # nobody waits for longer
    state = entry.state()
    assert (state.state, state.attempts) == (EntryState.WAITING, 1)
    assert kept(entry.writing) == {"a": b"1"}
    at.resume()
    at.retry(entry)
    wait_for(lambda: not entry.writing.directory.exists())
    assert titles(fake) == {"a": b"1"}


def test_registry_that_is_back_has_at_once_what_waits_for_it(at: Outboxing, fake: FakeRegistry, target: str) -> None:
    waiting = at.capture(target, {"a": b"1"})
    waiting.save(OutboxState(attempts=9, error="is unreachable", due=time.time() + 300))
    at.push(at.capture(f"{fake.address}/t/other:v1", {"b": b"2"}))
    at.outbox.look()
    wait_for(lambda: not waiting.writing.directory.exists())
    assert titles(fake) == {"a": b"1"}


def test_full_disk_that_takes_no_note_of_an_attempt_does_not_shorten_the_pauses(
    fake: FakeRegistry, target: str, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "8m") as disk:
        at = Outboxing(tmp_path / "disk" / "node")
        entry = at.capture(target, {"d/file": b"1"})
        (entry.writing.upper / "d/link").symlink_to("file")  # has to be packed
        disk.fill()
        began = time.monotonic()
        at.outbox.begin(entry.writing)
        at.resume()
        wait_for(lambda: fake.count("/manifests/v1", "HEAD") >= 3)
        assert time.monotonic() - began > 0.75 + 1.5  # and not as often as somebody looks
        disk.clear()
        wait_for(lambda: _is_retried(entry))
        wait_for(lambda: not entry.writing.directory.exists())
        at.close()


def _is_retried(entry: OutboxEntry) -> bool:
    """Retry an entry unless it is being pushed; one that is gone has been tried again already."""
    try:
        entry.retry()
    except VolumeBusyError:
        return False
    except VolumeNotFoundError:
        pass
    return True


def test_nothing_is_hashed_for_a_registry_that_is_not_there(at: Outboxing) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        reference = f"127.0.0.1:{closed.getsockname()[1]}/t/out:v1"
    entry = at.capture(reference, {"a": b"1"})
    accessed = (entry.writing.upper / "a").stat().st_atime_ns
    at.outbox.begin(entry.writing)
    wait_for(lambda: entry.state().error != "")
    assert (entry.writing.upper / "a").stat().st_atime_ns == accessed


def test_what_a_former_process_left_is_pushed(fake: FakeRegistry, target: str, tmp_path: Path) -> None:
    at = Outboxing(tmp_path / "node")
    _, base = at.pull(fake.artifact("t/base", files(a=b"1")))
    entry = at.capture(target, {"b": b"2"}, base=base)
    entry.save(entry.state().__class__(state=EntryState.PUSHING, attempts=1))  # killed in the middle
    again = at.restart(tmp_path / "node")
    again.resume()
    wait_for(lambda: again.states == [])
    assert titles(fake) == {"a": b"1", "b": b"2"}
    again.close()


_PUSHES = """
import sys, threading
from pathlib import Path
from csi_oras import config
from csi_oras.app import Application
from csi_oras.transfer.outbox import tell_nobody
Application(Path(sys.argv[1]), config.load(None)).outbox(tell_nobody).look()
threading.Event().wait()
"""


def test_attempts_that_killed_their_process_are_counted_until_one_ends(
    at: Outboxing, fake: FakeRegistry, target: str
) -> None:
    entry = at.capture(target, {"a": b"1"})
    ended = threading.Event()
    for number in range(1, 4):
        reached = threading.Event()

        def hold(_request: Request, answer: Answer, reached: threading.Event = reached) -> Answer:
            reached.set()
            ended.wait(30)
            return answer

        fake.bend(UPLOADS, hold, times=1)
        with subprocess.Popen([sys.executable, "-c", _PUSHES, str(at.state)]) as killed:
            assert reached.wait(30)
            assert (entry.state().state, entry.state().deaths) == (EntryState.PUSHING, number - 1)
            killed.kill()
    ended.set()
    fake.bend(UPLOADS, status(403), times=1)
    at.outbox.begin(entry.writing)
    wait_for(lambda: entry.state().refusals == 1)
    assert entry.state().deaths == 0


def test_entry_that_kills_its_driver_again_and_again_is_given_up(
    at: Outboxing, fake: FakeRegistry, target: str
) -> None:
    entry = at.capture(target, {"a": b"1"})
    entry.save(OutboxState(state=EntryState.PUSHING, attempts=25, deaths=MOST_DEATHS - 1))
    error = at.failure(entry)
    assert isinstance(error, LimitExceededError)
    assert "killed 20 times in a row" in error.message
    assert entry.state().state is EntryState.FAILED
    assert fake.requests == []
    wait_for(lambda: _is_retried(entry))
    assert at.push(entry)


def test_refusals_are_believed_after_some_and_a_retry_pushes(at: Outboxing, fake: FakeRegistry, target: str) -> None:
    entry = at.capture(target, {"a": b"1"})
    fake.bend(UPLOADS, status(403), times=MOST_REFUSALS)
    future = at.outbox.begin(entry.writing)
    at.resume()
    for number in range(1, MOST_REFUSALS):
        wait_for(lambda number=number: entry.state().refusals == number)  # type: ignore[misc]
        at.retry(entry)
    assert isinstance(future.exception(60), AccessDeniedError)
    wait_for(lambda: entry.state().state is EntryState.FAILED and bool(at.told))
    assert kept(entry.writing) == {"a": b"1"}
    assert at.told[-1][0] is Reason.PUSH_FAILED
    assert entry.id in at.told[-1][1]
    at.outbox.look()
    assert fake.count(UPLOADS, "POST") == MOST_REFUSALS
    sent: list[int] = []

    def is_pushed() -> bool:
        with suppress(VolumeBusyError):  # who waits is told a moment before the attempt lets go of the entry
            sent.append(at.outbox.attempt(entry).sent)
        return bool(sent)

    wait_for(is_pushed)
    assert sent == [1]
    assert titles(fake) == {"a": b"1"}


def test_credential_of_the_publish_is_used_and_goes_with_the_entry(
    at: Outboxing, fake: FakeRegistry, target: str
) -> None:
    fake.require_basic("me", "right")
    entry = at.capture(target, {"a": b"1"}, credential=user("me", "right"))
    at.push(entry)
    assert titles(fake) == {"a": b"1"}
    revoked = at.capture(target, {"a": b"2"}, credential=user("me", "wrong"))
    with pytest.raises(UnauthenticatedError, match=r"refuses the credential.*outbox retry; or.*outbox export --oci"):
        at.outbox.attempt(revoked)
    assert (revoked.state().refusals, "correct the secret" in revoked.state().error) == (1, False)
    none = at.capture(target, {"a": b"3"})
    with pytest.raises(UnauthenticatedError, match=r"wants a credential.*outbox export --oci"):
        at.outbox.attempt(none)


def test_credential_that_is_refused_the_base_says_what_helps(at: Outboxing, fake: FakeRegistry, target: str) -> None:
    fake.require_basic("me", "right")
    _, base = at.pull(fake.artifact("t/base", files(a=b"1")), user("me", "right"))
    entry = at.capture(target, {"b": b"2"}, base=base, credential=user("me", "wrong"))
    shutil.rmtree(at.app.paths.tree(base.plan))
    with (
        pytest.raises(UnauthenticatedError, match=r"outbox export --oci \(or --written\)"),
        at.app.volume_pusher().opened(entry.writing),
    ):
        pass


def test_what_no_artifact_can_carry_fails_at_once_and_is_named(at: Outboxing, fake: FakeRegistry, target: str) -> None:
    entry = at.capture(target, {"a": b"1"})
    os.mkfifo(entry.writing.upper / "pipe")
    (entry.writing.upper / "out").symlink_to("/etc/shadow")
    error = at.failure(entry)
    assert isinstance(error, UnsupportedContentError)
    assert '"pipe" is a FIFO' in error.message
    assert '"out"' in error.message
    assert entry.state().state is EntryState.FAILED
    assert kept(entry.writing)["a"] == b"1"
    assert fake.count(UPLOADS) == 0


def test_more_than_policy_allows_fails_at_once(fake: FakeRegistry, target: str, tmp_path: Path) -> None:
    at = Outboxing(tmp_path / "node", "maxBytes: 10, maxFiles: 3")
    assert isinstance(at.failure(at.capture(target, {"a": b"x" * 11})), LimitExceededError)
    assert isinstance(at.failure(at.capture(target, dict.fromkeys("abcd", b""))), LimitExceededError)
    at.push(at.capture(target, {"a": b"x" * 10}))
    assert fake.count(UPLOADS, "POST") == 2
    at.close()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("HEAD", "/manifests/v1"),
        ("POST", UPLOADS),
        ("PUT", UPLOADS),
        ("PUT", "/manifests/sha256"),
        ("PUT", "/manifests/v1"),
    ],
)
def test_push_killed_at_any_request_is_finished_by_the_next(
    at: Outboxing, fake: FakeRegistry, target: str, method: str, path: str
) -> None:
    _, base = at.pull(fake.artifact("t/base", files(a=b"1")))
    entry = at.capture(target, {"b": b"2", "d/none": b""}, base=base)
    (entry.writing.upper / "d/link").symlink_to("none")
    reached, ended = threading.Event(), threading.Event()

    def hold(_request: Request, answer: Answer) -> Answer:
        reached.set()
        ended.wait(30)
        return answer

    fake.bend(path, hold, times=1, method=method)
    command = [sys.executable, "-m", "csi_oras", "outbox", "retry", "--now", "--state-dir", str(at.state)]
    with subprocess.Popen(command) as killed:
        assert reached.wait(30)
        killed.kill()
    ended.set()
    assert kept(entry.writing) == {"b": b"2", "d/none": b""}
    digest = at.push(entry)
    assert tags(fake) == {"v1"}
    assert sha256(fake.manifests["t/out"]["v1"][0]) == str(digest)
    shown = at.pull(target)[0].path
    assert {path.name for path in shown.rglob("*")} == {"a", "b", "d", "none", "link"}
    assert list((at.state / "staging").iterdir()) == []


def test_entry_is_pushed_by_one_process_only(at: Outboxing, fake: FakeRegistry, target: str) -> None:
    entry = at.capture(target, {"a": b"1"})
    with entry.locked():
        future = at.outbox.begin(entry.writing)
        with pytest.raises(VolumeBusyError):
            at.outbox.attempt(entry)
        with pytest.raises(VolumeBusyError):
            at.outbox.drop(entry)
    at.resume()
    assert future.result(60)
    assert tags(fake) == {"v1"}


def test_torn_document_is_kept_and_holds_up_nobody(at: Outboxing, target: str) -> None:
    entry, other = at.capture(target, {"a": b"1"}), at.capture(target, {"b": b"2"})
    (entry.writing.directory / "volume.json").write_bytes(b"{")
    at.outbox.begin(entry.writing)
    at.push(other)
    wait_for(lambda: entry.state().error != "")
    assert kept(entry.writing) == {"a": b"1"}
    assert "cannot be read" in entry.state().error


def test_metrics_tell_what_waits_and_what_was_pushed(at: Outboxing, target: str) -> None:
    at.push(at.capture(target, {"a": b"12345"}))
    failed = at.capture(target, {})
    os.mkfifo(failed.writing.upper / "pipe")
    at.failure(failed)
    at.app.refresh_gauges()
    said = at.app.metrics.exposition().decode()
    assert 'csi_oras_outbox_entries{state="failed"} 1.0' in said
    assert 'csi_oras_outbox_entries{state="waiting"} 0.0' in said
    assert 'csi_oras_outbox_pushes_total{outcome="ok"} 1.0' in said
    assert 'csi_oras_outbox_pushes_total{outcome="failed"} 1.0' in said
    assert "csi_oras_outbox_pushed_bytes_total 5.0" in said
