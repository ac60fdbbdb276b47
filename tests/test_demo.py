"""The tour, taken as a person takes it: as a process, to its end or cut off, and what it leaves behind: nothing."""

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest

from csi_oras.demo import tour
from csi_oras.demo.interrupts import Interrupts

COMMAND = [sys.executable, "-m", "csi_oras", "demo"]
REFERENCE = r"127\.0\.0\.1:\d+/demo"
SHA256 = "sha256:[0-9a-f]{64}"


def event(volume: str, code: str) -> str:
    return (
        f'-> Warning  FailedMount  MountVolume\\.SetUp failed for volume "{volume}" : rpc error: code = {code} desc = '
    )


KEY_LINES = {
    "where it is": r"^DEMO=/.*/csi-oras-demo-\w+$",
    "the registry": r"-> a CNCF distribution registry answers at 127\.0\.0\.1:\d+$",
    "the driver": r"> csi-oras serve --mode all .* --service-account-dir \$DEMO/no-account\n"
    r" +-> the driver, process \d+, answers",
    "its name": r"> GetPluginInfo\n +-> name: csi\.oras\.land$",
    "its probe": r"> Probe\n +-> ready: true$",
    "a push by oras-py": rf"> oras-py: push {REFERENCE}/site:v1 README\.md config/app\.yaml .*\n +-> {SHA256}$",
    "an inline volume": r"csi\.storage\.k8s\.io/ephemeral: 'true'\n +csi\.storage\.k8s\.io/pod\.name: reader$",
    "the tree": r"config/\n +app\.yaml  \(46 bytes\)\n +regions/\n +eu\.yaml  \(12 bytes\)$",
    "a read": r"> read config/app\.yaml\n +-> listen: 8080\n +greeting: hello from an artifact$",
    "the flags of the mount": r"-> 1 mount: ro,nosuid,nodev,",
    "a refused write": r"for writing, as root\n +-> EROFS: Read-only file system$",
    "statistics": r"> NodeGetVolumeStats\n(?: .*\n)+ +-> BYTES: \d+\n +INODES: 4$",
    "the pinned digest": rf"-> volume_context\.reference: {REFERENCE}/table:v1@{SHA256}$",
    "the pinned bytes": r"> read table\.csv\n +-> the first table$",
    "a deleted claim": r"> DeleteVolume\n +volume_id: oras1-[0-9a-f]{64}\n +-> OK",
    "a hostile artifact refused": event("hostile", "FailedPrecondition")
    + rf'{REFERENCE}/hostile:v1, layer 1 .* has a "\.\." component',
    "an untouched canary": r"> list \$DEMO/node/etc/cron\.d\n +-> \(empty\)$",
    "a bad reference": event("mistake", "InvalidArgument") + 'reference "ghcr\\.io/Acme/Model:v1"',
    "a missing tag": event("mistake", "NotFound") + f"{REFERENCE}/site:v2",
    "an unknown attribute": event("mistake", "InvalidArgument") + 'attribute "plattform": is not known; the attributes'
    " are reference,",
    "a pull that outlives its call": event("model", "Aborted") + f"pulling {REFERENCE}/model:v1: ",
    "a retry that joins it": r"For 33\.6 MB the link carried 33\.\d MB in all: nothing came twice\.$",
    "health": r"/healthz\n +-> ok$",
    "metrics": r'csi_plugin_operations_seconds_count\{.*grpc_status_code="Aborted".*NodePublishVolume"\} 1\.0$',
    "a read while the driver is dead": r"> kill -9 \d+\n.*\n.*\n +-> replicas: 3$",
    "a restart": r"> start the driver again\n +-> process \d+ answers",
    "unpublish twice": r"-> OK, though it was gone already$",
    "no mounts": r"-> mounts below \$DEMO: 0$",
    "no processes": r"processes on \$DEMO: 0$",
    "no directory": r"\$DEMO: removed$",
}  # fmt: skip
MOMENTS = ("DEMO=", "> NodePublishVolume", "> start a link", "-> the driver is gone")

needs_root_and_registry = pytest.mark.needs("root", "registry")


