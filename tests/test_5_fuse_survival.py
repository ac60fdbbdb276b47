"""Lazy volumes in trouble: whoever serves them dies, the driver goes away or lies, a blob turns out to be wrong."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from csi_oras import kernel
from tests.support import fuse_reading
from tests.support.fuse_mounting import TREE, LazyVolume, digest_of

pytestmark = [pytest.mark.needs("root", "fuse"), pytest.mark.timeout(150)]
MIB = 1 << 20
LARGE = random.Random(5).randbytes(12 * MIB + 12_345)  # noqa: S311 (any bytes)
MakeVolume = Callable[..., LazyVolume]
Reader = subprocess.Popen[str]


@pytest.fixture
def make_volume(short_path: Path) -> Iterator[MakeVolume]:
    with ExitStack() as stack:

        def make(
            files: Mapping[str, bytes] | None = None, *, patience: float = 60, old_kernel: bool = False
        ) -> LazyVolume:
            chosen = {"large": LARGE} if files is None else files
            return stack.enter_context(LazyVolume(short_path, chosen, patience=patience, old_kernel=old_kernel))

        yield make


@pytest.fixture
def start_reader(tmp_path: Path) -> Iterator[Callable[..., Reader]]:
    """Start what reads and compares; what still does in the end is killed."""
    readers: list[Reader] = []
    truth = tmp_path / "truth"
    truth.write_bytes(LARGE)

    def start(volume: LazyVolume, kind: str = "direct", seconds: float = 0) -> Reader:
        program = Path(fuse_reading.__file__)
        command = [sys.executable, str(program), kind, str(volume.path / "large"), str(truth), str(seconds)]
        readers.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/"))
        return readers[-1]

    yield start
    for reader in readers:
        reader.kill()
        reader.communicate()


def outcome(reader: Reader, seconds: float = 60) -> tuple[int, str]:
    """Return when a reader is done: how, and what it complains of."""
    _, complaint = reader.communicate(timeout=seconds)
    return reader.returncode, complaint.strip().rpartition("\n")[2]


RIGHT = (0, "")


def head(volume: LazyVolume, name: str = "large") -> str:
    """Read the first bytes of a file past the cache, and return what went wrong."""
    command = ["dd", f"if={volume.path}/{name}", "of=/dev/null", "bs=4096", "count=1", "iflag=direct", "status=none"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/", check=False).stderr


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def opened_by(process: "subprocess.Popen[bytes]") -> list[str]:
    return [str(entry.readlink()) for entry in Path(f"/proc/{process.pid}/fd").iterdir()]


def test_readers_notice_nothing_of_processes_that_are_killed_and_files_that_begin_anew(
    make_volume: MakeVolume, start_reader: Callable[..., Reader]
) -> None:
    volume, chance = make_volume(), random.Random(13)  # noqa: S311 (any moment)
    volume.driver.delay = 0.01
    process = volume.serve()
    readers = {kind: start_reader(volume, kind, seconds=8) for kind in fuse_reading.KINDS}
    killed = 0
    while any(reader.poll() is None for reader in readers.values()):
        time.sleep(chance.uniform(0.0, 1.0))
        process.kill()
        process.wait()
        killed += 1
        if not killed % 3:
            volume.driver.sources[digest_of(LARGE)].replace()
        process = volume.serve()
    assert {kind: outcome(reader) for kind, reader in readers.items()} == dict.fromkeys(readers, RIGHT)
    assert killed > 5


def test_request_that_a_dead_process_had_begun_is_answered_by_its_successor(
    make_volume: MakeVolume, start_reader: Callable[..., Reader]
) -> None:
    volume = make_volume()
    volume.driver.goes_on.clear()
    process = volume.serve()
    reader = start_reader(volume)
    volume.driver.wait_for("need")
    process.kill()
    process.wait()
    volume.serve()
    volume.driver.wait_for("need", 2)
    first, second = volume.driver.messages("need")[:2]
    assert (first["start"], first["end"]) == (second["start"], second["end"])
    volume.driver.goes_on.set()
    assert outcome(reader) == RIGHT


def test_process_that_is_told_to_end_does_so_in_the_midst_of_reads_and_they_go_on(
    make_volume: MakeVolume, start_reader: Callable[..., Reader]
) -> None:
    volume = make_volume()
    volume.driver.goes_on.clear()
    process = volume.serve()
    readers = [start_reader(volume, kind) for kind in ("direct", "sequential", "mapped")]
    volume.driver.wait_for("need", 2)
    process.terminate()
    assert process.wait(5) == 0
    volume.driver.goes_on.set()
    volume.serve()
    assert [outcome(reader) for reader in readers] == [RIGHT] * 3


@pytest.mark.parametrize("end", ["unmount", "abort"])
def test_process_ends_by_itself_with_the_last_mount(make_volume: MakeVolume, end: str) -> None:
    volume = make_volume()
    process = volume.serve()
    assert head(volume) == ""
    getattr(volume, end)()
    assert process.wait(10) == 3


def test_process_whose_mount_went_before_it_came_ends_at_once(make_volume: MakeVolume) -> None:
    volume = make_volume()
    volume.unmount()
    assert volume.serve().wait(10) == 3


@pytest.mark.parametrize("old_kernel", [False, True], ids=["", "before Linux 6.9"])
def test_two_processes_on_one_connection_take_requests_from_each_other_and_neither_ends(
    make_volume: MakeVolume, start_reader: Callable[..., Reader], *, old_kernel: bool
) -> None:
    volume = make_volume(old_kernel=old_kernel)
    volume.driver.delay = 0.02
    processes = [volume.serve()]
    processes.append(volume.spawn())
    try:
        readers = [start_reader(volume, kind, seconds=5) for kind in fuse_reading.KINDS]
        assert [outcome(reader) for reader in readers] == [RIGHT] * len(readers)
        assert [process.poll() for process in processes] == [None, None]
    finally:
        processes[1].kill()
        processes[1].wait()


@pytest.mark.parametrize("old_kernel", [False, True], ids=["", "before Linux 6.9"])
def test_readers_that_are_killed_take_nobody_with_them(
    make_volume: MakeVolume, start_reader: Callable[..., Reader], *, old_kernel: bool
) -> None:
    volume = make_volume(old_kernel=old_kernel)
    volume.driver.delay = 0.02
    process = volume.serve()
    survivor = start_reader(volume, "sequential", seconds=6)
    while survivor.poll() is None:
        victims = [start_reader(volume, kind, seconds=60) for kind in ("direct", "random", "names")]
        volume.driver.wait_for("hello")
        time.sleep(0.2)
        for victim in victims:
            victim.kill()
            victim.communicate(timeout=30)
    assert outcome(survivor) == RIGHT
    assert process.poll() is None


def test_driver_that_is_away_for_a_while_is_a_pause(
    make_volume: MakeVolume, start_reader: Callable[..., Reader]
) -> None:
    volume = make_volume()
    volume.driver.stop()
    volume.serve()
    reader = start_reader(volume)
    with pytest.raises(subprocess.TimeoutExpired):
        reader.wait(2)
    volume.driver.start()
    assert outcome(reader) == RIGHT


def test_driver_that_hangs_up_is_asked_again_for_what_it_did_not_answer(
    make_volume: MakeVolume, start_reader: Callable[..., Reader]
) -> None:
    volume = make_volume()
    volume.driver.goes_on.clear()
    volume.serve()
    readers = [start_reader(volume, kind) for kind in ("direct", "sequential", "mapped")]
    asked = volume.driver.wait_for("need", 2)
    volume.driver.hang_up()
    volume.driver.wait_for("hello", 2)
    volume.driver.goes_on.set()
    assert [outcome(reader) for reader in readers] == [RIGHT] * 3
    assert asked[0]["id"] in [need["id"] for need in volume.driver.messages("need")[len(asked) :]]


@pytest.mark.parametrize("trouble", ["gone", "silent"])
def test_driver_that_does_not_come_back_is_an_error_in_time_and_reads_heal_with_it(
    make_volume: MakeVolume, start_reader: Callable[..., Reader], trouble: str
) -> None:
    volume = make_volume(patience=0.5)
    if trouble == "gone":
        volume.driver.stop()
    else:
        volume.driver.goes_on.clear()
    process = volume.serve()
    for kind in ("direct", "sequential", "random"):
        assert "Input/output error" in outcome(start_reader(volume, kind), seconds=20)[1]
    assert outcome(start_reader(volume, "mapped"), seconds=20)[0] == -signal.SIGBUS
    if trouble == "gone":
        volume.driver.start()
    else:
        volume.driver.goes_on.set()
    for kind in fuse_reading.KINDS:
        wait_until(lambda: head(volume) == "")
        assert outcome(start_reader(volume, kind)) == RIGHT
    assert process.poll() is None
    log = volume.log.read_text()
    assert log.count("cannot be read") < 10
    assert "did not come within 0.5 s" in log
    assert "can be read again" in log


def test_reads_of_what_is_local_do_not_wait_for_those_that_wait_for_the_driver(
    make_volume: MakeVolume, start_reader: Callable[..., Reader]
) -> None:
    volume = make_volume({"large": LARGE, "local": b"local", **{f"f{n}": b"%d" % n for n in range(200)}})
    volume.serve()
    assert head(volume, "local") == ""
    volume.driver.goes_on.clear()
    waiting = [threading.Thread(target=head, args=(volume, f"f{number}")) for number in range(200)]
    for thread in waiting:
        thread.start()
    volume.driver.wait_for("need", 150)
    assert head(volume, "local") == ""
    assert outcome(start_reader(volume, "names")) == RIGHT
    volume.driver.goes_on.set()
    for thread in waiting:
        thread.join()


def test_node_without_room_says_so(make_volume: MakeVolume) -> None:
    volume = make_volume()
    volume.driver.error = "ENOSPC"
    volume.serve()
    assert "No space left" in head(volume)
    volume.driver.error = "EIO"
    assert "Input/output error" in head(volume)
    volume.driver.error = None
    assert head(volume) == ""


@pytest.mark.parametrize(
    "lie",
    [
        {"start": 1},
        {"end": 1},
        {"start": 10 * MIB, "end": 12 * MIB},
        {"inode": 7},
        {"inode": 0},
        {"end": "all"},
        {"id": []},
    ],
    ids=json.dumps,
)
def test_driver_that_says_what_makes_no_sense_is_asked_again(
    make_volume: MakeVolume, start_reader: Callable[..., Reader], lie: dict[str, Any]
) -> None:
    volume = make_volume()
    volume.driver.lies = [lie]
    process = volume.serve()
    assert outcome(start_reader(volume)) == RIGHT
    assert len(volume.driver.messages("hello")) == 2
    assert process.poll() is None


def test_driver_whose_file_is_too_short_is_an_error_and_never_a_short_read(
    make_volume: MakeVolume, start_reader: Callable[..., Reader]
) -> None:
    volume = make_volume()
    source = volume.driver.sources[digest_of(LARGE)]
    source.make_local(0, len(LARGE))
    source.content = LARGE[: 5 * MIB + 77]
    source.file.truncate(len(source.content))
    volume.driver.lies = [{"start": 0, "end": len(LARGE)}] * 100
    volume.serve()
    for kind in ("direct", "sequential"):
        assert "Input/output error" in outcome(start_reader(volume, kind))[1]
    source.content, volume.driver.lies = LARGE, []
    source.replace()
    assert outcome(start_reader(volume)) == RIGHT


def test_messages_that_nobody_asked_for_do_no_harm(
    make_volume: MakeVolume, start_reader: Callable[..., Reader], tmp_path: Path
) -> None:
    volume = make_volume()
    process = volume.serve()
    volume.driver.wait_for("hello")
    directory, file = os.open(tmp_path, os.O_RDONLY), os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    unasked = b'{"id": 99, "start": 0, "end": 9, "inode": 5}'
    unknown = json.dumps({"op": "poison", "blob": digest_of(b"unknown")}).encode()
    for content in (b"x", b"{" * 60_000, b" " * 100_000, unasked, unknown, b"[]", b'{"op": "poison", "blob": "x"}'):
        hellos = len(volume.driver.messages("hello"))
        volume.driver.say(content, directory, file, file)
        if content not in (unasked, unknown):
            volume.driver.wait_for("hello", hellos + 1)
    os.close(directory)
    os.close(file)
    assert outcome(start_reader(volume)) == RIGHT
    assert not [path for path in opened_by(process) if path.startswith(str(tmp_path))]


def test_file_that_was_begun_anew_is_believed_for_nothing_that_the_old_one_had(
    make_volume: MakeVolume, start_reader: Callable[..., Reader]
) -> None:
    volume = make_volume()
    volume.serve()
    assert head(volume) == ""
    volume.driver.sources[digest_of(LARGE)].replace()
    for kind in ("random", "direct", "sequential"):
        assert outcome(start_reader(volume, kind)) == RIGHT


def test_poisoned_blob_is_an_error_also_where_it_was_cached_and_no_other_is(
    make_volume: MakeVolume, start_reader: Callable[..., Reader]
) -> None:
    volume = make_volume({"large": LARGE, "copy/of/large": LARGE, "other": b"other"})
    process = volume.serve()
    cached: list[list[str]] = [["cat", str(volume.path / name)] for name in ("large", "copy/of/large", "other")]
    for command in cached:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60)
    volume.driver.poison(digest_of(LARGE))
    for _ in range(2):
        for command in cached[:2]:
            wait_until(lambda command=command: _fails(command))  # type: ignore[misc]
        assert outcome(start_reader(volume, "mapped"))[0] == -signal.SIGBUS
        assert not _fails(cached[2])
        process.kill()
        process.wait()
        process = volume.serve()
    assert "nothing of it is shown any more" in volume.log.read_text()


def _fails(command: list[str]) -> bool:
    done = subprocess.run(command, capture_output=True, timeout=60, cwd="/", check=False)
    return b"Input/output error" in done.stderr


def test_reads_that_wait_for_a_blob_that_turns_out_to_be_wrong_are_told_at_once(
    make_volume: MakeVolume, start_reader: Callable[..., Reader]
) -> None:
    volume = make_volume(patience=100)
    volume.driver.goes_on.clear()
    volume.serve()
    readers = [start_reader(volume, kind) for kind in ("direct", "sequential")]
    volume.driver.wait_for("need", 2)
    volume.driver.poison(digest_of(LARGE))
    assert ["Input/output error" in outcome(reader, seconds=20)[1] for reader in readers] == [True, True]


def test_more_blobs_than_descriptors_are_all_read_right(make_volume: MakeVolume) -> None:
    files = {f"f{number:04}": b"%04d" % number for number in range(1500)}
    volume = make_volume(files)
    process = volume.serve()
    for _ in range(2):
        paths = [str(volume.path / name) for name in files]
        read = subprocess.run(["cat", *paths], check=True, capture_output=True, timeout=100)
        assert read.stdout == b"".join(files.values())
    assert len(opened_by(process)) < 600


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        ({"--device": "0"}, 1, "is not one of /dev/fuse"),
        ({"--device": "99"}, 1, "cannot be used"),
        ({"--tree": "../x"}, 2, "64 hexadecimal digits"),
        ({"--plan": "/nonexistent"}, 1, "cannot be read"),
        ({"--plan": "/dev/null"}, 1, "is not JSON"),
        ({}, 1, "is not one of /dev/fuse"),
    ],
)
def test_program_that_is_started_wrongly_says_why(
    short_path: Path, arguments: dict[str, str], code: int, complaint: str
) -> None:
    plan = short_path / "plan.json"
    plan.write_text('{"version": 1, "entries": []}')
    settings = {"--device": "0", "--tree": TREE, "--plan": str(plan), "--driver": "/none"} | arguments
    command = [sys.executable, "-m", "csi_oras.fuse", *(text for setting in settings.items() for text in setting)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_program_serves_as_the_mounter_starts_it(make_volume: MakeVolume, start_reader: Callable[..., Reader]) -> None:
    volume = make_volume()
    settings = {"--device": volume.device, "--tree": TREE, "--plan": volume.plan, "--driver": volume.driver.path}
    command = [sys.executable, "-m", "csi_oras.fuse", *(str(text) for setting in settings.items() for text in setting)]
    volume.process = subprocess.Popen(command, pass_fds=[volume.device])
    assert outcome(start_reader(volume)) == RIGHT
    kernel.unmount(str(volume.path), kernel.MNT_DETACH)
    assert volume.process.wait(10) == 3
