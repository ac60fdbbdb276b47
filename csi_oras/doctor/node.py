"""The node: its kernel, the kubelet's directory, and the driver that may run there."""

import errno
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import csi_oras
from csi_oras import kernel
from csi_oras.doctor.check import Check, Examination
from csi_oras.errors import CsiOrasError
from csi_oras.mount import mountinfo
from csi_oras.mount.mountinfo import Mount
from csi_oras.registry.transport import Transport

_ANSWER_SECONDS = 5.0
_LONGEST_ANSWER = 4096
_CAP_SYS_ADMIN = 1 << 21
_OK = 200
_CLOCK_REMEDY = "set the clock: certificates and tokens are judged by it"
_EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 (where a server listens)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """The flags of the driver that runs here, or would."""

    kubelet_dir: Path
    endpoint: str
    metrics_address: str


def examinations(node: NodeSettings) -> Mapping[str, Examination]:
    """Return what there is to look at."""
    return {
        "kernel": check_kernel,
        "privileges": check_privileges,
        "clock": check_clock,
        "kubelet directory": lambda: check_kubelet(node.kubelet_dir),
        "driver": lambda: check_driver(node),
    }


def check_kernel() -> Iterator[Check]:
    """Look for the system calls that mounts are made with."""
    release = f"Linux {os.uname().release}"
    beneath = _is_known(lambda: kernel.open_beneath(-1, "x", os.O_PATH))
    if not beneath or not kernel.mount_point(kernel.AT_FDCWD, "/").mount_id:
        yield Check.failed("kernel", f"{release} is older than what targets are found with", "run Linux 5.8 or later")
    elif not _is_known(lambda: kernel.mount_setattr(-1, 0, 0)):
        message = f"{release} lacks the mount API of 5.12: volumes are bound first and made read-only after that"
        yield Check.warning("kernel", message, "run Linux 5.12 or later")
    else:
        yield Check.ok("kernel", f"{release} makes volumes read-only from their first moment")


def _is_known(call: Callable[[], object]) -> bool:
    """Say whether the kernel knows a call; without a descriptor, it fails in another way then."""
    try:
        call()
    except OSError as error:
        return error.errno != errno.ENOSYS
    return True


def check_privileges() -> Iterator[Check]:
    """Say whether this process may do what the driver has to."""
    fields = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    if int(fields["CapEff"], 16) & _CAP_SYS_ADMIN:
        yield Check.ok("privileges", "this process may mount")
    else:
        message = "this process may not mount, so it is not told what the driver is"
        yield Check.warning("privileges", message, "run the doctor as root, on the node or in the driver's container")


def check_clock() -> Iterator[Check]:
    """Hold the clock against what must have been before now."""
    now, installed = time.time(), Path(csi_oras.__file__).stat().st_mtime
    date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    if now < installed:
        yield Check.failed("clock", f"it says {date}, and this program was installed after that", _CLOCK_REMEDY)
    else:
        yield Check.ok("clock", f"it says {date}")


def check_kubelet(directory: Path) -> Iterator[Check]:
    """Look whether targets can lie in the kubelet's directory, and whether it sees what is mounted there."""
    pods = directory / "pods"
    if not directory.is_dir():
        remedy = "name the kubelet's --root-dir by --kubelet-dir, here and for the driver"
        yield Check.failed("kubelet directory", f"{directory} is not there: no kubelet uses it", remedy)
        return
    mount = _mount_of(pods if pods.exists() else directory)
    if mount and "ro" in mount.options:
        yield Check.failed("kubelet directory", f"{mount.target} is mounted read-only", "mount it to be written")
    elif mount and not mount.shared:
        message = f"{mount.target} is not shared: who lives in another mount namespace does not see our mounts"
        remedy = "in a container: mountPropagation: Bidirectional; on the node: mount --make-rshared"
        yield Check.warning("kubelet directory", message, remedy)
    else:
        yield Check.ok("kubelet directory", f"{directory} is there, and mounts in it are seen everywhere")


def _mount_of(path: Path) -> Mount | None:
    """Return the mount that `path` lies on."""
    place = os.path.realpath(path)
    above = [mount for mount in mountinfo.read() if os.path.commonpath([place, mount.target]) == mount.target]
    return max(above, key=lambda mount: len(mount.target), default=None)


def check_driver(node: NodeSettings) -> Iterator[Check]:
    """Ask the driver how it is, where one runs."""
    path = node.endpoint.removeprefix("unix://").removeprefix("unix:")
    if not os.path.exists(path):  # noqa: PTH110 (as text, it goes into messages)
        yield Check.warning("driver", f"none runs here: {path} is not there", "name the driver's socket by --endpoint")
        return
    from csi_oras.csi.probe import probe  # noqa: PLC0415 (gRPC takes longer to load than all other checks)

    found = probe(path, _ANSWER_SECONDS)
    ours = f", and this is {csi_oras.__version__}" if found.version != csi_oras.__version__ else ""
    yield Check.ok("driver", f"{found.name} {found.version} is well{ours}")
    yield _health(node.metrics_address)


def _health(address: str) -> Check:
    host, _, port = address.rpartition(":")
    url = f"http://{_EVERYWHERE.get(host, host)}:{port}/healthz"
    transport = Transport(stall_seconds=_ANSWER_SECONDS)
    try:
        with transport.request("GET", url, {}) as response:
            said = response.read(_LONGEST_ANSWER).decode(errors="replace").strip()
            if response.status == _OK:
                return Check.ok("health", f"{url} answers")
            return Check.failed("health", f"{url} answers with status {response.status}: {said}")
    except CsiOrasError as error:
        remedy = "name the driver's --metrics-address"
        return Check.warning("health", f"{url} {error.cause}", remedy)
    finally:
        transport.close()
