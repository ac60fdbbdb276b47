"""`mounter`: what holds the processes of lazy volumes."""

import os
import sys
from pathlib import Path

import click

from csi_oras.endpoint import socket_path
from csi_oras.errors import CsiOrasError
from csi_oras.telemetry import logs
from csi_oras.telemetry.logs import logger


@click.command(short_help="Hold the processes of lazy volumes.")
@click.option(
    "--endpoint", default="unix:///run/csi-oras/mounter.sock", show_default=True, help="Where drivers find it."
)
@click.option(
    "--state-dir", type=click.Path(path_type=Path, readable=False), show_default=True,
    default=Path("/var/lib/csi-oras"),  # as `serve`, of which nothing is loaded here
    help="What the driver has as its own --state-dir.",
)  # fmt: skip
@click.option("--log-format", type=click.Choice(["json", "text"]), default="json", show_default=True)
def mounter(endpoint: str, state_dir: Path, log_format: str) -> None:
    """Hold the processes of lazy volumes, apart from the driver, which may then be restarted as one likes.

    They end with it, and begin again with the next one.
    """
    logs.configure(log_format, logs.Unfailing())
    try:
        from csi_oras.mounter.server import Server  # noqa: PLC0415 (what it needs may not be installed)

        server = Server(socket_path(endpoint), Path(os.path.abspath(state_dir)))  # noqa: PTH100 (as the driver has it)
        server.start()
    except ImportError as error:
        logger.error("lazy volumes need what is not installed: pip install 'csi-oras[fuse]'", cause=str(error))
        sys.exit(1)
    except CsiOrasError as error:
        logger.error("the mounter cannot start", cause=error.message)
        sys.exit(1)
    logger.info("holds lazy volumes", endpoint=endpoint)
    server.run()
