"""A policy file with wishes, and what became of them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from csi_oras.store.database import Database
from csi_oras.store.wishes import WishRecords
from tests.support.driver import Driver
from tests.support.pods import wait_for

Row = dict[str, Any]


class WishList:
    """A policy file whose wishes change; `rest` is what else it says."""

    def __init__(self, directory: Path, rest: str = "") -> None:
        self.path = directory / "policy.yaml"
        self._rest = rest
        self.set()

    def set(self, *references: str, every: str = "1s") -> None:
        """Wish for these from now on."""
        wishes = [{"reference": reference, "every": every} for reference in references]
        self.path.write_text(f"{self._rest}prefetch: {json.dumps(wishes)}\n")

    def driver(self, directory: Path, *flags: str) -> Driver:
        """A driver under this policy."""
        return Driver(directory, "--config", str(self.path), *flags)


def command(state: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `csi-oras store prefetch` on a store."""
    line = [sys.executable, "-m", "csi_oras", "store", "prefetch", "--state-dir", str(state), *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)


def rows(state: Path, *arguments: str) -> dict[str, Row]:
    """What `store prefetch --json` says, by reference."""
    said = command(state, "--json", *arguments)
    assert said.returncode == 0, said.stderr
    documents: list[Row] = json.loads(said.stdout)
    found = {document["reference"]: document for document in documents}
    assert len(found) == len(documents)
    return found


def states(state: Path) -> dict[str, str]:
    """The state of each reference, from the records: a command for each look would take all of a test's time."""
    if not (state / "state.db").exists():
        return {}
    database = Database(state / "state.db", read_only=True)
    try:
        return {record.reference: str(record.state) for record in WishRecords(database).all()}
    finally:
        database.close()


def wait_for_states(state: Path, wanted: dict[str, str]) -> None:
    """Return when the references of all wishes have just these states."""
    wait_for(lambda: states(state) == wanted)
