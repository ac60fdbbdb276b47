"""Groups of commands that are loaded when they are asked for: what a short one does not need takes longer to load."""

import sys
from importlib import import_module
from typing import Any

import click

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C has ended."""


class Commands(click.Group):
    """Commands in modules of `csi_oras.cli`, in the order of the help."""

    def __init__(self, *arguments: Any, modules: dict[str, str], **options: Any) -> None:
        """Take commands from `modules`: `module:function` by the command's name."""
        super().__init__(*arguments, **options)
        self._modules = modules

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; Ctrl-C ends it as shells have it, and is no error to speak of."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's call)
        """Return the names of the commands."""
        return list(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 (click's call)
        """Load a command."""
        if cmd_name not in self._modules:
            return None
        module, _, function = self._modules[cmd_name].partition(":")
        command: click.Command = getattr(import_module(f"csi_oras.cli.{module}"), function)
        return command
