"""What a publish asks for, as the edge has parsed it."""

from collections.abc import Mapping
from dataclasses import dataclass

from csi_oras.store.volumes import VolumeRecord, VolumeState
from csi_oras.telemetry.events import Pod
from csi_oras.telemetry.secrets import Secret
from csi_oras.transfer.request import PulledArtifact
from csi_oras.volume.attributes import Attributes


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishRequest:
    """One volume wanted at one target; `fingerprint` is the same for requests that ask for the same.

    Nobody else may have the volume at the same time if it `is_exclusive`.
    `pod` names the pod for people; `owner` is it where events can be about it.
    """

    volume_id: str
    target: str
    attributes: Attributes
    fingerprint: str
    secret: Mapping[str, Secret]
    pod: str
    owner: Pod | None
    tokens: Secret | None = None
    is_exclusive: bool = False

    def record(self, state: VolumeState, artifact: PulledArtifact | None = None) -> VolumeRecord:
        """Return the record of this volume."""
        known = (
            {}
            if artifact is None
            else {
                "artifact": str(artifact.artifact),
                "plan": str(artifact.plan),
                "size": artifact.size,
                "files": artifact.files,
            }
        )
        return VolumeRecord(
            volume_id=self.volume_id,
            target=self.target,
            state=state,
            fingerprint=self.fingerprint,
            reference=str(artifact.reference if artifact else self.attributes.reference),
            pod=self.pod,
            **known,  # type: ignore[arg-type]
        )
