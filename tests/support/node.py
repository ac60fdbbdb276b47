"""The volumes of a node without its socket, in the process of a test: its steps can be taken one by one."""

from concurrent.futures import Future
from pathlib import Path

from csi_oras import config
from csi_oras.app import Application
from csi_oras.csi.pb import csi_pb2
from csi_oras.csi.requests import parse_publish
from csi_oras.errors import StoreBrokenError
from csi_oras.mount import mountinfo
from csi_oras.mounter.client import Mounter
from csi_oras.oci.digest import Digest
from csi_oras.store.writable import Writing
from csi_oras.telemetry.events import Events
from csi_oras.transfer.jobs import Job
from csi_oras.transfer.request import PulledArtifact
from csi_oras.volume.notices import Notices
from csi_oras.volume.recovery import Recovery
from csi_oras.volume.request import PublishRequest
from csi_oras.volume.volumes import Outcome, Step, Volumes
from csi_oras.volume.wanted import Wanted
from tests.support.calls import publish_request
from tests.support.driver import pod_context

DRIVER = "csi.oras.land"


def _no_mounter() -> Mounter:
    raise StoreBrokenError("mounter", "is not there")


class Node:
    """The volumes of a node, and what a start does with them; what is captured is kept and pushed by nobody."""

    def __init__(self, state: Path, kubelet: Path, policy: config.Policy | None = None) -> None:
        self.app = Application(state, policy or config.load(None))
        self.kubelet = kubelet
        self.records = self.app.records
        self.captured: list[Writing] = []
        self.write_back = self.app.write_back(self._push)
        self.volumes = Volumes(
            records=self.records,
            puller=self.app.puller,
            wanted=Wanted(self.app.keychain, self.app.platform),
            kubelet_dir=kubelet,
            trees=self.app.paths.trees,
            notices=Notices(Events(None, self.app.metrics)),
            write_back=self.write_back,
            lazy=self.app.lazy_volumes(_no_mounter),
        )
        self.recovery = Recovery(
            records=self.records,
            kubelet_dir=kubelet,
            trees=self.app.paths.trees,
            driver_name=DRIVER,
            locks=self.volumes.locks,
            leave=self.app.puller.jobs.leave,
            write_back=self.write_back,
        )

    def _push(self, captured: Writing) -> Future[Digest]:
        self.captured.append(captured)
        return Future()

    def target(self, name: str) -> Path:
        target = self.kubelet / name / "mount"
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def request(self, reference: str, name: str = "volume") -> PublishRequest:
        return parse_publish(publish_request(self.target(name), volume_id=name, reference=reference))

    def writing(self, name: str = "volume", secrets: dict[str, str] | None = None, **attributes: str) -> PublishRequest:
        """A request for a volume that is written, of a pod of namespace `default`."""
        request = publish_request(self.target(name), volume_id=name, **pod_context(), **attributes)
        request.readonly = False
        request.secrets.update(secrets or {})
        return parse_publish(csi_pb2.NodePublishVolumeRequest.FromString(request.SerializeToString()))

    def begin(self, request: PublishRequest) -> Job[PulledArtifact] | None:
        step = self.volumes.begin(request)
        assert step is None or isinstance(step, Job)
        return step

    def publish(self, request: PublishRequest) -> Path:
        step = self.volumes.begin(request)
        while step:
            step = self.volumes.finish(request, self._outcome(step))
        return Path(request.target)

    def _outcome(self, step: Step) -> Outcome:
        if not isinstance(step, Job):
            return step.result(30)
        with self.app.puller.jobs.waiting(step):
            return step.future.result(30)

    def mounted(self) -> list[str]:
        return [mount.target for mount in mountinfo.read() if mount.target.startswith(f"{self.kubelet}/")]

    def known(self) -> list[str]:
        return sorted(record.volume_id for record in self.records.all())
