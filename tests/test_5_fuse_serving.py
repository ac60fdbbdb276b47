"""A lazy volume through a real kernel: the same names and bytes as a tree that was laid out, and nothing else."""

import json
import os
import random
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import fuse_reading
from tests.support.fuse_driver import WINDOW
from tests.support.fuse_mounting import LazyVolume, digest_of

pytestmark = [pytest.mark.needs("root", "fuse"), pytest.mark.timeout(150)]
MIB = 1 << 20
LARGE = random.Random(5).randbytes(24 * MIB + 12_345)  # noqa: S311 (any bytes)
MakeVolume = Callable[[Mapping[str, bytes]], LazyVolume]

ODD = {
    "plain": b"plain",
    "empty": b"",
    "d/another": b"plain",
    "d/e/f/deep": b"deep",
    "run.sh": b"#!/bin/sh\necho ran\n",
    "with space": b"1",
    "-rf": b"2",
    "$(touch x)`y`;'\"": b"3",
    "ä/ö/ü": b"4",
    unicodedata.normalize("NFD", "é"): b"5",
    "日本語/ファイル": b"6",
    "😀": b"7",
    "x" * 255: b"8",
    "ö" * 127: b"9",
    "/".join("d" * 64): b"10",
    "colon:and\\backslash": b"11",
    ".hidden/.file": b"12",
    ".oci/manifest.json": b"{}",
    "large": LARGE,
}


@pytest.fixture
def make_volume(short_path: Path) -> Iterator[MakeVolume]:
    with ExitStack() as stack:
        yield lambda files: stack.enter_context(LazyVolume(short_path, files))


def lay_out(files: Mapping[str, bytes], root: Path) -> Path:
    """Make the tree that an eager volume would be."""
    root.mkdir()
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o555 if name.endswith(".sh") else 0o444)
    for directory in (root, *(path for path in root.rglob("*") if path.is_dir())):
        directory.chmod(0o555)
    return root


def run(*command: str | Path, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, cwd="/", check=False)


def listing(root: Path) -> list[str]:
    """Return name, type, mode and links of everything, and the size and the blocks of files."""
    files = run("find", root, "-type", "f", "-printf", "%P %y %m %n %s %U:%G\\0")
    directories = run("find", root, "-type", "d", "-printf", "%P %y %m\\0")
    assert (files.returncode, directories.returncode) == (0, 0)
    return sorted((files.stdout + directories.stdout).split("\0"))


def read(volume: LazyVolume, kind: str, tmp_path: Path, seconds: float = 0) -> subprocess.CompletedProcess[str]:
    truth = tmp_path / "truth"
    truth.write_bytes(LARGE)
    program = Path(fuse_reading.__file__)
    return run(sys.executable, program, kind, volume.path / "large", truth, str(seconds))


@pytest.mark.parametrize(
    "files",
    [ODD, {}, {"only": b"one"}, {"only": b""}, {"a/b/c": LARGE}],
    ids=["odd names", "nothing", "a single file", "an empty file", "a deep one"],
)
def test_volume_differs_in_nothing_from_a_tree_that_was_laid_out(
    make_volume: MakeVolume, files: Mapping[str, bytes], tmp_path: Path
) -> None:
    tree = lay_out(files, tmp_path / "tree")
    volume = make_volume(files)
    volume.serve()
    assert listing(volume.path) == listing(tree)
    difference = run("diff", "-r", "--no-dereference", volume.path, tree)
    assert (difference.returncode, difference.stdout, difference.stderr) == (0, "", "")


def test_volume_of_many_files_shows_each_of_them(make_volume: MakeVolume, tmp_path: Path) -> None:
    files = {f"d{number % 3}/file-{number:05}": b"%d" % (number % 50) for number in range(20_000)}
    tree = lay_out(files, tmp_path / "tree")
    volume = make_volume(files)
    process = volume.serve()
    assert listing(volume.path) == listing(tree)
    sample = [name for number, name in enumerate(files) if not number % 400]
    read = run("cat", *(volume.path / name for name in sample))
    assert read.stdout.encode() == b"".join(files[name] for name in sample)
    sys.stdout.write(f"20,000 files: {memory(process.pid)}\n")


def memory(process: int) -> str:
    return " ".join(re.findall(r"VmRSS:.*", Path(f"/proc/{process}/status").read_text()))


