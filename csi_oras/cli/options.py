"""What the commands share: options, the store they open, and errors as one line and an exit code."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from csi_oras import config
from csi_oras.app import DEFAULT_STATE_DIR, Application
from csi_oras.cli.commands import INTERRUPTED
from csi_oras.errors import CsiOrasError, InvalidRequestError
from csi_oras.oci.reference import Reference
from csi_oras.registry.credentials import Credential
from csi_oras.registry.docker_files import DockerFiles
from csi_oras.store.paths import store_errors
from csi_oras.telemetry import logs
from csi_oras.telemetry.secrets import Secret

_Command = TypeVar("_Command", bound=Callable[..., Any])
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

kubelet_dir_option = click.option(
    "--kubelet-dir", type=click.Path(path_type=Path), default=Path("/var/lib/kubelet"), show_default=True,
    help="The kubelet's directory; targets lie below it.",
)  # fmt: skip
metrics_address_option = click.option(
    "--metrics-address", default="0.0.0.0:9819", show_default=True,
    help="Where /metrics and /healthz are served; 0.0.0.0 for every address.",
)  # fmt: skip


def _with(command: _Command, *options: Callable[[_Command], _Command]) -> _Command:
    """Add options in the order in which the help shows them."""
    for option in reversed(options):
        command = option(command)
    return command


def store_options(command: _Command) -> _Command:
    """Add the options of commands that open the store."""
    return _with(
        command,
        click.option(
            "--state-dir", type=click.Path(path_type=Path, readable=False), default=DEFAULT_STATE_DIR,
            show_default=True, help="The store that the driver of this node uses.",
        ),
        click.option(
            "--config", "config_file", type=click.Path(path_type=Path),
            help="The node policy file; without it the defaults hold.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else."),
    )  # fmt: skip


def registry_options(command: _Command) -> _Command:
    """Add the options that give a credential."""
    return _with(
        command,
        click.option(
            "--registry-config",
            type=click.Path(path_type=Path, exists=True),
            help="A docker config.json with credentials.",
        ),
        click.option("-u", "--username", help="The registry's user; give the password with --password-stdin."),
        click.option("--password-stdin", is_flag=True, help="Read the password from standard input."),
    )


def selection_options(command: _Command) -> _Command:
    """Add the attributes that select what of an artifact is wanted."""
    return _with(
        command,
        click.option("--platform", default="", help="os/arch[/variant] of an index; the node's own by default."),
        click.option("--include", default="", help="Comma-separated globs of names to keep."),
        click.option("--exclude", default="", help="Comma-separated globs of names to leave out."),
        click.option("--media-types", default="", help="Comma-separated media types of layers to keep."),
        click.option("--path", "path", default="", help="A directory or file of the artifact that becomes the root."),
        click.option(
            "--unpack",
            type=click.Choice(["auto", "never"]),
            default="auto",
            help="Whether to unpack archives.",
        ),
    )


def reports_errors(command: _Command) -> _Command:
    """Turn our errors into one line on standard error and exit code 1."""

    @wraps(command)
    def guarded(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        except CsiOrasError as error:
            click.echo(f"csi-oras: {error.message}", err=True)
            sys.exit(1)

    return guarded  # type: ignore[return-value]


def has_store(options: dict[str, Any]) -> bool:
    """Say whether there is a store to look at: to look at nothing makes nothing.

    Raises:
        StoreBrokenError: what is there is no directory, or nobody may look.
    """
    state_dir: Path = options["state_dir"]
    with store_errors(f"state directory {state_dir}"):
        if not state_dir.exists():
            return False
        os.scandir(state_dir).close()
    return True


@contextmanager
def application(options: dict[str, Any], *, to_look: bool = False) -> Iterator[Application]:
    """Open the store for a command, and let go of it; `to_look` is content with what can be read."""
    logs.configure("text", level=_LOG_LEVEL_WARNING)
    app = Application(options["state_dir"], config.load(options["config_file"]), to_look=to_look)
    try:
        yield app
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)  # threads of a pull are no reason to stay; the bytes so far are kept
    finally:
        app.close()


def credential(reference: Reference, options: dict[str, Any]) -> Credential | None:
    """Return the credential that the options give for a reference.

    Raises:
        UnauthenticatedError: the file that they name cannot be read, or is no docker config.
    """
    username, file = options["username"], options["registry_config"]
    if username:
        if not options["password_stdin"]:
            raise click.UsageError("--username goes with --password-stdin")
        password = sys.stdin.readline().rstrip("\n")
        return Credential(username=username, password=Secret(password), source="the command line")
    if options["password_stdin"]:
        raise click.UsageError("--password-stdin goes with --username")
    return DockerFiles().read(str(file)).find(reference.repository, f"the file {file}") if file else None
