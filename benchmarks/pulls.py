"""Cold pulls of plain blobs: everybody's way to fetch an artifact that is not unpacked."""

from benchmarks.contenders import Contender, our_publish, our_pull, process
from benchmarks.figures import Kind
from benchmarks.workbench import Artifact

_UNSYNCED = "verified, no fsync"
_MANY_AT_ONCE = "32"
"""What `csi-oras` fetches at once by default: parallelBlobs times parallelRanges."""
_RANGES = 8
"""What `csi-oras` fetches of one blob at once by default."""


def ours(artifact: Artifact) -> list[Contender]:
    """Return our two ways."""
    return [our_pull(artifact), our_publish(artifact)]


def peers(artifact: Artifact, present: set[str]) -> list[Contender]:
    """Return the peers that are present, as they come."""
    reference, size = artifact.reference, artifact.size
    commands = {
        "oras pull": ["oras", "pull", "--plain-http", "--no-tty", "--output", "{}/out", reference],
        "crane pull": ["crane", "pull", "--insecure", "--format", "oci", reference, "{}/out"],
        "skopeo copy": [
            "skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", f"docker://{reference}", "oci:{}/out:x",
        ],
    }  # fmt: skip
    return [
        Contender(who=who, kind=Kind.PEER, run=process(*command, least=size), note=_UNSYNCED)
        for who, command in commands.items()
        if command[0] in present
    ]


def crane_blob(artifact: Artifact, present: set[str]) -> list[Contender]:
    """Return crane's way to fetch a single blob."""
    if "crane" not in present:
        return []
    name = f"{artifact.reference.rpartition(':')[0]}@{artifact.digests[0]}"
    run = process("sh", "-c", f"crane blob --insecure {name} >{{}}/out", least=artifact.size)
    return [Contender(who="crane blob", kind=Kind.PEER, run=run, note=_UNSYNCED)]


def oras_at_once(artifact: Artifact, present: set[str]) -> list[Contender]:
    """Return oras, told to fetch as many files at once as we do."""
    if "oras" not in present:
        return []
    command = ["oras", "pull", "--plain-http", "--no-tty", "--concurrency", _MANY_AT_ONCE, "--output", "{}/out"]
    run = process(*command, artifact.reference, least=artifact.size)
    return [Contender(who=f"oras pull, {_MANY_AT_ONCE} at once", kind=Kind.PEER, run=run, note=_UNSYNCED)]


def curl_at_once(artifact: Artifact, present: set[str]) -> list[Contender]:
    """Return what as many connections as we open can do for small files."""
    if "curl" not in present:
        return []
    urls = " ".join(_blob_url(artifact, digest) for digest in artifact.digests)
    script = f"mkdir {{}}/out && cd {{}}/out && curl -sSf -Z --parallel-max {_MANY_AT_ONCE} --remote-name-all {urls}"
    run = process("sh", "-c", script, least=artifact.size)
    note = "neither verified nor synced"
    return [Contender(who=f"curl, {_MANY_AT_ONCE} at once", kind=Kind.LIMIT, run=run, note=note)]


def curl_stream(artifact: Artifact, present: set[str]) -> list[Contender]:
    """Return what one connection can do: verified and not written, written and not verified."""
    if "curl" not in present:
        return []
    digest = artifact.digests[0]
    url = _blob_url(artifact, digest)
    verified = process("sh", "-c", f"curl -sSf {url} | sha256sum | grep -q {digest[7:]}", least=0)
    written = process("sh", "-c", f"curl -sSf -o {{}}/out {url} && sync {{}}/out", least=artifact.size)
    note = "verified (by what sha256sum makes of this processor), not written"
    return [
        Contender(who="curl, sha256sum", kind=Kind.LIMIT, run=verified, note=note),
        Contender(who="curl, sync", kind=Kind.LIMIT, run=written, note="not verified, fsync counted"),
    ]


def curl_ranges(artifact: Artifact, present: set[str]) -> list[Contender]:
    """Return what the way to the registry carries on as many connections as we open for a blob."""
    if "curl" not in present:
        return []
    url, step = _blob_url(artifact, artifact.digests[0]), -(-artifact.size // _RANGES)
    get = f"curl -sSf -o /dev/null {url} -r"
    script = " & ".join(f"{get} {first}-{first + step - 1}" for first in range(0, artifact.size, step)) + " & wait"
    run = process("sh", "-c", script, least=0)
    note = "neither verified nor written: what the link carries"
    return [Contender(who=f"curl, {_RANGES} ranges", kind=Kind.LIMIT, run=run, note=note)]


def _blob_url(artifact: Artifact, digest: str) -> str:
    registry, _, rest = artifact.reference.partition("/")
    return f"http://{registry}/v2/{rest.rpartition(':')[0]}/blobs/{digest}"
