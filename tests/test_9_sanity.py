"""csi-sanity, the published conformance suite: no failure, and no skip that is not ours to skip."""

from collections import Counter

import pytest

from csi_oras.csi.pb import csi_pb2
from e2e import sanity
from tests.support.artifacts import Pusher, files
from tests.support.driver import Driver

pytestmark = [
    pytest.mark.needs("root", "registry"),
    pytest.mark.skipif(sanity.program() is None, reason="csi-sanity is not built (it needs Go once)"),
]

# reason of the suite -> specs that it skips, and the capability that they need and we do not advertise
_SKIPS = {
    "ControllerPublishVolume not supported": (7, "PUBLISH_UNPUBLISH_VOLUME"),
    "ControllerUnpublishVolume not supported": (1, "PUBLISH_UNPUBLISH_VOLUME"),
    "Controller Publish, UnpublishVolume not supported": (2, "PUBLISH_UNPUBLISH_VOLUME"),
    "Snapshot not supported": (2, "CREATE_DELETE_SNAPSHOT"),
    "CreateSnapshot not supported": (5, "CREATE_DELETE_SNAPSHOT"),
    "DeleteSnapshot not supported": (3, "CREATE_DELETE_SNAPSHOT"),
    "GetSnapshot not supported": (3, "GET_SNAPSHOT"),
    "ListSnapshots not supported": (7, "LIST_SNAPSHOTS"),
    "Volume Cloning not supported": (2, "CLONE_VOLUME"),
    "Modify volume not supported": (1, "MODIFY_VOLUME"),
    "Modify Volume not supported": (1, "MODIFY_VOLUME"),
    "ControllerModifyVolume not supported": (6, "MODIFY_VOLUME"),
    "GetCapacity not supported": (1, "GET_CAPACITY"),
    "ListVolumes not supported": (3, "LIST_VOLUMES"),
    "ControllerExpandVolume not supported": (3, "EXPAND_VOLUME"),
    "NodeExpandVolume not supported": (4, "EXPAND_VOLUME"),
    "NodeStageVolume not supported": (3, "STAGE_UNSTAGE_VOLUME"),
    "NodeUnstageVolume not supported": (2, "STAGE_UNSTAGE_VOLUME"),
    "GroupControllerService not supported": (6, "GROUP_CONTROLLER_SERVICE"),
    # a volume's size is not the driver's to say (0), so there is no other size to refuse
    "capacity of the volume is unknown": (1, ""),
    # the suite's own
    "pending": (1, ""),
}
_PASSED = 32


def advertised(driver: Driver) -> set[str]:
    """Every capability of the driver's three services, by name."""
    plugin = driver.identity.GetPluginCapabilities(csi_pb2.GetPluginCapabilitiesRequest()).capabilities
    controller = driver.controller.ControllerGetCapabilities(csi_pb2.ControllerGetCapabilitiesRequest()).capabilities
    node = driver.node.NodeGetCapabilities(csi_pb2.NodeGetCapabilitiesRequest()).capabilities
    return (
        {csi_pb2.PluginCapability.Service.Type.Name(item.service.type) for item in plugin}
        | {csi_pb2.ControllerServiceCapability.RPC.Type.Name(item.rpc.type) for item in controller}
        | {csi_pb2.NodeServiceCapability.RPC.Type.Name(item.rpc.type) for item in node}
    )


def test_csi_sanity_passes_and_skips_only_what_is_not_advertised(
    driver: Driver, pusher: Pusher, repository: str
) -> None:
    binary = sanity.program()
    assert binary is not None
    reference = pusher.artifact(repository, files(x=b"content"))
    endpoint = f"unix://{driver.socket}"
    report = sanity.run(binary, endpoint, driver.kubelet / "sanity", {"reference": reference})
    assert report.failed == frozenset(), report.output
    skips = Counter(reason.removeprefix("skipped - ") for reason in report.skipped.values())
    assert skips == {reason: count for reason, (count, _) in _SKIPS.items()}
    assert {needed for _, needed in _SKIPS.values()} & advertised(driver) == set()
    assert len(report.passed) == _PASSED
    assert driver.mounts() == []
    assert "a bug" not in driver.log
