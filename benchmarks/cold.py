"""Cold pulls: one large blob, and many small files, from a registry on this machine."""

from benchmarks.contenders import Contender, interleaved, our_publish, our_pull, process
from benchmarks.figures import Figure, Goal, Kind, Row, paired_ratio
from benchmarks.workbench import Artifact, Workbench

_UNSYNCED = "verified, no fsync"
_MANY_AT_ONCE = "32"
"""What `csi-oras` fetches at once by default: parallelBlobs times parallelRanges."""


def one_blob(bench: Workbench, peers: set[str], runs: int) -> Row:
    """One blob of 2 GiB."""
    artifact = bench.large(1)
    row = Row(name="one-blob", work=f"cold pull, one blob of {artifact.size >> 20} MiB, loopback")
    contenders = [*_ours(artifact), *_peers(artifact, peers), *_one_blob_peers(artifact, peers)]
    row.figures = interleaved(bench, contenders, runs)
    row.goals = [goal for ours in row.of(Kind.OURS) for goal in _one_blob_goals(row, ours)]
    return row


def many_files(bench: Workbench, peers: set[str], runs: int) -> Row:
    """A thousand files of 64 KiB."""
    artifact = bench.many()
    scale = bench.scale
    row = Row(name="many-files", work=f"cold pull, {scale.files} files of {scale.file_bytes >> 10} KiB, loopback")
    contenders = [*_ours(artifact), *_peers(artifact, peers), *_many_files_peers(artifact, peers)]
    row.figures = interleaved(bench, contenders, runs)
    row.goals = [
        goal for ours in row.of(Kind.OURS) for goal in row.against_best_peer(ours, 1, "no slower than the best")
    ]
    return row


def _ours(artifact: Artifact) -> list[Contender]:
    return [our_pull(artifact), our_publish(artifact)]


def _peers(artifact: Artifact, present: set[str]) -> list[Contender]:
    reference, size = artifact.reference, artifact.size
    commands = {
        "oras pull": ["oras", "pull", "--plain-http", "--no-tty", "--output", "{}/out", reference],
        "crane pull": ["crane", "pull", "--insecure", "--format", "oci", reference, "{}/out"],
        "skopeo copy": [
            "skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", f"docker://{reference}", "dir:{}/out",
        ],
    }  # fmt: skip
    return [
        Contender(who=who, kind=Kind.PEER, run=process(*command, least=size), note=_UNSYNCED)
        for who, command in commands.items()
        if command[0] in present
    ]


def _blob_url(artifact: Artifact, digest: str) -> str:
    registry, _, rest = artifact.reference.partition("/")
    return f"http://{registry}/v2/{rest.rpartition(':')[0]}/blobs/{digest}"


def _one_blob_peers(artifact: Artifact, present: set[str]) -> list[Contender]:
    contenders = []
    digest, size = artifact.digests[0], artifact.size
    url = _blob_url(artifact, digest)
    if "crane" in present:
        name = f"{artifact.reference.rpartition(':')[0]}@{digest}"
        run = process("sh", "-c", f"crane blob --insecure {name} >{{}}/out", least=size)
        contenders.append(Contender(who="crane blob", kind=Kind.PEER, run=run, note=_UNSYNCED))
    if "curl" in present:
        run = process("sh", "-c", f"curl -sSf {url} | sha256sum | grep -q {digest[7:]}", least=0)
        contenders.append(
            Contender(
                who="curl, sha256sum",
                kind=Kind.LIMIT,
                run=run,
                note="verified (by what sha256sum makes of this processor), not written",
            )
        )
        run = process("sh", "-c", f"curl -sSf -o {{}}/out {url} && sync {{}}/out", least=size)
        contenders.append(Contender(who="curl, sync", kind=Kind.LIMIT, run=run, note="not verified, fsync counted"))
    return contenders


def _many_files_peers(artifact: Artifact, present: set[str]) -> list[Contender]:
    contenders = []
    if "oras" in present:
        command = ["oras", "pull", "--plain-http", "--no-tty", "--concurrency", _MANY_AT_ONCE, "--output", "{}/out"]
        run = process(*command, artifact.reference, least=artifact.size)
        contenders.append(Contender(who=f"oras pull, {_MANY_AT_ONCE} at once", kind=Kind.PEER, run=run, note=_UNSYNCED))
    if "curl" in present:
        urls = " ".join(_blob_url(artifact, digest) for digest in artifact.digests)
        script = (
            f"mkdir {{}}/out && cd {{}}/out && curl -sSf -Z --parallel-max {_MANY_AT_ONCE} --remote-name-all {urls}"
        )
        run = process("sh", "-c", script, least=artifact.size)
        note = "neither verified nor synced"
        contenders.append(Contender(who=f"curl, {_MANY_AT_ONCE} at once", kind=Kind.LIMIT, run=run, note=note))
    return contenders


def _one_blob_goals(row: Row, ours: Figure) -> list[Goal]:
    goals = row.against_best_peer(ours, 1.25, "at least 1.25 times as fast as the best peer")
    limit = next((figure for figure in row.figures if figure.who == "curl, sync"), None)
    if limit:
        ratio, _, _ = paired_ratio(ours, limit)
        text = f"{ours.who}: within 1.15 of curl that writes and syncs"
        goals.append(Goal(text=text, measured=f"{ratio:.2f}", reached=ratio <= 1.15))
    return goals
