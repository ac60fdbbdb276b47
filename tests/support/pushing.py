"""A push to a fake registry: what is sent, and what came."""

import os

from csi_oras.oci.descriptor import Descriptor
from tests.support.fake_registry import FakeRegistry
from tests.support.fakes import user

ME = user("me", "right-password")
CHUNK = 10_000
CONTENT = os.urandom(3 * CHUNK + 500)
BLOB = Descriptor.of(CONTENT, "application/octet-stream")
UPLOADS = "/blobs/uploads/"
WHOLE = ["PATCH 0-9999", "PATCH 10000-19999", "PATCH 20000-29999", "PATCH 30000-30499", "PUT"]
"""What is sent of the content in chunks."""


def held(fake: FakeRegistry, name: str = "t/x") -> dict[str, bytes]:
    """Return the blobs of a repository by their digests."""
    return fake.blobs.get(name, {})


def spans(fake: FakeRegistry) -> list[str]:
    """Return what was sent of blobs, request by request."""
    return [
        f"{request.method} {request.headers.get('Content-Range', '')}".strip()
        for request in fake.seen(UPLOADS)
        if request.method in ("PUT", "PATCH")
    ]
