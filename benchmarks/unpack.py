"""Cold pulls of archives, unpacked: a container image, and a directory as ORAS packs it.

Each peer does the same work as we: image against image, directory against directory.
"""

from benchmarks.contenders import Contender, interleaved, our_publish, our_pull, process
from benchmarks.figures import Kind, Row
from benchmarks.workbench import Artifact, Workbench, in_layers

_UNSYNCED = "verified, no fsync"


def unpack_image(bench: Workbench, peers: set[str], runs: int) -> Row:
    """Unpack a container image of several layers."""
    files = bench.samples()
    layers = in_layers(files)
    artifact = bench.image("image", layers)
    work = f"cold pull and unpacking, image of {len(layers)} layers, {_amount(artifact, len(files))}"
    return _row("unpack-image", work, bench, [*_ours(artifact), *_image_peers(artifact, peers)], runs)


def unpack_directory(bench: Workbench, peers: set[str], runs: int) -> Row:
    """Unpack a directory that is one archive."""
    files = bench.samples()
    artifact = bench.directory_artifact("directory", files)
    work = f"cold pull and unpacking, ORAS directory in one archive, {_amount(artifact, len(files))}"
    return _row("unpack-directory", work, bench, [*_ours(artifact), *_directory_peers(artifact, peers)], runs)


def _row(name: str, work: str, bench: Workbench, contenders: list[Contender], runs: int) -> Row:
    row = Row(name=name, work=work)
    row.figures = interleaved(bench, contenders, runs)
    row.goals = row.against_best_peer(1, "no slower than the best peer")
    return row


def _amount(artifact: Artifact, files: int) -> str:
    return f"{files} files, {artifact.unpacked / 2**20:.0f} MiB, packed {artifact.size / 2**20:.0f} MiB, loopback"


def _ours(artifact: Artifact) -> list[Contender]:
    return [our_pull(artifact), our_publish(artifact)]


def _image_peers(artifact: Artifact, present: set[str]) -> list[Contender]:
    contenders = []
    if {"skopeo", "umoci"} <= present:
        run = process("sh", "-c", skopeo_and_umoci(artifact, "out"), least=artifact.kept)
        note = f"{_UNSYNCED}, keeps the layers as we do"
        contenders.append(Contender(who="skopeo copy + umoci raw unpack", kind=Kind.PEER, run=run, note=note))
    if "crane" in present:
        script = f"mkdir {{}}/out && crane export --insecure {artifact.reference} - | tar -xf - -C {{}}/out"
        run = process("sh", "-c", script, least=artifact.unpacked)
        note = f"{_UNSYNCED}, keeps no layers"
        contenders.append(Contender(who="crane export + tar", kind=Kind.PEER, run=run, note=note))
    return contenders


def _directory_peers(artifact: Artifact, present: set[str]) -> list[Contender]:
    if "oras" not in present:
        return []
    run = process(*oras_pull(artifact, "out"), least=artifact.unpacked)
    return [Contender(who="oras pull", kind=Kind.PEER, run=run, note=f"{_UNSYNCED}, keeps no archive")]


def skopeo_and_umoci(artifact: Artifact, name: str) -> str:
    """Return the shell command that unpacks an image to `name`; its layers go to a layout that images share."""
    tag = artifact.reference.rpartition(":")[2]
    layout = f"{{}}/layout:{tag}"
    copy = f"skopeo --insecure-policy copy --quiet --src-tls-verify=false docker://{artifact.reference} oci:{layout}"
    return f"{copy} && umoci raw unpack --image {layout} {{}}/{name}"


def oras_pull(artifact: Artifact, name: str) -> list[str]:
    """Return the command that unpacks an ORAS directory below `name`."""
    return ["oras", "pull", "--plain-http", "--no-tty", "--output", f"{{}}/{name}", artifact.reference]
