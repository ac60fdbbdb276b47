"""`pull` and `push`: one artifact, from or to a registry."""

import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click
from rich.filesize import decimal

from csi_oras.app import Application
from csi_oras.cli.bars import bars
from csi_oras.cli.options import (
    REFERENCE,
    application,
    credential,
    registry_options,
    reports_errors,
    selection_options,
    store_options,
)
from csi_oras.cli.output import count_files
from csi_oras.errors import InvalidRequestError
from csi_oras.oci.chunk_index import ChunkIndex
from csi_oras.oci.reference import Reference
from csi_oras.registry.client import RepositoryClient
from csi_oras.store.leases import PullLease
from csi_oras.store.staging import staging
from csi_oras.telemetry.progress import Progress as TransferProgress
from csi_oras.transfer.files import find_files, layers_of
from csi_oras.transfer.push import Pusher, manifest_of
from csi_oras.transfer.request import PulledArtifact, PullRequest
from csi_oras.volume import attributes


@click.command(short_help="Pull an artifact into the store.")
@click.argument("reference", type=REFERENCE, metavar="REF")
@click.option("--to", "directory", type=click.Path(path_type=Path), help="Copy the files to this directory, too.")
@selection_options
@registry_options
@store_options
@reports_errors
def pull(reference: str, directory: Path | None, as_json: bool, **options: Any) -> None:  # noqa: FBT001 (click's call)
    """Pull an artifact into the store, as a volume would, and print its digest."""
    with application(options) as app:
        request = request_of(app, reference, options)
        started = time.monotonic()
        with app.leases.of_pull() as lease:
            pulled = pull_held(app, request, lease)
            if directory:
                _copy(pulled, directory)
    document = {
        "reference": str(pulled.reference),
        "digest": str(pulled.artifact),
        "bytes": pulled.size,
        "fetchedBytes": pulled.fetched,
        "seconds": round(time.monotonic() - started, 3),
    }
    if as_json:
        click.echo(json.dumps(document))
    else:
        came = f"{decimal(pulled.fetched)} fetched" if pulled.fetched else "already here"
        what = f"{count_files(pulled.files)}, {decimal(pulled.size)} ({came})"
        click.echo(f"{pulled.reference}\n{what}\n{directory or pulled.path}")


@click.command(short_help="Push files as an artifact.")
@click.argument("reference", type=REFERENCE, metavar="REF")
@click.argument("paths", type=click.Path(path_type=Path, exists=True), nargs=-1, required=True, metavar="PATH...")
@click.option("--artifact-type", default="", help="The artifactType of the manifest.")
@registry_options
@store_options
@reports_errors
def push(reference: str, paths: tuple[Path, ...], artifact_type: str, as_json: bool, **options: Any) -> None:  # noqa: FBT001
    """Push files as an artifact, with the layers that they would have if a pod had written them.

    Each is a layer under its relative name; directories with links, empty ones and more than 1,000 files are packed.
    """
    target = Reference.parse(reference)
    if target.digest or not target.tag:
        raise InvalidRequestError(str(target), "cannot be pushed to by digest", "name a tag")
    files = find_files(paths)
    with application(options) as app:
        given = credential(target, options) or app.keychain.of_node(target.repository).credential
        client = app.registries.repository(target.repository, given).pushes()
        progress = TransferProgress()
        with bars(progress, f"pushing {target}"), staging(app.paths) as directory:
            layers = layers_of(files, directory)
            index = ChunkIndex.of(layer.chunks for layer in layers)
            manifest = manifest_of([layer.blob for layer in layers], artifact_type, index=index)
            pushed = Pusher().push(client, layers, manifest, progress)
            client.put_manifest(target.tag, manifest.content, manifest.media_type)
    pinned = target.pinned(pushed.digest)
    document = {
        "reference": str(pinned),
        "digest": str(pushed.digest),
        "bytes": pushed.size,
        "sentBytes": pushed.sent,
    }
    click.echo(
        json.dumps(document)
        if as_json
        else f"{pinned}\n{count_files(len(files.places))}, {decimal(pushed.size)} ({decimal(pushed.sent)} sent)"
    )


def request_of(app: Application, reference: str, options: dict[str, Any]) -> PullRequest:
    """Return what a command's arguments ask for."""
    context = {
        "reference": reference,
        "platform": options["platform"],
        "include": options["include"],
        "exclude": options["exclude"],
        "mediaTypes": options["media_types"],
        "path": options["path"],
        "unpack": options["unpack"],
    }
    wanted = attributes.parse({key: value for key, value in context.items() if value}, {})
    return PullRequest(
        reference=wanted.reference,
        platform=wanted.platform or app.platform,
        selection=wanted.selection,
        policy=wanted.pull_policy,
        credential=credential(wanted.reference, options),
    )


def client_of(app: Application, request: PullRequest) -> RepositoryClient:
    """Return the repository as a command sees it: with the credential that it was given, else with the node's."""
    repository = request.reference.repository
    return app.registries.repository(repository, request.credential or app.keychain.of_node(repository).credential)


def pull_held(app: Application, request: PullRequest, lease: PullLease) -> PulledArtifact:
    """Return the artifact, which stays as long as the lease; it is pulled again if it went before."""
    while True:
        pulled = app.puller.find(request) or _with_progress(app, request)
        lease.add([pulled.plan])
        if pulled.path.exists():
            return pulled


def _with_progress(app: Application, request: PullRequest) -> PulledArtifact:
    job = app.puller.start(request)
    with app.puller.jobs.waiting(job), bars(job.progress, f"pulling {request.reference}"):
        return job.future.result()


def _copy(pulled: PulledArtifact, directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _copy_into(pulled.path, root)
        finally:
            os.close(root)
    except OSError as error:
        cause = f"cannot be written ({error.strerror}: {error.filename})"
        raise InvalidRequestError(
            f"directory {directory}", cause, "use another directory, links are not followed"
        ) from error


def _copy_into(source: Path, directory: int) -> None:
    """Copy a file, or what is in a directory, below a descriptor; links that stand in the way are never followed."""
    for entry in sorted(source.iterdir()) if source.is_dir() else [source]:
        if entry.is_symlink():
            _copy_link(entry, directory)
            continue
        if entry.is_file():
            _copy_file(entry, directory)
            continue
        with suppress(FileExistsError):
            os.mkdir(entry.name, 0o755, dir_fd=directory)
        child = os.open(entry.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
        try:
            _copy_into(entry, child)
        finally:
            os.close(child)


def _copy_link(source: Path, directory: int) -> None:
    with _replacing(source.name, directory) as temporary:
        os.symlink(source.readlink(), temporary, dir_fd=directory)


def _copy_file(source: Path, directory: int) -> None:
    """Put a new file in the place of whatever has its name; it belongs to whoever asked, not to the store."""
    mode = 0o755 if source.stat().st_mode & 0o111 else 0o644
    with _replacing(source.name, directory) as temporary:
        made = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode, dir_fd=directory)
        with source.open("rb") as ours, os.fdopen(made, "wb") as theirs:
            shutil.copyfileobj(ours, theirs, 1 << 20)


@contextmanager
def _replacing(name: str, directory: int) -> Iterator[str]:
    """Give a name to make something under; it takes the place of `name` at the end, or is gone if that fails.

    It says nothing of `name`, which may be as long as a name can be.
    """
    temporary = f".csi-oras-{secrets.token_hex(8)}"
    try:
        yield temporary
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory)
