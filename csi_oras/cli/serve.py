"""`serve` and `demo`: the driver itself, and a tour of it."""

import sys
from pathlib import Path
from typing import Any

import click

from csi_oras.app import DEFAULT_DRIVER_NAME, DEFAULT_STATE_DIR
from csi_oras.cli.options import kubelet_dir_option, metrics_address_option, reports_errors
from csi_oras.telemetry import logs


@click.command(short_help="Run the CSI driver.")
@click.option("--endpoint", envvar="CSI_ENDPOINT", required=True, help="unix:///path/csi.sock  [env: CSI_ENDPOINT]")
@click.option("--node-id", envvar="NODE_ID", default="", help="The node's name, as Kubernetes has it.  [env: NODE_ID]")
@click.option("--mode", type=click.Choice(["node", "controller", "all"]), default="all", show_default=True)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, readable=False),
    default=DEFAULT_STATE_DIR,
    show_default=True,
    help="Where artifacts are kept.",
)
@kubelet_dir_option
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="The node policy file.")
@metrics_address_option
@click.option("--driver-name", default=DEFAULT_DRIVER_NAME, show_default=True, help="The name of the CSIDriver object.")
@click.option(
    "--service-account-dir", type=click.Path(path_type=Path),
    default=Path("/var/run/secrets/kubernetes.io/serviceaccount"), show_default=True,
    help="Who writes events on pods; without its token, or outside of a cluster, none are.",
)  # fmt: skip
@click.option(
    "--mounter",
    default="",
    help="unix:///path/mounter.sock of what holds lazy volumes; else one is started that stays.",
)
@click.option("--label-node", is_flag=True, help="Label the Node with what the prefetch list keeps on it.")
@click.option("--log-format", type=click.Choice(["json", "text"]), default="json", show_default=True)
@reports_errors
def serve(log_format: str, **settings: Any) -> None:
    """Run the CSI driver: identity, and node or controller or both, on one unix socket."""
    from csi_oras.driver import ServeSettings, run  # noqa: PLC0415 (gRPC takes longer to load than a short command to run)

    logs.configure(log_format)
    if settings["mode"] != "controller" and not settings["node_id"]:
        raise click.UsageError("--node-id (or NODE_ID) is needed in this mode")
    run(ServeSettings(**settings))


@click.command(short_help="Take a tour on real parts.")
@click.option("--keep", is_flag=True, help="Wait for Enter before everything is taken away.")
@reports_errors
def demo(keep: bool) -> None:  # noqa: FBT001
    """Take a tour: a real registry, a real driver and real mounts, and nothing left behind."""
    from csi_oras.demo.tour import run  # noqa: PLC0415 (brings a client for registries that nothing else needs)

    sys.exit(run(keep=keep))
