"""Ctrl-C ends every command quietly and with 130, whenever it comes."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

_PATIENCE = 60


@pytest.mark.parametrize("module", ["click.globals", "csi_oras.cli.commands", "sqlite3"])
def test_interrupt_while_a_command_is_loaded_ends_it_quietly(tmp_path: Path, module: str) -> None:
    command = [
        sys.executable,
        "-X",
        "importtime",
        "-m",
        "csi_oras",
        "store",
        "ls",
        "--state-dir",
        str(tmp_path / "none"),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr
        for line in process.stderr:  # one for each module that is loaded
            if line.split()[-1] == module:
                process.send_signal(signal.SIGINT)
                break
        rest = [line for line in process.stderr if not line.startswith("import time:")]
        assert (process.wait(_PATIENCE), rest) == (130, [])


@pytest.mark.parametrize("arguments", [("doctor",), ("inspect",), ("pull",)])
def test_interrupt_while_a_command_waits_for_a_registry_ends_it_quietly(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(_PATIENCE)
        reference = f"127.0.0.1:{silent.getsockname()[1]}/a:v1"
        command = [sys.executable, "-m", "csi_oras", *arguments, reference, "--state-dir", str(tmp_path / "state")]
        with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            connection, _ = silent.accept()
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=_PATIENCE)
            connection.close()
        assert (process.returncode, *said) == (130, "", "")
