"""Pushes of chunk indexes: the blob, and a manifest that refers to the artifact.

An artifact that names its index by an annotation needs the referrer all the same: registries keep only what a manifest
has as a layer.
"""

import json
from dataclasses import replace

from csi_oras.errors import RegistryUnavailableError, UnacceptableError, UnobtainableError
from csi_oras.oci import media_types
from csi_oras.oci.chunk_index import ChunkIndex
from csi_oras.oci.descriptor import Descriptor
from csi_oras.registry.pushes import PushClient
from csi_oras.registry.sources import in_memory
from csi_oras.telemetry.logs import logger

_EMPTY = b"{}"


def push_index(client: PushClient, index: ChunkIndex, artifact: Descriptor) -> None:
    """Push the chunk index of `artifact`; of the same one, it is the same push.

    Raises:
        UnobtainableError: the registry does not take it.
        UnacceptableError: the registry does not behave.
    """
    config = Descriptor.of(_EMPTY, media_types.EMPTY)
    for blob, content in ((index.descriptor, index.content), (config, _EMPTY)):
        if not client.has_blob(blob.digest):
            client.upload(blob, in_memory(content))
    document = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "artifactType": media_types.CHUNK_INDEX,
        "config": config.to_json(),
        "layers": [index.descriptor.to_json()],
        "subject": artifact.to_json(),
    }
    content = json.dumps(document, separators=(",", ":")).encode()
    entry = replace(Descriptor.of(content, media_types.OCI_MANIFEST), artifact_type=media_types.CHUNK_INDEX)
    client.put_referrer(content, entry, artifact.digest)


def try_index(client: PushClient, index: ChunkIndex, artifact: Descriptor) -> None:
    """Push the chunk index of an artifact that is good without: some registries take nothing that refers to another.

    Raises:
        RegistryUnavailableError: it may take it later.
    """
    try:
        push_index(client, index, artifact)
    except RegistryUnavailableError:
        raise
    except (UnobtainableError, UnacceptableError) as error:
        logger.warning("pushed without its chunk index", artifact=str(artifact.digest), cause=error.message)