@pytest.mark.parametrize("kind", fuse_reading.KINDS)
def test_reads_of_every_kind_bring_the_bytes_that_are_there(make_volume: MakeVolume, kind: str, tmp_path: Path) -> None:
    volume = make_volume({"large": LARGE, "other": b"other"})
    volume.serve()
    done = read(volume, kind, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_read_asks_only_for_what_is_read_and_announces_what_will_be(make_volume: MakeVolume) -> None:
    volume = make_volume({"large": LARGE, "other": b"other"})
    volume.serve()
    head = run("dd", f"if={volume.path}/large", "bs=4096", "count=1", "iflag=direct", "status=none", "of=/dev/null")
    assert head.returncode == 0
    needs = volume.driver.messages("need")
    assert [(need["start"], need["end"], need["have"]) for need in needs] == [(0, 4096, 0)]
    assert not volume.driver.messages("ahead")
    assert run("dd", f"if={volume.path}/large", "bs=1M", "iflag=direct", "of=/dev/null").returncode == 0
    announced = volume.driver.messages("ahead")
    assert announced[0]["end"] - announced[0]["start"] == 2 * MIB
    assert announced[-1]["end"] == len(LARGE)
    assert {message["blob"] for message in volume.driver.heard if "blob" in message} == {digest_of(LARGE)}


def test_what_was_announced_and_came_is_not_asked_for(make_volume: MakeVolume, tmp_path: Path) -> None:
    volume = make_volume({"large": LARGE})
    volume.driver.brings_announced = True
    volume.serve()
    done = read(volume, "direct", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    first = volume.driver.messages("ahead")[0]["start"]
    assert volume.driver.messages("need")
    assert all(need["start"] < first + 2 * WINDOW for need in volume.driver.messages("need"))


def test_what_is_said_of_another_file_is_not_believed(make_volume: MakeVolume) -> None:
    volume = make_volume({"large": LARGE})
    process = volume.serve()
    with (volume.path / "large").open("rb") as file:
        assert file.read(1) == LARGE[:1]
    source = volume.driver.sources[digest_of(LARGE)]
    told = {"op": "shown", "blob": digest_of(LARGE), "start": 0, "end": len(LARGE), "inode": source.inode + 1}
    volume.driver.say(json.dumps(told).encode())
    assert (volume.path / "large").read_bytes() == LARGE
    assert process.poll() is None


def test_what_is_local_is_read_without_the_driver(make_volume: MakeVolume, tmp_path: Path) -> None:
    volume = make_volume({"large": LARGE})
    volume.serve()
    assert read(volume, "direct", tmp_path).returncode == 0
    heard = len(volume.driver.heard)
    volume.driver.stop()
    for kind in fuse_reading.KINDS:
        done = read(volume, kind, tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
    assert len(volume.driver.heard) == heard
    assert len(volume.driver.messages("need")) <= len(LARGE) // WINDOW + 1


def test_what_the_disk_must_bring_is_as_right_as_what_is_cached(make_volume: MakeVolume, tmp_path: Path) -> None:
    volume = make_volume({"large": LARGE})
    volume.serve()
    assert read(volume, "direct", tmp_path).returncode == 0
    for source in volume.driver.sources.values():
        os.fsync(source.file.fileno())
        os.posix_fadvise(source.file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    done = read(volume, "sequential", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_read_waits_for_as_long_as_the_driver_says_that_it_is_coming(short_path: Path) -> None:
    with LazyVolume(short_path, {"large": LARGE}, patience=2) as volume:
        volume.driver.goes_on.clear()
        volume.serve()
        path = volume.path / "large"
        command = ["dd", f"if={path}", "of=/dev/null", "bs=4096", "count=1", "iflag=direct", "status=none"]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as reader:
            (need,) = volume.driver.wait_for("need")
            assert "wait" in volume.driver.messages("hello")[0]["understands"]
            for _ in range(12):
                volume.driver.say(json.dumps({"id": need["id"], "wait": True}).encode())
                with pytest.raises(subprocess.TimeoutExpired):
                    reader.wait(0.5)
            assert len(volume.driver.messages("need")) == 1
            assert reader.communicate(timeout=30)[1].endswith(b"Input/output error\n")
        volume.driver.goes_on.set()
        with path.open("rb") as file:
            assert file.read(9) == LARGE[:9]


def test_program_of_a_volume_runs(make_volume: MakeVolume) -> None:
    volume = make_volume(ODD)
    volume.serve()
    assert run(volume.path / "run.sh").stdout == "ran\n"


_WRITES = """
import os, sys
os.chdir(sys.argv[1])
for attempt in (
    lambda: open("file", "r+b"), lambda: open("new", "xb"), lambda: os.truncate("file", 0),
    lambda: os.chmod("file", 0o777), lambda: os.chown("file", 1, 1), lambda: os.unlink("file"),
    lambda: os.rename("file", "b"), lambda: os.mkdir("new"), lambda: os.rmdir("d"), lambda: os.symlink("a", "new"),
    lambda: os.link("file", "new"), lambda: os.mkfifo("new"), lambda: os.utime("file", (1, 1)),
    lambda: os.setxattr("file", "user.a", b"b"), lambda: os.removexattr("file", "user.a"),
):
    try:
        attempt()
        print("done")
    except OSError as error:
        print(os.strerror(error.errno))
"""


@pytest.mark.parametrize("remount", [False, True], ids=["read-only mount", "somebody has remounted it"])
def test_writes_of_every_kind_are_refused(make_volume: MakeVolume, *, remount: bool) -> None:
    volume = make_volume({"file": b"content", "d/file": b"content"})
    process = volume.serve()
    if remount:
        assert run("mount", "-o", "remount,bind,rw", volume.path).returncode == 0
    refused = run(sys.executable, "-c", _WRITES, volume.path)
    assert refused.stdout.splitlines() == ["Read-only file system"] * 15
    assert run("cat", volume.path / "file").stdout == "content"
    assert process.poll() is None


def test_attributes_say_that_all_is_fixed(make_volume: MakeVolume) -> None:
    volume = make_volume({"file": LARGE, "d/file": b""})
    volume.serve()
    stat = run("stat", "--format", "%i %s %b %o %u:%g %X %Y %Z", volume.path, volume.path / "d", volume.path / "file")
    root, directory, file = stat.stdout.splitlines()
    written = int(volume.plan.stat().st_mtime)
    times = f"0:0 {written} {written} {written}"
    assert root == f"1 0 0 {MIB} {times}"
    assert directory == f"2 0 0 {MIB} {times}"
    assert file == f"4 {len(LARGE)} {-(-len(LARGE) // 512)} {MIB} {times}"
    size = run("stat", "--file-system", "--format", "%s %b %f %a %c", volume.path)
    assert size.stdout.split() == ["4096", str(-(-len(LARGE) // 4096)), "0", "0", "4"]


def test_extended_attributes_are_not_there(make_volume: MakeVolume) -> None:
    volume = make_volume({"file": b"content"})
    volume.serve()
    code = f"import os\ntry: os.listxattr({str(volume.path / 'file')!r})\nexcept OSError as error: print(error.errno)"
    assert run(sys.executable, "-c", code).stdout == "95\n"


def test_name_that_is_not_there_is_not_found_and_asked_for_once(make_volume: MakeVolume) -> None:
    volume = make_volume({"file": b"content"})
    process = volume.serve()
    for _ in range(2):
        assert "No such file" in run("stat", volume.path / "nothing").stderr
        assert "Not a directory" in run("stat", volume.path / "file" / "nothing").stderr
    assert process.poll() is None


def test_statistics_are_told_when_it_ends(make_volume: MakeVolume) -> None:
    volume = make_volume({"large": LARGE})
    process = volume.serve()
    assert run("dd", f"if={volume.path}/large", "bs=1M", "iflag=direct", "of=/dev/null").returncode == 0
    waits = len(volume.driver.messages("need"))
    process.terminate()
    assert process.wait(10) == 0
    (told,) = volume.driver.wait_for("stats")
    assert (told["reads"], told["bytes"], told["waits"]) == (-(-len(LARGE) // MIB), len(LARGE), waits)
    assert told["waitSeconds"] > 0
    assert told["aheadHits"] >= told["reads"] - 3


_READ_AGAIN = """
import sys, time
file = open(sys.argv[1], "rb", 0)
file.readall()
file.seek(0)
begun = time.perf_counter()
file.readall()
print(time.perf_counter() - begun)
"""


def test_cached_reads_are_compared_with_those_of_a_plain_file(make_volume: MakeVolume, tmp_path: Path) -> None:
    """Print how fast what the kernel has cached is read; of a machine that is shared nothing is asserted."""
    volume = make_volume({"large": LARGE})
    process = volume.serve()
    plain = tmp_path / "plain"
    plain.write_bytes(LARGE)
    lazy, eager = (
        float(run(sys.executable, "-c", _READ_AGAIN, path).stdout) for path in (volume.path / "large", plain)
    )
    sys.stdout.write(f"cached reads take {lazy / eager:.2f} times as long; {memory(process.pid)}\n")
