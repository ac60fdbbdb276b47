"""`doctor`: what is wrong with this node, or with how it would get an artifact."""

import json
import logging
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from csi_oras import config
from csi_oras.app import DEFAULT_DRIVER_NAME
from csi_oras.cli.options import (
    REFERENCE,
    credential,
    kubelet_dir_option,
    metrics_address_option,
    registry_options,
    reports_errors,
    store_options,
)
from csi_oras.cli.output import console
from csi_oras.doctor import lazy, node, reference, settings, state
from csi_oras.doctor.check import Check, Finding, State, run
from csi_oras.doctor.node import NodeSettings
from csi_oras.doctor.reference import Inquiry
from csi_oras.endpoint import socket_path
from csi_oras.oci.platform import Platform
from csi_oras.oci.reference import Reference
from csi_oras.registry.keychain import Found
from csi_oras.telemetry import logs

_STYLES = {State.OK: "green", State.WARNING: "yellow", State.FAILED: "bold red"}
_SOCKET_IN_CONTAINER = Path("/csi/csi.sock")
"""As the manifests of `deploy/` mount it."""


@click.command(short_help="Say what is wrong with this node, or with a reference.")
@click.argument("wanted", type=REFERENCE, metavar="[REF]", required=False)
@registry_options
@store_options
@kubelet_dir_option
@click.option(
    "--endpoint", envvar="CSI_ENDPOINT", default="",
    help="The driver's socket; by default where the kubelet expects it.  [env: CSI_ENDPOINT]",
)  # fmt: skip
@click.option(
    "--mounter", default="", help="unix:///path/mounter.sock; by default where the manifests or the driver have it."
)
@metrics_address_option
@reports_errors
def doctor(wanted: str | None, as_json: bool, **options: Any) -> None:  # noqa: FBT001 (click's call)
    """Say what is wrong with this node; with REF, which credential, host and mirror it would be pulled by.

    Give it the driver's own flags. It changes nothing, and works beside a running driver and without one. The exit code
    is 1 when a check has failed.
    """
    logs.configure("text", level=logging.CRITICAL)  # the checks say it all
    policy, configuration = settings.examine(options["config_file"])
    found = Finding(checks=(configuration,))
    if wanted is None:
        found += Finding(checks=_node(policy, options))
    elif policy:
        found += _reference(Reference.parse(wanted), policy, options)
    if as_json:
        click.echo(json.dumps(_document(found), ensure_ascii=False))
    else:
        console().print(_drawn(wanted or "this node", found.checks))
    sys.exit(1 if any(check.state is State.FAILED for check in found.checks) else 0)


def _node(policy: config.Policy | None, options: dict[str, Any]) -> tuple[Check, ...]:
    kubelet = options["kubelet_dir"]
    node_settings = NodeSettings(
        kubelet_dir=kubelet,
        endpoint=options["endpoint"] or _usual_endpoint(kubelet),
        metrics_address=options["metrics_address"],
    )
    named = settings.examinations(policy) if policy else {}
    state_dir, mounter = options["state_dir"], options["mounter"]
    return run(
        {
            **named,
            **state.examinations(state_dir),
            **node.examinations(node_settings),
            **lazy.examinations(socket_path(mounter) if mounter else None, state_dir),
        }
    )


def _usual_endpoint(kubelet: Path) -> str:
    """Return where the socket is: below the kubelet's directory, but for the driver's own container."""
    socket = kubelet / "plugins" / DEFAULT_DRIVER_NAME / "csi.sock"
    return str(_SOCKET_IN_CONTAINER if _SOCKET_IN_CONTAINER.exists() and not socket.exists() else socket)


def _reference(wanted: Reference, policy: config.Policy, options: dict[str, Any]) -> Finding:
    brought = credential(wanted, options)
    inquiry = Inquiry(
        reference=wanted,
        policy=policy,
        brought=Found(credential=brought, tried=() if brought else (_nothing_brought(options),)),
        state_dir=options["state_dir"],
        platform=Platform.of_machine(os.uname().machine),
    )
    return reference.examine(inquiry)


def _nothing_brought(options: dict[str, Any]) -> str:
    file = options["registry_config"]
    return f"the file {file}: nothing for it" if file else "volume's secret: none given here (--registry-config)"


def _document(found: Finding) -> dict[str, Any]:
    checks = [
        {"name": check.name, "state": check.state, "message": check.message, "remedy": check.remedy}
        for check in found.checks
    ]
    return {"checks": checks, **({"reference": found.document} if found.document else {})}


def _drawn(title: str, checks: tuple[Check, ...]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        said = Text(check.message)
        if check.remedy and check.state is not State.OK:
            said.append(f"\n-> {check.remedy}", style="bold")
        table.add_row(Text(check.state, style=_STYLES[check.state]), Text(check.name), said)
    return Group(Text(title, style="bold"), table, Text(_summary(checks)))


def _summary(checks: tuple[Check, ...]) -> str:
    counted = Counter(check.state for check in checks)
    warnings = f"{counted[State.WARNING]} warning{'' if counted[State.WARNING] == 1 else 's'}"
    return f"{counted[State.FAILED]} failed, {warnings}, {counted[State.OK]} ok"
