"""What other tools push, and what nobody should: any artifact, with the credential that the suite has for pushing."""

import os
from pathlib import Path

from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.reference import Reference
from csi_oras.registry import credentials
from csi_oras.registry.pushes import PushClient
from csi_oras.registry.registries import Registries
from csi_oras.registry.sources import in_memory
from csi_oras.registry.transport import Transport
from csi_oras.telemetry.secrets import Secret
from tests.support.artifacts import manifest
from tests.support.kinds_archives import Packed


def publish(reference: str, packed: Packed) -> str:
    """Push `packed`, honest or not, and return its digest."""
    target = Reference.parse(reference)
    transport = Transport()
    try:
        return _publish(_repository(transport, target), target, packed)
    finally:
        transport.close()


def _repository(transport: Transport, target: Reference) -> PushClient:
    config = os.environ.get("CSI_ORAS_E2E_REGISTRY_CONFIG")
    secret = {credentials.DOCKER_CONFIG_KEY: Secret(Path(config).read_text())} if config else {}
    credential = credentials.from_secret(secret, target.repository)
    return Registries(transport).repository(target.repository, credential).pushes()


def _publish(client: PushClient, target: Reference, packed: Packed) -> str:
    for layer in (packed.config, *packed.layers):
        client.upload(Descriptor.of(layer.content, layer.media_type), in_memory(layer.content))
    content = manifest(packed.layers, packed.config, packed.media_type)
    return str(client.put_manifest(target.identifier, content, packed.media_type))
