"""What was measured where: the machine, and the version of every program that takes part."""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import csi_oras

PEERS = {
    "oras": ["oras", "version"],
    "crane": ["crane", "version"],
    "skopeo": ["skopeo", "--version"],
    "umoci": ["umoci", "--version"],
    "hostpathplugin": ["hostpathplugin", "--version"],
    "curl": ["curl", "--version"],
    "passthrough_ll": ["passthrough_ll", "--version"],
}
_OTHERS = {"docker-registry": ["docker-registry", "--version"]}
_VERSION = re.compile(r"v?\d+\.\d+[\w.+-]*|\b[0-9a-f]{7,40}\b")


def present() -> set[str]:
    """Return the peers that are on PATH."""
    return {name for name in PEERS if shutil.which(name)}


def versions() -> dict[str, str]:
    """Return the version of us and of every program that is there."""
    found = {"csi-oras": csi_oras.__version__ + _commit()}
    for name, command in {**PEERS, **_OTHERS}.items():
        if shutil.which(name):
            found[name] = _version(command)
    return found


def _version(command: list[str]) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    found = _VERSION.search(ran.stdout + ran.stderr)
    return found[0] if found else "of unknown version"


def _commit() -> str:
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "rev-parse", "--short", "HEAD"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return f" ({ran.stdout.strip()})" if ran.returncode == 0 else ""


def describe(directory: Path) -> dict[str, str]:
    """Return what of the machine matters to the figures; `directory` is where the data lies."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": f"{len(os.sched_getaffinity(0))} x {_processor()}",
        "memory": f"{memory / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "file system": _filesystem(directory),
        "load before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _filesystem(directory: Path) -> str:
    command = ["df", "--output=fstype", str(directory)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return ran.stdout.strip().rpartition("\n")[2] or "unknown"
