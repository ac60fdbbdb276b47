"""The server: its socket, its modes, its end, and what it says of itself."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest

from csi_oras.csi.pb import csi_pb2, csi_pb2_grpc
from csi_oras.telemetry.metrics import Metrics
from csi_oras.telemetry.server import MetricsServer
from tests.support.artifacts import Pusher, files
from tests.support.calls import publish_request, refused
from tests.support.driver import Driver, mount_capability

pytestmark = pytest.mark.needs("root")
pytest_plugins = ["tests.support.shared"]


def test_plugin_info_has_a_name_that_every_client_takes(shared_driver: Driver) -> None:
    info = shared_driver.identity.GetPluginInfo(csi_pb2.GetPluginInfoRequest())
    assert info.name == "csi.oras.land"
    assert info.vendor_version


def test_capabilities_are_those_that_are_served(shared_driver: Driver) -> None:
    plugin = shared_driver.identity.GetPluginCapabilities(csi_pb2.GetPluginCapabilitiesRequest()).capabilities
    assert [item.service.type for item in plugin] == [csi_pb2.PluginCapability.Service.CONTROLLER_SERVICE]
    node = shared_driver.node.NodeGetCapabilities(csi_pb2.NodeGetCapabilitiesRequest()).capabilities
    kind = csi_pb2.NodeServiceCapability.RPC
    assert [item.rpc.type for item in node] == [kind.GET_VOLUME_STATS, kind.SINGLE_NODE_MULTI_WRITER]
    info = shared_driver.node.NodeGetInfo(csi_pb2.NodeGetInfoRequest())
    assert (info.node_id, info.max_volumes_per_node) == ("node-1", 0)


def test_claim_for_one_pod_alone_is_published_once_at_a_time(shared_driver: Driver, pusher: Pusher) -> None:
    reference = pusher.artifact("t/alone", files(x=b"content"))
    alone = mount_capability(csi_pb2.VolumeCapability.AccessMode.SINGLE_NODE_SINGLE_WRITER)
    first, second = shared_driver.target("first"), shared_driver.target("second")
    shared_driver.publish(first, reference=reference, capability=alone)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "one pod alone"):
        shared_driver.publish(second, reference=reference, capability=alone)
    shared_driver.unpublish(first)
    shared_driver.publish(second, reference=reference, capability=alone)
    shared_driver.unpublish(second)


def test_socket_is_for_its_owner_alone_and_stands_by_itself(shared_driver: Driver) -> None:
    mode = shared_driver.socket.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) & 0o077 == 0
    beside = {path.name for path in shared_driver.directory.iterdir()}
    assert beside == {"csi.sock", "driver.log", "kubelet", "state"}


@pytest.mark.parametrize(("mode", "served"), [("node", {"node"}), ("controller", {"controller"})])
def test_mode_serves_its_own_services_and_answers_alike(short_path: Path, mode: str, served: set[str]) -> None:
    with Driver(short_path, mode=mode) as driver:
        plugin = driver.identity.GetPluginCapabilities(csi_pb2.GetPluginCapabilitiesRequest()).capabilities
        assert len(plugin) == 1  # all instances of one release answer alike

        def ask_node() -> object:
            return driver.node.NodeGetInfo(csi_pb2.NodeGetInfoRequest(), timeout=5)

        def ask_controller() -> object:
            request = csi_pb2.ControllerGetCapabilitiesRequest()
            return driver.controller.ControllerGetCapabilities(request, timeout=5)

        for service, call in (("node", ask_node), ("controller", ask_controller)):
            if service in served:
                call()
            else:
                with refused(grpc.StatusCode.UNIMPLEMENTED):
                    call()


def test_second_driver_takes_the_socket_over_and_the_first_leaves_it_alone(short_path: Path, tmp_path: Path) -> None:
    with Driver(short_path) as first:
        second = Driver(tmp_path)
        second.socket = first.socket
        before = first.socket.stat().st_ino
        with second:
            deadline = time.monotonic() + 20
            while (inode := first.socket.stat().st_ino) == before:  # never a moment without a socket
                assert time.monotonic() < deadline
                time.sleep(0.01)
            first.stop()
            assert first.socket.stat().st_ino == inode
            second.identity.Probe(csi_pb2.ProbeRequest(), timeout=5, wait_for_ready=True)
        assert not first.socket.exists()  # and the owner takes it away


def test_socket_that_a_crash_left_is_no_obstacle(short_path: Path) -> None:
    with Driver(short_path) as driver:
        driver.kill()
        assert driver.socket.exists()
        driver.start()
        driver.identity.Probe(csi_pb2.ProbeRequest(), timeout=5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_driver_with_0_and_without_its_socket(short_path: Path, number: int) -> None:
    with Driver(short_path) as driver:
        process, started = driver.process, time.monotonic()
        driver.stop(number)
        assert process is not None
        assert process.returncode == 0
        assert time.monotonic() - started < 5
        assert not driver.socket.exists()


def test_metrics_server_ends_at_once() -> None:
    started = time.monotonic()
    for _ in range(20):
        server = MetricsServer("127.0.0.1:0", Metrics("test", "1"), lambda: None, lambda: None)
        server.start()
        server.stop()
    assert time.monotonic() - started < 5  # and not half a second each


@pytest.mark.needs("registry")
def test_mounts_outlive_the_driver(short_path: Path, pusher: Pusher, repository: str) -> None:
    with Driver(short_path) as driver:
        target = driver.target()
        driver.publish(target, reference=pusher.artifact(repository, files(x=b"stays")))
        driver.stop()
        assert (target / "x").read_bytes() == b"stays"
        driver.start()
        driver.unpublish(target)


def serve(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `csi-oras serve` with flags that it is to refuse."""
    command = [sys.executable, "-m", "csi_oras", "serve", *flags]
    kept = {key: value for key, value in os.environ.items() if key not in ("CSI_ENDPOINT", "NODE_ID")}
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env={**kept, **environment})


