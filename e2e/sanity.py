"""csi-sanity: runs the suite against a driver's socket and reads its report."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

_SECONDS = 120


@dataclass(frozen=True, kw_only=True)
class Report:
    """The names of specs by how they ended, and what the suite wrote."""

    passed: frozenset[str]
    failed: frozenset[str]
    skipped: Mapping[str, str]
    output: str


def program() -> Path | None:
    """Return the suite's binary where `.ci/setup` built one, or one on PATH."""
    cache = Path(
        os.environ.get("CSI_ORAS_CACHE")
        or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "csi-oras"
    )
    built = cache / "bin" / "csi-sanity"
    found = shutil.which("csi-sanity")
    return built if os.access(built, os.X_OK) else Path(found) if found else None


def run(binary: Path, endpoint: str, directory: Path, parameters: Mapping[str, str]) -> Report:
    """Run every spec; `directory` is below the driver's kubelet directory, `parameters` are the StorageClass's."""
    directory.mkdir(parents=True, exist_ok=True)
    parameters_file, report = directory / "parameters.yaml", directory / "report.xml"
    parameters_file.write_text("".join(f"{key}: {value}\n" for key, value in parameters.items()))
    command = [
        str(binary), f"--csi.endpoint={endpoint}", f"--csi.mountdir={directory / 'mount'}",
        f"--csi.stagingdir={directory / 'staging'}", f"--csi.testvolumeparameters={parameters_file}",
        f"--ginkgo.junit-report={report}", "--ginkgo.no-color",
    ]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    return _read(report, ended.stdout + ended.stderr)


def _read(report: Path, output: str) -> Report:
    passed, failed, skipped = set(), set(), {}
    for case in ET.parse(report).getroot().iter("testcase"):  # noqa: S314 (our own file)
        name, status = case.get("name", "").removeprefix("[It] "), case.get("status", "")
        if status == "passed":
            passed.add(name)
        elif status in ("skipped", "pending"):
            reason = case.find("skipped")
            skipped[name] = (reason.get("message") or "") if reason is not None else ""
        else:
            failed.add(name)
    return Report(passed=frozenset(passed), failed=frozenset(failed), skipped=skipped, output=output)
