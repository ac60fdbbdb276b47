"""The command line: the driver itself, and commands for people over the same store and the same code."""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

import csi_oras
from csi_oras import config
from csi_oras.app import DEFAULT_DRIVER_NAME, DEFAULT_STATE_DIR, Application, ServeSettings
from csi_oras.app import serve as run_driver
from csi_oras.errors import CsiOrasError, InvalidRequestError, printable
from csi_oras.oci.plan import Plan
from csi_oras.oci.reference import Reference
from csi_oras.registry import credentials
from csi_oras.registry.credentials import Credential
from csi_oras.telemetry import logs
from csi_oras.telemetry.progress import Progress as TransferProgress
from csi_oras.telemetry.secrets import Secret
from csi_oras.transfer import push as pushes
from csi_oras.transfer.pull import PulledArtifact, PullRequest
from csi_oras.volume import attributes

_Command = TypeVar("_Command", bound=Callable[..., Any])
_REDRAW_SECONDS = 0.1
_LOG_LEVEL_WARNING = 30


class _ReferenceType(click.ParamType[str]):
    name = "reference"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            Reference.parse(str(value))
        except InvalidRequestError as error:
            self.fail(error.message, param, ctx)
        return str(value)


REFERENCE = _ReferenceType()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(csi_oras.__version__, prog_name="csi-oras")
def main() -> None:
    """Mount OCI artifacts as Kubernetes volumes, and work with the node's artifact store.

    A reference is registry/repository[:tag][@digest], as oras and docker write it.
    """


def _store_options(command: _Command) -> _Command:
    for option in (
        click.option(
            "--state-dir", type=click.Path(path_type=Path), default=DEFAULT_STATE_DIR, show_default=True,
            help="The store that the driver of this node uses.",
        ),
        click.option(
            "--config", "config_file", type=click.Path(path_type=Path),
            help="The node policy file; without it the defaults hold.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else."),
    ):  # fmt: skip
        command = option(command)
    return command


def _registry_options(command: _Command) -> _Command:
    for option in (
        click.option(
            "--registry-config",
            type=click.Path(path_type=Path, exists=True),
            help="A docker config.json with credentials.",
        ),
        click.option(
            "-u", "--username", help="The registry's user; give the password with --password-stdin."
        ),
        click.option("--password-stdin", is_flag=True, help="Read the password from standard input."),
    ):
        command = option(command)
    return command


def _selection_options(command: _Command) -> _Command:
    for option in (
        click.option(
            "--platform", default="", help="os/arch[/variant] of an index; the node's own by default."
        ),
        click.option("--include", default="", help="Comma-separated globs of names to keep."),
        click.option("--exclude", default="", help="Comma-separated globs of names to leave out."),
        click.option("--media-types", default="", help="Comma-separated media types of layers to keep."),
        click.option(
            "--path", "path", default="", help="A directory or file of the artifact that becomes the root."
        ),
        click.option(
            "--unpack",
            type=click.Choice(["auto", "never"]),
            default="auto",
            help="Whether to unpack archives.",
        ),
    ):
        command = option(command)
    return command


def _reports_errors(command: _Command) -> _Command:
    @wraps(command)
    def guarded(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        except CsiOrasError as error:
            click.echo(f"csi-oras: {error.message}", err=True)
            sys.exit(1)

    return guarded  # type: ignore[return-value]


@main.command()
@click.option(
    "--endpoint", envvar="CSI_ENDPOINT", required=True, help="unix:///path/csi.sock  [env: CSI_ENDPOINT]"
)
@click.option(
    "--node-id", envvar="NODE_ID", default="", help="The node's name, as Kubernetes has it.  [env: NODE_ID]"
)
@click.option("--mode", type=click.Choice(["node", "controller", "all"]), default="all", show_default=True)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    default=DEFAULT_STATE_DIR,
    show_default=True,
    help="Where artifacts are kept.",
)
@click.option(
    "--kubelet-dir", type=click.Path(path_type=Path), default=Path("/var/lib/kubelet"), show_default=True,
    help="Targets must lie below it.",
)  # fmt: skip
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="The node policy file.")
@click.option(
    "--metrics-address",
    default="0.0.0.0:9819",
    show_default=True,
    help="Where /metrics and /healthz are served.",
)
@click.option(
    "--driver-name", default=DEFAULT_DRIVER_NAME, show_default=True, help="The name of the CSIDriver object."
)
@click.option("--log-format", type=click.Choice(["json", "text"]), default="json", show_default=True)
@_reports_errors
def serve(log_format: str, **settings: Any) -> None:
    """Run the CSI driver: identity, and node or controller or both, on one unix socket."""
    logs.configure(log_format)
    if settings["mode"] != "controller" and not settings["node_id"]:
        raise click.UsageError("--node-id (or NODE_ID) is needed in this mode")
    run_driver(ServeSettings(**settings))