class Tour:
    """A tour under way, with a directory of its own for temporary files."""

    def __init__(self, directory: Path, *flags: str, **environment: str) -> None:
        self.directory = directory
        self.process = subprocess.Popen(
            [*COMMAND, *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,  # what is read of a line must not be more, or nobody would see the rest
            env={**os.environ, "TMPDIR": str(directory), **environment},
        )

    def read_until(self, text: str) -> str:
        """Return what it says up to the line that holds `text`."""
        said = b""
        assert self.process.stdout
        while line := self.process.stdout.readline():
            said += line
            if text.encode() in line:
                return said.decode()
        raise AssertionError(f"the tour ended before {text!r}: {said.decode()} {self.end()}")

    def end(self, typed: str = "") -> tuple[int, str, str]:
        """Wait for its end and return its exit code, and what it still says."""
        out, err = self.process.communicate(typed.encode(), timeout=60)
        return self.process.returncode, out.decode(), err.decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.communicate()


def left_behind(directory: Path) -> list[str]:
    """Mounts below a directory, processes whose command line names it, and what is in it."""
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {directory}/" in line]
    processes = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            command = path.read_bytes()
            processes += [command.decode(errors="replace")] if bytes(directory) in command else []
    return [*mounts, *processes, *map(str, directory.iterdir())]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str, str, list[str]]]:
    directory = tmp_path_factory.mktemp("tour")
    with Tour(directory) as running:
        begun = running.read_until("DEMO=")
        assert f"\nDEMO={directory}/csi-oras-demo-" in begun
        code, said, complaints = running.end()
        yield code, begun + said, complaints, left_behind(directory)


@needs_root_and_registry
def test_tour_taken_whole_ends_well_and_leaves_nothing(whole: tuple[int, str, str, list[str]]) -> None:
    code, _, complaints, left = whole
    assert (code, complaints, left) == (0, "", [])


@needs_root_and_registry
@pytest.mark.parametrize("what", KEY_LINES)
def test_tour_shows(whole: tuple[int, str, str, list[str]], what: str) -> None:
    assert re.search(KEY_LINES[what], whole[1], re.MULTILINE), whole[1]


@needs_root_and_registry
def test_tour_into_a_pipe_has_no_colours_and_no_trailing_blanks(whole: tuple[int, str, str, list[str]]) -> None:
    assert "\x1b" not in whole[1]
    assert not re.search(r"[ \t]$", whole[1], re.MULTILINE)


@needs_root_and_registry
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_tour_cut_off_by_a_signal_leaves_nothing(
    short_path: Path, number: signal.Signals, code: int, moment: str
) -> None:
    with Tour(short_path) as running:
        running.read_until(moment)
        running.process.send_signal(number)
        ended, _, complaints = running.end()
    assert (ended, left_behind(short_path)) == (code, [])
    assert complaints == "csi-oras demo: interrupted; everything is stopped, unmounted and removed\n"


@needs_root_and_registry
def test_tour_cut_off_again_and_again_still_tidies_up(short_path: Path) -> None:
    with Tour(short_path) as running:
        running.read_until("> NodePublishVolume")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            running.process.send_signal(number)
        ended, _, _ = running.end()
    assert (ended in {129, 130, 143}, left_behind(short_path)) == (True, [])


@needs_root_and_registry
def test_tour_on_a_terminal_has_colours_and_ends_with_ctrl_c(short_path: Path) -> None:
    child, terminal = pty.fork()
    if child == 0:
        os.execve(COMMAND[0], COMMAND, {**os.environ, "TMPDIR": str(short_path), "TERM": "xterm"})  # noqa: S606
    said = b""
    while b"3. A claim" not in said:
        said += os.read(terminal, 4096)
    os.write(terminal, b"\x03")
    with suppress(OSError):  # EIO: the other side is closed
        while os.read(terminal, 4096):
            pass
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    assert b"\x1b[1m" in said
    assert (os.waitstatus_to_exitcode(status), left_behind(short_path)) == (130, [])


@needs_root_and_registry
def test_tour_whose_reader_goes_away_leaves_nothing(short_path: Path) -> None:
    with Tour(short_path) as running:
        running.read_until("> NodePublishVolume")
        assert running.process.stdout
        running.process.stdout.close()
        assert running.process.wait(60) == 1
    assert left_behind(short_path) == []


