"""`csi-oras doctor` as an administrator runs it, and what it says."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The exit code and the document."""

    code: int
    document: dict[str, Any]

    def states(self, name: str) -> list[str]:
        """What came of the checks of a name."""
        return [check["state"] for check in self.document["checks"] if check["name"] == name]

    def said(self, name: str) -> str:
        """What the checks of a name say, with their remedies."""
        named = [check for check in self.document["checks"] if check["name"] == name]
        return "\n".join(f"{check['message']} -> {check['remedy']}" for check in named)

    @property
    def failed(self) -> list[str]:
        """The names of the checks that failed."""
        return [check["name"] for check in self.document["checks"] if check["state"] == "failed"]


Examine = Callable[..., Diagnosis]


def doctor(*arguments: str | Path, stdin: str = "", prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run the program."""
    command = [*prefix, sys.executable, "-m", "csi_oras", "doctor", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, input=stdin, timeout=90, check=False)


def diagnose(*arguments: str | Path, stdin: str = "") -> Diagnosis:
    """Run the program for its document."""
    ended = doctor(*arguments, "--json", stdin=stdin)
    assert ended.stderr == "", ended.stderr
    assert ended.stdout.count("\n") == 1
    found = Diagnosis(code=ended.returncode, document=json.loads(ended.stdout))
    assert found.code == (1 if found.failed else 0)
    assert all(set(check) == {"name", "state", "message", "remedy"} for check in found.document["checks"])
    return found


def mirror(url: str, capabilities: str = '"pull", "resolve"') -> str:
    """What a hosts.toml says of a mirror."""
    return f'[host."{url}"]\ncapabilities = [{capabilities}]\n'
