"""The command line: the driver itself, and commands for people over the same store and the same code."""

import click

import csi_oras
from csi_oras.cli.commands import Commands

_MODULES = {
    "serve": "serve:serve",
    "pull": "artifacts:pull",
    "push": "artifacts:push",
    "inspect": "inspect:inspect",
    "index": "index:index",
    "store": "store:store",
    "outbox": "outbox:outbox",
    "doctor": "doctor:doctor",
    "mounter": "mounter:mounter",
    "demo": "serve:demo",
}


@click.command(
    cls=Commands,
    modules=_MODULES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(csi_oras.__version__, prog_name="csi-oras")
def main() -> None:
    """Mount OCI artifacts as Kubernetes volumes, and work with the node's artifact store.

    A reference is registry/repository[:tag][@digest], as oras and docker write it.
    """
