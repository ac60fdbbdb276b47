"""Cold pulls: one large blob, and many small files, from a registry on this machine."""

from benchmarks import pulls
from benchmarks.contenders import interleaved
from benchmarks.figures import Kind, Row, against
from benchmarks.workbench import Workbench

_CURL_FACTOR = 1.15


def one_blob(bench: Workbench, peers: set[str], runs: int) -> Row:
    """One blob of 2 GiB."""
    artifact = bench.large(1)
    row = Row(name="one-blob", work=f"cold pull, one blob of {artifact.size >> 20} MiB, loopback")
    contenders = [*pulls.ours(artifact), *pulls.peers(artifact, peers), *pulls.crane_blob(artifact, peers)]
    row.figures = interleaved(bench, [*contenders, *pulls.curl_stream(artifact, peers)], runs)
    row.goals = row.against_best_peer(1.25, "at least 1.25 times as fast as the best peer")
    limit = [figure for figure in row.figures if figure.who == "curl, sync"]
    text = f"within {_CURL_FACTOR} of curl that writes and syncs ({1 / _CURL_FACTOR:.2f})"
    row.goals += [against(curl, ours, 1 / _CURL_FACTOR, text) for curl in limit for ours in row.of(Kind.OURS)]
    return row


def many_files(bench: Workbench, peers: set[str], runs: int) -> Row:
    """A thousand files of 64 KiB."""
    artifact = bench.many()
    scale = bench.scale
    row = Row(name="many-files", work=f"cold pull, {scale.files} files of {scale.file_bytes >> 10} KiB, loopback")
    contenders = [*pulls.ours(artifact), *pulls.peers(artifact, peers), *pulls.oras_at_once(artifact, peers)]
    row.figures = interleaved(bench, [*contenders, *pulls.curl_at_once(artifact, peers)], runs)
    row.goals = row.against_best_peer(1, "no slower than the best peer")
    return row