@main.command()
@click.argument("reference", type=REFERENCE, metavar="REF")
@click.option(
    "--to", "directory", type=click.Path(path_type=Path), help="Copy the files to this directory, too."
)
@_selection_options
@_registry_options
@_store_options
@_reports_errors
def pull(reference: str, directory: Path | None, as_json: bool, **options: Any) -> None:  # noqa: FBT001 (click's call)
    """Pull an artifact into the store, as a volume would, and print its digest."""
    with _application(options) as app:
        request = _request(app, reference, options)
        started = time.monotonic()
        pulled = app.puller.find(request) or _with_progress(app, request)
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
        click.echo(
            f"{pulled.reference}\n{pulled.files} files, {decimal(pulled.size)} ({came})\n{directory or pulled.path}"
        )


@main.command()
@click.argument("reference", type=REFERENCE, metavar="REF")
@click.argument(
    "paths", type=click.Path(path_type=Path, exists=True), nargs=-1, required=True, metavar="PATH..."
)
@click.option("--artifact-type", default="", help="The artifactType of the manifest.")
@_registry_options
@_store_options
@_reports_errors
def push(reference: str, paths: tuple[Path, ...], artifact_type: str, as_json: bool, **options: Any) -> None:  # noqa: FBT001
    """Push files as an artifact: each becomes a layer under its relative name."""
    target = Reference.parse(reference)
    files = pushes.find_files(paths)
    with _application(options) as app:
        client = app.registries.repository(target.repository, _credential(target, options))
        progress = TransferProgress()
        with _bar(progress, f"pushing {target}"):
            pushed = pushes.push(client, target, files, artifact_type, progress)
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
        else f"{pinned}\n{len(files)} files, {decimal(pushed.size)} ({decimal(pushed.sent)} sent)"
    )


@main.command()
@click.argument("reference", type=REFERENCE, metavar="REF")
@_selection_options
@_registry_options
@_store_options
@_reports_errors
def inspect(reference: str, as_json: bool, **options: Any) -> None:  # noqa: FBT001
    """Show what a volume of an artifact would hold, and why, without fetching it."""
    with _application(options) as app:
        request = _request(app, reference, options)
        resolved, plan = app.puller.plan(request)
    document = {
        "reference": str(request.reference.pinned(resolved.root)),
        "digest": str(resolved.artifact),
        "mediaType": resolved.manifest.media_type,
        "artifactType": resolved.manifest.artifact_type,
        "kind": "generic",
        "files": [
            {
                "name": str(entry.name),
                "size": entry.blob.size,
                "mode": f"{entry.mode:04o}",
                "layer": entry.layer,
                "rule": entry.rule,
            }
            for entry in plan.entries
        ],
        "left": [{"layer": item.layer, "reason": item.reason} for item in plan.left],
    }
    if as_json:
        click.echo(json.dumps(document, ensure_ascii=False))
    else:
        _print_plan(document, plan)


@main.group()
def store() -> None:
    """Look at the node's artifact store."""


@store.command("ls")
@_store_options
@_reports_errors
def store_ls(as_json: bool, **options: Any) -> None:  # noqa: FBT001
    """List the artifacts in the store, the one used last first."""
    with _application(options) as app:
        artifacts = app.catalogue.artifacts()
    documents = [
        {
            "digest": str(artifact.digest),
            "references": list(artifact.references),
            "bytes": artifact.size,
            "localBytes": artifact.size,
            "volumes": artifact.volumes,
            "lastUsed": datetime.fromtimestamp(artifact.last_used, UTC)
            .isoformat(timespec="seconds")
            .replace("+00:00", "Z"),
        }
        for artifact in artifacts
    ]
    if as_json:
        click.echo(json.dumps(documents))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, justify in (
        ("DIGEST", "left"),
        ("SIZE", "right"),
        ("VOLUMES", "right"),
        ("LAST USED", "left"),
        ("REFERENCES", "left"),
    ):
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for artifact, document in zip(artifacts, documents, strict=True):
        table.add_row(
            artifact.digest.short,
            decimal(artifact.size),
            str(artifact.volumes),
            str(document["lastUsed"]),
            "\n".join(artifact.references),
        )
    _console().print(table)


