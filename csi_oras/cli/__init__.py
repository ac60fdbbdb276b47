"""The command line: the driver itself, and commands for people over the same store and the same code."""

import click

import csi_oras
from csi_oras.cli.artifacts import pull, push
from csi_oras.cli.doctor import doctor
from csi_oras.cli.inspect import inspect
from csi_oras.cli.serve import demo, serve
from csi_oras.cli.store import store


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(csi_oras.__version__, prog_name="csi-oras")
def main() -> None:
    """Mount OCI artifacts as Kubernetes volumes, and work with the node's artifact store.

    A reference is registry/repository[:tag][@digest], as oras and docker write it.
    """


for command in (serve, pull, push, inspect, store, doctor, demo):
    main.add_command(command)
