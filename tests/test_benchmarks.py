"""The harness itself, on tiny work: every row runs, what it says is true, and nothing is left behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.figures import Figure, Kind, Row, paired_ratio

_ROOT = Path(__file__).parent.parent
_COMMAND = [sys.executable, "-m", "benchmarks", "--small", "--runs", "1"]


def _figure(*samples: float, who: str = "us", kind: Kind = Kind.OURS) -> Figure:
    return Figure(who=who, kind=kind, unit="s", samples=samples)


def _processes_of(directory: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:
            continue
        if os.fsencode(directory) in command:
            found.append(command.decode(errors="replace"))
    return found


def test_percentile_is_the_nearest_rank() -> None:
    hundred = _figure(*range(100, 0, -1))
    assert (hundred.percentile(99), hundred.percentile(50), hundred.percentile(100)) == (99, 50, 100)
    assert _figure(7).percentile(99) == 7


def test_ratio_pairs_the_samples_of_a_round() -> None:
    assert paired_ratio(_figure(2, 20, 3), _figure(1, 10, 1)) == (2, 2, 3)


def test_best_peer_is_no_limit_and_none_of_ours() -> None:
    row = Row(name="row", work="work")
    row.figures = [
        _figure(4, 4),
        _figure(1, 1, who="limit", kind=Kind.LIMIT),
        _figure(3, 3, who="fast", kind=Kind.PEER),
        _figure(9, 9, who="slow", kind=Kind.PEER),
    ]
    best = row.best_peer(row.ours)
    assert best is not None
    assert best.who == "fast"


@pytest.mark.needs("root", "registry")
def test_small_run_measures_every_row_and_leaves_nothing(tmp_path: Path, short_path: Path) -> None:
    document, room = tmp_path / "figures.json", short_path
    command = [*_COMMAND, "--json", str(document), "--directory", str(room)]
    ran = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    rows = {row["name"]: row for row in json.loads(document.read_text())["rows"]}
    assert list(rows) == ["one-blob", "many-files", "warm", "herd", "memory"]
    for row in rows.values():
        assert row["work"] in ran.stdout
        assert all(sample > 0 for figure in row["figures"] for sample in figure["samples"])
    assert rows["herd"]["goals"][0]["reached"], "a blob was fetched twice"
    assert list(room.iterdir()) == []
    assert _processes_of(room) == []


@pytest.mark.needs("root", "registry")
def test_interrupted_run_leaves_nothing(short_path: Path) -> None:
    command = [*_COMMAND, "--only", "one-blob", "--directory", str(short_path)]
    with subprocess.Popen(command, cwd=_ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr
        seen = next((line for line in process.stderr if "round" in line), "")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does for Ctrl-C
        process.stderr.read()
        assert process.wait(60) != 0
    assert "round 1" in seen
    assert list(short_path.iterdir()) == []
    assert _processes_of(short_path) == []
