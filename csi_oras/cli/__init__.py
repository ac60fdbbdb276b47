"""The command line: the driver itself, and commands for people over the same store and the same code."""

from importlib import import_module

import click

import csi_oras

_MODULES = {
    "serve": "serve",
    "pull": "artifacts",
    "push": "artifacts",
    "inspect": "inspect",
    "store": "store",
    "doctor": "doctor",
    "demo": "serve",
}
"""Where each command is, in the order of the help."""


class _Commands(click.Group):
    """Commands that are loaded when they are asked for: what a short one does not need takes longer than it runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's call)
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 (click's call)
        if cmd_name not in _MODULES:
            return None
        command: click.Command = getattr(import_module(f"csi_oras.cli.{_MODULES[cmd_name]}"), cmd_name)
        return command


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(csi_oras.__version__, prog_name="csi-oras")
def main() -> None:
    """Mount OCI artifacts as Kubernetes volumes, and work with the node's artifact store.

    A reference is registry/repository[:tag][@digest], as oras and docker write it.
    """
