"""Cold pulls from a registry that is far away: latency, a rate for each connection, and answers that are cut off."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import pulls
from benchmarks.contenders import Contender, interleaved
from benchmarks.figures import Figure, Kind, Row
from benchmarks.link import Link
from benchmarks.workbench import Workbench

_ROUNDS = 2
"""A link that is paced hardly varies, and everybody waits for it."""
_ROUNDS_WITH_RESETS = 1
"""Who gets through, and at what cost."""


def far_blob(bench: Workbench, peers: set[str], runs: int) -> Row:
    """One blob of 2 GiB through the link."""
    return _blob(bench, peers, runs, resets=False)


def far_blob_resets(bench: Workbench, peers: set[str], runs: int) -> Row:
    """The same with resets."""
    return _blob(bench, peers, runs, resets=True)


def far_files(bench: Workbench, peers: set[str], runs: int) -> Row:
    """A thousand files of 64 KiB through the link."""
    return _files(bench, peers, runs, resets=False)


def far_files_resets(bench: Workbench, peers: set[str], runs: int) -> Row:
    """The same with resets."""
    return _files(bench, peers, runs, resets=True)


def _blob(bench: Workbench, peers: set[str], runs: int, *, resets: bool) -> Row:
    with bench.link(resets=resets) as link:
        artifact = bench.large(1).through(link)
        row = Row(name="far-blob", work=f"cold pull, one blob of {artifact.size >> 20} MiB")
        contenders = [*pulls.ours(artifact), *pulls.peers(artifact, peers)]
        contenders += [] if resets else pulls.curl_ranges(artifact, peers)
        return _measured(bench, row, link, contenders, runs, factor=3)


def _files(bench: Workbench, peers: set[str], runs: int, *, resets: bool) -> Row:
    scale = bench.scale
    with bench.link(resets=resets) as link:
        artifact = bench.many().through(link)
        row = Row(name="far-files", work=f"cold pull, {scale.files} files of {scale.file_bytes >> 10} KiB")
        contenders = [*pulls.ours(artifact), *pulls.peers(artifact, peers), *pulls.oras_at_once(artifact, peers)]
        contenders += [] if resets else pulls.curl_at_once(artifact, peers)
        return _measured(bench, row, link, contenders, runs, factor=2)


def _measured(
    bench: Workbench, row: Row, link: Link, contenders: Sequence[Contender], runs: int, *, factor: float
) -> Row:
    conditions = link.conditions
    row.work += f", {conditions.round_trip * 1000:.0f} ms and {conditions.rate / 1e6:.0f} MB/s per connection"
    cut = Counter[str]()
    rounds = min(runs, _ROUNDS_WITH_RESETS if conditions.reset_every else _ROUNDS)
    figures = interleaved(bench, [_watched(contender, link, cut) for contender in contenders], rounds)
    row.figures = figures
    if conditions.reset_every:
        row.name += "-resets"
        ours, theirs = (
            sum(cut[figure.who] for figure in figures if figure.kind is kind) for kind in (Kind.OURS, Kind.PEER)
        )
        row.work += f", one answer in {conditions.reset_every} cut off by a reset (ours: {ours}, peers': {theirs})"
        row.figures = [_annotated(figure, cut[figure.who]) for figure in figures]
    row.goals = row.against_best_peer(factor, f"at least {factor} times as fast as the best peer that gets it")
    return row


def _watched(contender: Contender, link: Link, cut: Counter[str]) -> Contender:
    """Count the answers that are cut off while a contender runs."""

    def run(place: Path) -> float:
        before = link.resets
        try:
            return contender.run(place)
        finally:
            cut[contender.who] += link.resets - before

    return replace(contender, run=run)


def _annotated(figure: Figure, cut: int) -> Figure:
    note = ", ".join(filter(None, (figure.note, f"answers cut off: {cut}")))
    return replace(figure, note=note)
