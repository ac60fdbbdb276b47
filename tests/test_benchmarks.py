"""The harness itself, on tiny work: every row runs, what it says is true, and nothing is left behind."""

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks.__main__ import GROUPS, ROWS
from benchmarks.archives import pack
from benchmarks.content import samples, versions
from benchmarks.disk import usage_of
from benchmarks.figures import Chart, Figure, Kind, Row, paired_ratio
from benchmarks.link import Conditions, Link
from benchmarks.plot import draw
from csi_oras.demo.distribution import Distribution
from tests.support.artifacts import Pusher

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


def test_samples_have_the_size_that_is_asked_for_and_names_of_their_own() -> None:
    files = samples(2000, 100 << 20)
    assert sum(sample.size for sample in files) == pytest.approx(100 << 20, rel=0.01)
    assert (files[0].size, files[-1].size > 1 << 20, len({sample.name for sample in files})) == (200, True, 2000)
    assert [len(sample.content()) for sample in files[::100]] == [sample.size for sample in files[::100]]


def test_version_changes_a_tenth_of_files_and_bytes() -> None:
    first, second, third = versions(samples(5000, 256 << 20), 3)
    for before, after in ((first, second), (second, third)):
        pairs = list(zip(before, after, strict=True))
        changed = [new for old, new in pairs if old != new]
        assert len(changed) == 500
        assert sum(sample.size for sample in changed) == pytest.approx((256 << 20) / 10, rel=0.05)
        assert all(old.name == new.name for old, new in pairs)
        assert all((old == new) is (old.content() == new.content()) for old, new in pairs[:1000])


def test_archive_holds_the_samples_and_is_the_same_again(tmp_path: Path) -> None:
    files = samples(50, 1 << 20)
    one, other = (pack(files, tmp_path / name, directory="top") for name in ("one", "other"))
    assert one.path.read_bytes() == other.path.read_bytes()
    with tarfile.open(one.path) as archive:
        held = {member.name: archive.extractfile(member).read() for member in archive if member.isfile()}  # type: ignore[union-attr]
    assert held == {f"top/{sample.name}": sample.content() for sample in files}


def test_usage_counts_an_inode_once_where_it_is_found_first(tmp_path: Path) -> None:
    for part in ("blobs", "objects", "trees"):
        (tmp_path / part).mkdir()
    (tmp_path / "blobs/blob").write_bytes(os.urandom(2 << 20))
    (tmp_path / "trees/name").hardlink_to(tmp_path / "blobs/blob")
    os.sync()
    usage = usage_of(tmp_path)
    assert usage["blobs"] == pytest.approx(2, abs=0.1)
    assert usage["whole"] == pytest.approx(2, abs=0.1)
    assert usage["trees"] < 0.1


def test_best_peer_of_a_row_that_some_fail_is_who_does_it() -> None:
    row = Row(name="row", work="work")
    row.figures = [_figure(2, 2), _figure(1, math.inf, who="broken", kind=Kind.PEER)]
    (goal,) = row.against_best_peer(3, "three times")
    assert (goal.peer, goal.ratio, goal.reached) == ("broken failed in 1 of 2 rounds", "", True)
    row.figures.append(_figure(4, 4, who="whole", kind=Kind.PEER))
    (goal,) = row.against_best_peer(3, "three times")
    assert (goal.peer, goal.ratio, goal.reached) == ("whole 4 s; broken failed in 1 of 2 rounds", "2.00", False)