@main.command()
@click.option("--keep", is_flag=True, help="Wait for Enter before everything is taken away.")
@_reports_errors
def demo(keep: bool) -> None:  # noqa: FBT001
    """Take a tour: a real registry, a real driver and real mounts, and nothing left behind."""
    from csi_oras.demo.tour import run  # noqa: PLC0415 (brings a client for registries that nothing else needs)

    sys.exit(run(keep=keep))


@contextmanager
def _application(options: dict[str, Any]) -> Iterator[Application]:
    logs.configure("text", level=_LOG_LEVEL_WARNING)
    app = Application(options["state_dir"], config.load(options["config_file"]))
    try:
        yield app
    finally:
        app.close()


def _request(app: Application, reference: str, options: dict[str, Any]) -> PullRequest:
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
        credential=_credential(wanted.reference, options),
    )


def _credential(reference: Reference, options: dict[str, Any]) -> Credential | None:
    username, file = options["username"], options["registry_config"]
    if username:
        if not options["password_stdin"]:
            raise click.UsageError("--username goes with --password-stdin")
        password = sys.stdin.readline().rstrip("\n")
        return Credential(username=username, password=Secret(password), source="the command line")
    if file:
        secret = {credentials.DOCKER_CONFIG_KEY: Secret(file.read_text())}
        return credentials.from_secret(secret, reference.repository)
    return None


def _with_progress(app: Application, request: PullRequest) -> PulledArtifact:
    job = app.puller.start(request)
    with app.puller.jobs.waiting(job), _bar(job.progress, f"pulling {request.reference}"):
        return job.future.result()


@contextmanager
def _bar(progress: TransferProgress, title: str) -> Iterator[None]:
    """Show a progress bar on standard error, where that is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with _Bar(progress, title, *columns, console=console, transient=True):
        yield


class _Bar(Progress):
    """A bar that looks at the transfer's own counters whenever it is drawn."""

    def __init__(self, transfer: TransferProgress, title: str, *columns: Any, **options: Any) -> None:
        super().__init__(*columns, **options)
        self._transfer = transfer
        self._task = self.add_task(printable(title, 80), total=None)

    def get_renderables(self) -> Any:
        self.update(self._task, total=self._transfer.total or None, completed=self._transfer.done)
        return super().get_renderables()


def _copy(pulled: PulledArtifact, directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if pulled.path.is_dir():
            shutil.copytree(pulled.path, directory, dirs_exist_ok=True, copy_function=_copy_file)
        else:
            _copy_file(pulled.path, directory / pulled.path.name)
    except OSError as error:
        raise InvalidRequestError(
            f"directory {directory}", f"cannot be written ({error.strerror})"
        ) from error


def _copy_file(source: Any, target: Any) -> None:
    """Copy bytes and an executable bit; the files belong to whoever asked, not to the store."""
    shutil.copyfile(source, target)
    os.chmod(target, 0o755 if os.stat(source).st_mode & 0o111 else 0o644)  # noqa: PTH101, PTH116 (shutil gives text)


def _print_plan(document: dict[str, Any], plan: Plan) -> None:
    console = _console()
    console.print(Text(document["reference"], style="bold"))
    console.print(Text(f"{document['artifactType']}, {len(plan.entries)} files, {decimal(plan.size)}"))
    root = Tree("/")
    branches: dict[tuple[str, ...], Tree] = {(): root}
    for entry in plan.entries:
        components = entry.name.components
        for depth in range(1, len(components)):
            if components[:depth] not in branches:
                branches[components[:depth]] = branches[components[: depth - 1]].add(
                    Text(f"{components[depth - 1]}/")
                )
        label = Text(f"{components[-1]}  ")
        label.append(f"{decimal(entry.blob.size)}, layer {entry.layer}, by {entry.rule}", style="dim")
        branches[components[:-1]].add(label)
    console.print(root)
    for item in plan.left:
        console.print(Text(f"left out: layer {item.layer}: {printable(item.reason)}", style="dim"))


def _console() -> Console:
    """A console that never cuts what a pipe reads."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=500)