@pytest.mark.parametrize(
    ("flags", "code", "word"),
    [
        (["--endpoint", "tcp://127.0.0.1:1", "--node-id", "n"], 1, "is not a unix socket"),
        (["--endpoint", "unix:///tmp/no-suffix", "--node-id", "n"], 1, "unix:///path/name.sock"),
        (["--endpoint", "unix://relative.sock", "--node-id", "n"], 1, "is not a unix socket"),
        (["--endpoint", f"unix:///{'x' * 120}.sock", "--node-id", "n"], 1, "too long"),
        (["--node-id", "n"], 2, "--endpoint"),
        (["--endpoint", "unix:///tmp/x.sock"], 2, "--node-id"),
        (["--endpoint", "unix:///tmp/x.sock", "--node-id", "n", "--mode", "some"], 2, "--mode"),
        (["--endpoint", "unix:///tmp/x.sock", "--node-id", "n", "--config", "/absent.yaml"], 1, "/absent.yaml"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_flag_that_cannot_be_served_ends_the_driver_at_once(
    tmp_path: Path, flags: list[str], code: int, word: str
) -> None:
    ended = serve(*flags, "--state-dir", str(tmp_path / "state"), "--metrics-address", "127.0.0.1:0")
    assert (ended.returncode, ended.stdout) == (code, "")
    assert word in ended.stderr
    assert "Traceback" not in ended.stderr


def test_metrics_address_that_is_taken_ends_the_driver_at_once(tmp_path: Path, short_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        flags = ("--endpoint", f"unix://{short_path}/csi.sock", "--node-id", "n", "--state-dir", str(tmp_path / "s"))
        ended = serve(*flags, "--metrics-address", address)
    assert ended.returncode == 1
    assert address in ended.stderr


def test_endpoint_and_node_id_come_from_the_environment_too(short_path: Path) -> None:
    driver = Driver(short_path, environment={"CSI_ENDPOINT": f"unix://{short_path}/csi.sock", "NODE_ID": "from-env"})
    command = [
        sys.executable, "-m", "csi_oras", "serve", "--state-dir", str(driver.state), "--kubelet-dir",
        str(driver.kubelet), "--metrics-address", f"127.0.0.1:{driver.metrics_port}",
    ]  # fmt: skip
    environment = {**os.environ, **driver.environment}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        try:
            channel = grpc.insecure_channel(f"unix:{driver.socket}")
            grpc.channel_ready_future(channel).result(20)
            info = csi_pb2_grpc.NodeStub(channel).NodeGetInfo(csi_pb2.NodeGetInfoRequest(), timeout=5)
            channel.close()
            assert info.node_id == "from-env"
        finally:
            process.terminate()
            process.communicate(timeout=20)


_BUG = """
from csi_oras.volume.volumes import Volumes

def broken(self, volume_id, path):
    raise ZeroDivisionError("planted: a bug")

Volumes.statistics = broken
"""


def test_bug_is_internal_with_its_traceback_in_the_log_only(short_path: Path) -> None:
    (short_path / "patch").mkdir()
    (short_path / "patch" / "sitecustomize.py").write_text(_BUG)
    with Driver(short_path, environment={"PYTHONPATH": str(short_path / "patch")}) as driver:
        request = csi_pb2.NodeGetVolumeStatsRequest(volume_id="v", volume_path="/p")
        with refused(grpc.StatusCode.INTERNAL, "see the driver's log") as refusal:
            driver.node.NodeGetVolumeStats(request, timeout=10)
        assert "planted" not in refusal.message
        assert "ZeroDivisionError: planted: a bug" in driver.log
        assert "in broken" in driver.log
        name = 'csi_plugin_operations_seconds_count{driver_name="csi.oras.land",grpc_status_code="Internal",'
        assert driver.metrics()[name + 'method_name="/csi.v1.Node/NodeGetVolumeStats"}'] == 1
        driver.identity.Probe(csi_pb2.ProbeRequest(), timeout=5)


def test_caller_that_goes_away_is_no_bug(short_path: Path) -> None:
    with Driver(short_path) as driver, socket.create_server(("127.0.0.1", 0)) as silent:
        reference = f"127.0.0.1:{silent.getsockname()[1]}/a/b:v1"
        call = driver.node.NodePublishVolume.future(publish_request(driver.target(), reference=reference))
        silent.accept()[0].close()
        call.cancel()
        driver.identity.Probe(csi_pb2.ProbeRequest(), timeout=5)
        driver.unpublish(driver.target())
        assert "Traceback" not in driver.log
        assert "a bug" not in driver.log


def test_probe_of_a_store_that_is_gone_is_failed_precondition(short_path: Path) -> None:
    """As the specification has it for an unhealthy plugin; the liveness probe then restarts the driver."""
    with Driver(short_path) as driver:
        blobs = driver.state / "blobs"
        blobs.rename(driver.state / "elsewhere")
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "cannot be written"):
            driver.identity.Probe(csi_pb2.ProbeRequest(), timeout=5)
        (driver.state / "elsewhere").rename(blobs)
        driver.identity.Probe(csi_pb2.ProbeRequest(), timeout=5)
