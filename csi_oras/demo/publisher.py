"""The publisher: what somebody else's pipeline would do, with oras-py, the field's Python SDK.

The driver never uses it (docs/adr/0001-own-transport.md); that it pushes and we mount is the point.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import oras.client
import oras.logger

_TITLE = "org.opencontainers.image.title"
_CONFIG_TYPE = "application/vnd.csi-oras.demo.config.v1+json"


class Publisher:
    """Pushes artifacts to plain HTTP registries; every file of its work stays below `workshop`."""

    def __init__(self, workshop: Path) -> None:
        self._workshop = workshop
        self._pushes = 0
        oras.logger.setup_logger(quiet=True)
        self._client = oras.client.OrasClient(insecure=True)
        self._client.session.trust_env = False  # a proxy has no business between us and a loopback port

    def push(self, reference: str, files: Mapping[str, bytes]) -> str:
        """Push `files` (contents by title, honest or not) and return the digest of the artifact.

        oras-py takes a file's title from its base name; an annotation file gives it nested ones.
        """
        self._pushes += 1
        directory = self._workshop / str(self._pushes)
        directory.mkdir(parents=True)
        titles = {}
        for number, (title, content) in enumerate(files.items()):
            file = directory / f"layer-{number}"
            file.write_bytes(content)
            titles[str(file)] = {_TITLE: title}
        annotations, config = directory / "annotations.json", directory / "config.json"
        annotations.write_text(json.dumps(titles))
        config.write_text("{}")
        response = self._client.push(
            target=reference,
            files=list(titles),
            annotation_file=str(annotations),
            manifest_config=f"{config}:{_CONFIG_TYPE}",
            disable_path_validation=True,
            quiet=True,
        )
        return str(response.headers["Docker-Content-Digest"])