def test_plot_has_every_point_in_its_box_and_names_as_text(tmp_path: Path) -> None:
    curves = {"a & b": [(10, 0.9), (1000, 1.1), (10_000, 2.3)], "<c>": [(10, 1.0), (10_000, 1.0)]}
    chart = Chart(title="how it grows", x="artifacts", y="times", curves=curves, goal=[(10, 1.2), (10_000, 1.2)])
    draw([chart, chart], "a caption", tmp_path / "plot.svg")
    svg = ET.parse(tmp_path / "plot.svg").getroot()  # noqa: S314 (our own)
    texts = [element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert {"how it grows", "a & b", "<c>", "goal", "10", "1,000", "10,000", "a caption"} <= set(texts)
    dots = [
        (float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in svg.iter("{http://www.w3.org/2000/svg}circle")
    ]
    assert len(dots) == 14
    assert all(0 < x < 460 and 0 < y < 320 for x, y in dots)
    first, middle, last = (dot[1] for dot in dots[:3])
    assert first > middle > last, "what is more is not drawn higher"


def test_goal_of_a_row_that_we_fail_is_not_reached() -> None:
    row = Row(name="row", work="work")
    row.figures = [_figure(math.inf), _figure(math.inf, who="them", kind=Kind.PEER)]
    assert not row.against_best_peer(1, "as fast")[0].reached


def _get(address: str, path: str) -> bytes:
    with urllib.request.urlopen(f"http://{address}{path}", timeout=20) as answer:
        body: bytes = answer.read()
        return body


def test_link_carries_whole_blobs_and_counts_them(registry: Distribution, pusher: Pusher, repository: str) -> None:
    content = os.urandom(3 << 20)
    path = f"/v2/{repository}/blobs/{pusher.blob(repository, content)}"
    with Link(registry.address, Conditions(rate=2_000_000_000)) as link:
        assert _get(link.address, path) == content
        assert _get(link.address, "/v2/") == b"{}"
        assert link.carried == len(content)
        assert link.resets == 0


def test_link_paces_a_connection_and_holds_a_request(registry: Distribution, pusher: Pusher, repository: str) -> None:
    content = os.urandom(4 << 20)
    path = f"/v2/{repository}/blobs/{pusher.blob(repository, content)}"
    with Link(registry.address, Conditions(rate=20_000_000, round_trip=0.1)) as link:
        started = time.monotonic()
        _get(link.address, path)
        assert time.monotonic() - started > 0.2 + 0.7 * len(content) / 20_000_000


def test_link_cuts_off_one_answer_in_so_many(registry: Distribution, pusher: Pusher, repository: str) -> None:
    path = f"/v2/{repository}/blobs/{pusher.blob(repository, os.urandom(1 << 20))}"
    failed = []
    with Link(registry.address, Conditions(rate=2_000_000_000, round_trip=0, reset_every=3)) as link:
        for number in range(1, 7):
            try:
                _get(link.address, path)
            except ConnectionResetError:
                failed.append(number)
        assert link.resets == 2
    assert failed == [3, 6]


def test_link_closes_what_is_no_http_at_once(registry: Distribution) -> None:
    with Link(registry.address, Conditions(rate=1_000_000)) as link:
        host, _, port = link.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=20) as client:
            client.sendall(b"\x16\x03\x01")
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b""


_PARTS = {
    "near": ["one-blob", "many-files", "warm", "herd", "memory"],
    "far": ["far-blob", "far-files", "resume"],
    "resets": ["far-blob-resets", "far-files-resets"],
    "unpack": ["unpack-image", "unpack-directory", "unpack-memory"],
    "versions": ["versions-files", "versions-directory", "versions-image", "versions-layers"],
    "growth": ["growth", "restart", "collection"],
    "push": ["push-blob", "push-files", "push-many"],
    "again": ["again-blob", "again-files", "again-many", "again-spread"],
    "pod-end": ["pod-end", "pod-end-hang", "push-memory"],
    "lazy": ["lazy-first", "lazy-reads", "lazy-memory"],
    "lazy-pulls": ["lazy-cold", "lazy-some"],
}
_ALWAYS = ("near",)
"""What every run looks at; make soak does the rest."""


def test_parts_are_all_rows() -> None:
    assert {row for rows in _PARTS.values() for row in rows} == set(ROWS)
    assert {row for rows in GROUPS.values() for row in rows} <= set(ROWS)


def _marks(part: str) -> list[pytest.MarkDecorator]:
    needed = [pytest.mark.needs("fuse")] if part.startswith("lazy") else []
    return needed if part in _ALWAYS else [*needed, pytest.mark.soak]


@pytest.mark.needs("root", "registry")
@pytest.mark.parametrize(
    "names",
    [pytest.param(names, id=part, marks=_marks(part)) for part, names in _PARTS.items()],
)
def test_small_run_measures_every_row_and_leaves_nothing(names: list[str], tmp_path: Path, short_path: Path) -> None:
    document, table = tmp_path / "figures.json", tmp_path / "table.md"
    only = [part for name in names for part in ("--only", name)]
    command = [*_COMMAND, *only, "--json", str(document), "--markdown", str(table), "--directory", str(short_path)]
    ran = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    rows = {row["name"]: row for row in json.loads(document.read_text())["rows"]}
    assert list(rows) == names
    for row in rows.values():
        assert row["work"] in table.read_text()
        assert row["seconds"] > 0
        ours = [figure for figure in row["figures"] if figure["kind"] == "ours"]
        assert all(sample is not None and sample >= 0 for figure in ours for sample in figure["samples"]), ran.stderr
    assert table.read_text() in ran.stdout
    assert all(rows[name]["goals"][0]["reached"] for name in names if name == "herd"), "a blob was fetched twice"
    fetched = [goal for name in names if name == "lazy-some" for goal in rows[name]["goals"]]
    assert all(goal["reached"] for goal in fetched), "a lazy volume fetched what nobody had read"
    assert list(short_path.iterdir()) == []
    assert _processes_of(short_path) == []


@pytest.mark.needs("root", "registry")
@pytest.mark.parametrize(("row", "moment"), [("one-blob", "round"), ("far-blob", "round"), ("resume", "killed")])
def test_interrupted_run_leaves_nothing(row: str, moment: str, short_path: Path) -> None:
    command = [*_COMMAND, "--only", row, "--directory", str(short_path)]
    with subprocess.Popen(command, cwd=_ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr
        seen = next((line for line in process.stderr if moment in line), "")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does for Ctrl-C
        process.stderr.read()
        assert process.wait(60) != 0
    assert moment in seen
    assert list(short_path.iterdir()) == []
    assert _processes_of(short_path) == []
