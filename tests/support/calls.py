"""Refused calls, and what a refusal must look like to the person who reads it on a pod."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from csi_oras.csi.pb import csi_pb2
from tests.support.driver import mount_capability

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]")


class Refusal:
    """The status that a call ended with."""

    code: grpc.StatusCode
    message: str


@contextmanager
def refused(code: grpc.StatusCode, *words: str) -> Iterator[Refusal]:
    """Expect a call to be refused with `code` and a message that holds `words` and nothing a terminal obeys."""
    refusal = Refusal()
    with pytest.raises(grpc.RpcError) as caught:
        yield refusal
    error: Any = caught.value
    refusal.code, refusal.message = error.code(), error.details()
    assert refusal.code is code, refusal.message
    for word in words:
        assert word in refusal.message, refusal.message
    assert not _CONTROL.search(refusal.message)
    assert len(refusal.message) <= 1000
    # "status details MUST be empty" (CSI, Error Scheme)
    assert "grpc-status-details-bin" not in dict(error.trailing_metadata() or ())


def publish_request(
    target: Path, *, volume_id: str = "volume-1", **attributes: str
) -> csi_pb2.NodePublishVolumeRequest:
    """A request as the kubelet makes it, for calls that `Driver.publish` does not make."""
    return csi_pb2.NodePublishVolumeRequest(
        volume_id=volume_id,
        target_path=str(target),
        volume_capability=mount_capability(),
        readonly=True,
        volume_context=attributes,
    )