@needs_root_and_registry
def test_tour_whose_driver_dies_says_so_and_leaves_nothing(short_path: Path) -> None:
    with Tour(short_path) as running:
        said = running.read_until("> NodeGetInfo")
        found = re.search(r"the driver, process (\d+)", said)
        assert found
        os.kill(int(found[1]), signal.SIGKILL)
        code, _, complaints = running.end()
    assert (code, left_behind(short_path)) == (1, [])
    assert complaints.startswith("csi-oras demo: the tour ends here: rpc error: code = Unavailable")
    assert "\ndriver.log: " in complaints


@needs_root_and_registry
def test_tour_that_keeps_shows_its_mounts_until_enter(short_path: Path) -> None:
    with Tour(short_path, "--keep") as running:
        said = running.read_until("Press Enter")
        demo = re.findall(r"^DEMO=(.*)$", said, re.MULTILINE)[-1]
        shown = re.findall(r"ls -lR (.*)$", said, re.MULTILINE)
        listing = re.findall(r"(\S+ -m csi_oras store ls .*)$", said, re.MULTILINE)[-1]
        kept = [Path(path.replace("$DEMO", demo)) for path in shown]
        assert [sorted(file.name for file in path.iterdir()) for path in kept] == [
            ["README.md", "config", "data"],
            ["model.bin"],
        ]
        artifacts = subprocess.run(listing.replace("$DEMO", demo).split(), capture_output=True, text=True, check=True)
        assert "/demo/site:v1" in artifacts.stdout
        code, _, complaints = running.end("\n")
    assert (code, complaints, left_behind(short_path)) == (0, "", [])


@pytest.mark.needs("root")
def test_tour_without_a_registry_says_what_to_install(short_path: Path) -> None:
    with Tour(short_path, PATH=str(short_path)) as running:
        code, said, complaints = running.end()
    assert (code, said, left_behind(short_path)) == (1, "", [])
    assert complaints == (
        "csi-oras demo: docker-registry is not installed, and the tour needs a registry: "
        "apt-get install docker-registry\n"
    )


@pytest.mark.needs("root")
def test_tour_whose_registry_does_not_come_up_shows_its_log(short_path: Path, tmp_path: Path) -> None:
    broken = tmp_path / "docker-registry"
    broken.write_text("#!/bin/sh\necho no storage driver\nexit 1\n")
    broken.chmod(0o755)
    with Tour(short_path, PATH=f"{tmp_path}:{os.environ['PATH']}") as running:
        code, _, complaints = running.end()
    assert (code, left_behind(short_path)) == (1, [])
    assert "the tour ends here: docker-registry: did not come up" in complaints
    assert "registry.log: no storage driver" in complaints


def test_tour_without_root_asks_for_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    assert tour.run(keep=False) == 1
    assert capsys.readouterr().err == (
        "csi-oras demo: the tour mounts volumes, and mounts need root: run it with sudo\n"
    )


def test_make_demo_sets_up_no_more_than_the_tour_needs() -> None:
    root = Path(__file__).parent.parent
    command = ["make", "--no-print-directory", "-n", "demo"]  # this test may itself be run by make
    plan = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    assert plan.splitlines() == [".ci/setup demo", ".venv/bin/csi-oras demo"]


def test_signal_in_a_held_block_ends_the_block_after_it() -> None:
    interrupts, reached = Interrupts(), False

    def story() -> None:
        nonlocal reached
        with interrupts.raising(), interrupts.held():
            signal.raise_signal(signal.SIGTERM)
            reached = True

    with interrupts.installed(), pytest.raises(KeyboardInterrupt):
        story()
    assert (reached, interrupts.exit_code) == (True, 143)


def test_signal_before_the_story_ends_it_at_its_start() -> None:
    interrupts, reached = Interrupts(), False
    with interrupts.installed():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), interrupts.raising():
            reached = True
    assert (reached, interrupts.exit_code) == (False, 130)


def test_second_signal_does_not_cut_the_tidying_up_short() -> None:
    interrupts, tidied = Interrupts(), False
    with interrupts.installed():
        with pytest.raises(KeyboardInterrupt), interrupts.raising():
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        tidied = True
    assert (tidied, interrupts.exit_code) == (True, 130)
