"""What a mounter is asked: whatever does not fit is refused, and costs nobody else anything."""

import json
import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from csi_oras.mount import fuse
from csi_oras.mounter import protocol
from tests.support.mounting import RunningMounter

pytestmark = pytest.mark.needs("root", "fuse")


@pytest.fixture
def mounter(short_path: Path) -> Iterator[RunningMounter]:
    with RunningMounter(short_path) as running:
        yield running


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMounter]:
    """A mounter that is asked for all that it must refuse."""
    with RunningMounter(tmp_path_factory.mktemp("m")) as running:
        yield running


def ask(mounter: RunningMounter, content: bytes, *sent: int) -> protocol.Message | None:
    """Say anything."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connected:
        connected.settimeout(10)
        connected.connect(str(mounter.socket))
        socket.send_fds(connected, [content], sent)
        return protocol.receive(connected)


GARBAGE = {
    "nothing": b"\0",
    "no object": b"[]",
    "deep": b"[" * 60_000,
    "no operation": b"{}",
    "unknown operation": b'{"op":"mount"}',
    "operation of another kind": b'{"op":1}',
    "not UTF-8": b'{"op":"\xff"}',
    "hold of nothing": b'{"op":"hold"}',
    "hold without a device": b'{"op":"hold","id":"%s","plan":"STATE/p","driver":"STATE/d"}' % (b"a" * 64),
    "drop of no name": b'{"op":"drop","id":"../../etc"}',
    "list after a number": b'{"op":"list","after":7}',
    "too large": b" " * 100_000,
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_refused(patient: RunningMounter, content: bytes) -> None:
    answer = ask(patient, content.replace(b"STATE", bytes(patient.state)))
    assert answer
    assert answer.content.keys() == {"error"}
    assert patient.client.processes() == {}


BAD_HOLDS = {
    "name in capitals": {"id": "A" * 64},
    "name with a line feed": {"id": "a" * 63 + "\n"},
    "plan elsewhere": {"plan": "/etc/passwd"},
    "plan above": {"plan": "STATE/../plan.json"},
    "plan beside": {"plan": "STATE-2/plan.json"},
    "plan with a null": {"plan": "STATE/\0"},
    "relative plan": {"plan": "plan.json"},
    "driver elsewhere": {"driver": "/run/docker.sock"},
    "driver of another kind": {"driver": ["STATE/driver.sock"]},
}


@pytest.mark.parametrize("wrong", BAD_HOLDS.values(), ids=BAD_HOLDS)
def test_hold_with_what_does_not_fit_is_refused(patient: RunningMounter, wrong: dict[str, object]) -> None:
    request = {"op": "hold", "id": "a" * 64, "plan": "STATE/p", "driver": "STATE/d"} | wrong
    text = json.dumps(request).replace("STATE", str(patient.state))
    before = patient.descriptors()
    device = fuse.open_device()
    mount = fuse.mount(device, "a" * 64, noexec=False)
    try:
        answer = ask(patient, text.encode(), device)
        assert answer
        assert answer.content.keys() == {"error"}
    finally:
        os.close(device)
        os.close(mount)
    assert patient.descriptors() == before


def test_hold_of_another_file_is_refused_and_it_is_closed(patient: RunningMounter, tmp_path: Path) -> None:
    request = {"op": "hold", "id": "a" * 64, "plan": f"{patient.state}/p", "driver": f"{patient.state}/d"}
    file, unmounted = os.open(tmp_path, os.O_RDONLY), fuse.open_device()
    before = patient.descriptors()
    for sent in ([file], [unmounted], [unmounted, unmounted], [file] * 253):
        answer = ask(patient, json.dumps(request).encode(), *sent)
        assert answer
        assert answer.content.keys() == {"error"}
    os.close(file)
    os.close(unmounted)
    assert patient.descriptors() == before


def test_who_does_not_listen_costs_nobody_else(mounter: RunningMounter) -> None:
    silent = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(100)]
    for connected in silent:
        connected.connect(str(mounter.socket))
    deaf = silent[0]
    deaf.settimeout(0.2)
    with suppress(OSError):  # it is hung up on
        for _ in range(100_000):
            deaf.send(b'{"op":"list"}')
    assert mounter.client.processes() == {}
    for connected in silent:
        connected.close()


def test_only_root_is_answered(mounter: RunningMounter) -> None:
    mounter.directory.chmod(0o755)
    assert stat.S_IMODE(mounter.socket.stat().st_mode) == 0o600
    mounter.socket.chmod(0o666)  # and if it were for all
    script = (
        "import os,socket,sys; os.setgroups([]); os.setgid(65534); os.setuid(65534);"
        "s=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET); s.connect(sys.argv[1]);"
        's.send(b\'{"op":"list"}\'); sys.exit(len(s.recv(99)))'
    )
    refused = subprocess.run(["python3", "-c", script, str(mounter.socket)], capture_output=True, check=False)
    assert refused.returncode == 0 or b"ConnectionReset" in refused.stderr or b"BrokenPipe" in refused.stderr
    assert "refuses a connection" in mounter.log
