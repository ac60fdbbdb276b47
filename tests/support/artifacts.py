"""Artifacts of any shape, honest or not, put into a registry over its own API with nothing of ours in between."""

import hashlib
import http.client
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
FILE_TYPE = "application/vnd.oci.image.layer.v1.tar"
TITLE = "org.opencontainers.image.title"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"


def sha256(content: bytes) -> str:
    """The digest of `content`."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@dataclass(kw_only=True)
class Layer:
    """A layer with its bytes; whatever is given in `claims` replaces what its descriptor would truly say."""

    content: bytes
    title: str | None = None
    media_type: str = FILE_TYPE
    annotations: Mapping[str, str] = field(default_factory=dict)
    claims: Mapping[str, Any] = field(default_factory=dict)

    def descriptor(self) -> dict[str, Any]:
        annotations = {**({TITLE: self.title} if self.title is not None else {}), **self.annotations}
        document: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": sha256(self.content),
            "size": len(self.content),
        }
        if annotations:
            document["annotations"] = annotations
        return {**document, **self.claims}


def files(**contents: bytes) -> list[Layer]:
    """Layers titled by keyword."""
    return [Layer(content=content, title=title) for title, content in contents.items()]


def manifest(
    layers: Sequence[Layer], config: Layer | None = None, media_type: str = OCI_MANIFEST, **members: Any
) -> bytes:
    """A manifest of `layers`; `members` are added to it or replace what is there."""
    config = config or Layer(content=b"{}", media_type=EMPTY_TYPE)
    document = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": config.descriptor(),
        "layers": [layer.descriptor() for layer in layers],
        **members,
    }
    return json.dumps(document).encode()


class Pusher:
    """Puts blobs and manifests into a repository of a plain HTTP registry."""

    def __init__(self, address: str, headers: Mapping[str, str] | None = None) -> None:
        self.address = address
        self._headers = dict(headers or {})

    def _request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(self.address, timeout=60)
        sent = {**self._headers, **{key.replace("_", "-"): value for key, value in headers.items()}}
        connection.request(method, path, body=body, headers=sent)
        response = connection.getresponse()
        answer = response.read()
        assert response.status < 300, (method, path, response.status, answer[:500])
        connection.close()
        return response

    def get(self, path: str) -> tuple[int, bytes]:
        """Return the status of a path, and what is there."""
        connection = http.client.HTTPConnection(self.address, timeout=60)
        connection.request("GET", path, headers=self._headers)
        response = connection.getresponse()
        found = response.status, response.read()
        connection.close()
        return found

    def blob(self, repository: str, content: bytes) -> str:
        """Upload a blob and return its digest."""
        started = self._request("POST", f"/v2/{repository}/blobs/uploads/", b"")
        location = started.headers["Location"].partition(self.address)[2] or started.headers["Location"]
        joint = "&" if "?" in location else "?"
        self._request(
            "PUT",
            f"{location}{joint}digest={sha256(content)}",
            content,
            Content_Type="application/octet-stream",
        )
        return sha256(content)

    def manifest(self, repository: str, tag: str, content: bytes, media_type: str = OCI_MANIFEST) -> str:
        """Put a manifest and return its digest."""
        self._request("PUT", f"/v2/{repository}/manifests/{tag}", content, Content_Type=media_type)
        return sha256(content)

    def artifact(self, repository: str, layers: Sequence[Layer], tag: str = "v1", **options: Any) -> str:
        """Push an artifact of `layers` and return its reference."""
        self.blob(repository, b"{}")
        for layer in layers:
            self.blob(repository, layer.content)
        self.manifest(repository, tag, manifest(layers, **options), options.get("media_type", OCI_MANIFEST))
        return f"{self.address}/{repository}:{tag}"
