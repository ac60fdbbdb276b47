"""The node service: volumes at target paths."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import Any, TypeVar

from csi_oras.csi import requests
from csi_oras.csi.pb import csi_pb2, csi_pb2_grpc
from csi_oras.errors import PullPendingError, VolumeBusyError
from csi_oras.transfer.jobs import Job, Jobs
from csi_oras.transfer.request import PulledArtifact
from csi_oras.volume.notices import Notices
from csi_oras.volume.request import PublishRequest
from csi_oras.volume.volumes import Outcome, Step, Volumes

PATIENCE_SECONDS = 100.0
"""How long a publish waits for its pull; the kubelet gives up after 120."""
SLOW_SECONDS = 30.0
"""How long a publish waits until the pod is told how far its pull is; what it is told at the end is the kubelet's."""
PUSH_SECONDS = 60.0
"""How long an unpublish waits for what was written to be pushed, so that the next pod finds it; it ends well anyway."""
_ANSWER_SECONDS = 2.0
"""What is left of a caller's deadline for the answer to get through."""

_Result = TypeVar("_Result")


class Node(csi_pb2_grpc.NodeServicer):
    """Publish and unpublish; the core runs in a bounded pool and waits for no network there."""

    def __init__(
        self, node_id: str, volumes: Volumes, jobs: Jobs[PulledArtifact], pool: Executor, notices: Notices
    ) -> None:
        self._node_id = node_id
        self._volumes = volumes
        self._jobs = jobs
        self._pool = pool
        self._notices = notices

    async def NodeGetInfo(self, request: Any, context: Any) -> csi_pb2.NodeGetInfoResponse:
        """The node's name; there is no limit of volumes."""
        return csi_pb2.NodeGetInfoResponse(node_id=self._node_id)

    async def NodeGetCapabilities(
        self,
        request: Any,
        context: Any,
    ) -> csi_pb2.NodeGetCapabilitiesResponse:
        """Statistics, and who writes on one node; no staging: a tree is shared as it is."""
        kind = csi_pb2.NodeServiceCapability.RPC
        capabilities = [
            csi_pb2.NodeServiceCapability(rpc=kind(type=each))
            for each in (kind.GET_VOLUME_STATS, kind.SINGLE_NODE_MULTI_WRITER)
        ]
        return csi_pb2.NodeGetCapabilitiesResponse(capabilities=capabilities)

    async def NodePublishVolume(
        self, request: csi_pb2.NodePublishVolumeRequest, context: Any
    ) -> csi_pb2.NodePublishVolumeResponse:
        """Show an artifact at the target; while it is pulled, answer with how far it is."""
        wanted = requests.parse_publish(request)
        step = await self._run(self._volumes.begin, wanted)
        while step is not None:
            outcome = await self._outcome(wanted, step, _patience(context))
            step = await self._run(self._volumes.finish, wanted, outcome)
        return csi_pb2.NodePublishVolumeResponse()

    async def NodeUnpublishVolume(
        self,
        request: csi_pb2.NodeUnpublishVolumeRequest,
        context: Any,
    ) -> csi_pb2.NodeUnpublishVolumeResponse:
        """Take the volume away, with everything stacked on its target."""
        volume_id = requests.parse_volume_id(request.volume_id)
        target = requests.required(request.target_path, "target_path")
        pushed = await self._run(self._volumes.unpublish, volume_id, target)
        if pushed is not None:  # no thread of the pool waits for a registry
            await _ended(pushed, _patience(context, PUSH_SECONDS))
        return csi_pb2.NodeUnpublishVolumeResponse()

    async def NodeGetVolumeStats(
        self,
        request: csi_pb2.NodeGetVolumeStatsRequest,
        context: Any,
    ) -> csi_pb2.NodeGetVolumeStatsResponse:
        """The artifact's own bytes and files, from its record: the file system's are the node's."""
        volume_id = requests.parse_volume_id(request.volume_id)
        path = requests.required(request.volume_path, "volume_path")
        found = await self._run(self._volumes.statistics, volume_id, path)
        usage = [
            csi_pb2.VolumeUsage(unit=unit, total=total, used=total)
            for unit, total in (
                (csi_pb2.VolumeUsage.BYTES, found.size),
                (csi_pb2.VolumeUsage.INODES, found.files),
            )
        ]
        return csi_pb2.NodeGetVolumeStatsResponse(usage=usage)

    async def _outcome(self, wanted: PublishRequest, step: Step, patience: float) -> Outcome:
        if isinstance(step, Job):
            return await self._pulled(wanted, step, patience)
        if not await _ended(step, patience):
            cause = "the registry has not said yet whether it takes what will be written"
            raise VolumeBusyError(str(wanted.attributes.reference), cause, "it is asked again")
        return await self._heard(wanted, step)

    async def _pulled(self, wanted: PublishRequest, job: Job[PulledArtifact], patience: float) -> PulledArtifact:
        """Wait for a pull as long as the caller waits for us; the pull itself goes on."""
        reference, soon = wanted.attributes.reference, min(SLOW_SECONDS, patience)
        with self._jobs.waiting(job):
            if not await _ended(job.future, soon):
                self._notices.slow(wanted.owner, reference, job.progress)
                if not await _ended(job.future, patience - soon):
                    raise PullPendingError(f"pulling {reference}", job.progress.describe())
            return await self._heard(wanted, job.future)

    async def _heard(self, wanted: PublishRequest, future: Future[_Result]) -> _Result:
        """Take an outcome that is there; a failure leaves nothing of the publish."""
        try:
            return future.result()
        except BaseException:
            await self._run(self._volumes.abandon, wanted)
            raise

    async def _run(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        """Run a piece of the core in the pool, with this call's log fields."""
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._pool, context.run, function, *arguments)


def _patience(context: Any, most: float = PATIENCE_SECONDS) -> float:
    remaining = context.time_remaining()
    return most if remaining is None else max(0.0, min(most, remaining - _ANSWER_SECONDS))


async def _ended(future: Future[Any], seconds: float) -> bool:
    """Wait for a future's end without ever cancelling it, as wrapping its future would."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def wake(_: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(ended.set)

    future.add_done_callback(wake)
    try:
        await asyncio.wait_for(ended.wait(), seconds)
    except TimeoutError:
        return False
    return True
