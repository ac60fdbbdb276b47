"""Which gRPC code each error is.

The kubelet retries ABORTED, UNAVAILABLE, RESOURCE_EXHAUSTED, CANCELLED and DEADLINE_EXCEEDED knowing that a
volume may be there, and takes every other code as final.
"""

import grpc

from csi_oras import errors

CODES: dict[type[errors.CsiOrasError], grpc.StatusCode] = {
    errors.InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidConfigError: grpc.StatusCode.INTERNAL,
    errors.VolumeConflictError: grpc.StatusCode.ALREADY_EXISTS,
    errors.VolumeInUseError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.VolumeBusyError: grpc.StatusCode.ABORTED,
    errors.PullPendingError: grpc.StatusCode.ABORTED,
    errors.UnwantedError: grpc.StatusCode.ABORTED,
    errors.VolumeNotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.ArtifactNotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    errors.AccessDeniedError: grpc.StatusCode.PERMISSION_DENIED,
    errors.RegistryUnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.PushRefusedError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ContentChangedError: grpc.StatusCode.ABORTED,
    errors.NoSpaceError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.UnhealthyError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.StoreBrokenError: grpc.StatusCode.UNAVAILABLE,
    errors.DigestMismatchError: grpc.StatusCode.DATA_LOSS,
    errors.SizeMismatchError: grpc.StatusCode.DATA_LOSS,
    errors.HostileContentError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.UnsupportedContentError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.LimitExceededError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.SignatureError: grpc.StatusCode.PERMISSION_DENIED,
    errors.BadResponseError: grpc.StatusCode.FAILED_PRECONDITION,
}


def code_of(error: errors.CsiOrasError) -> grpc.StatusCode:
    """Return the code of an error; a test holds that every leaf of the taxonomy has one."""
    return CODES[type(error)]


def go_name(code: grpc.StatusCode) -> str:
    """Return the code as Go spells it, for metrics that go with the sidecars': `DeadlineExceeded`, `OK`."""
    name: str = code.name
    return "OK" if code is grpc.StatusCode.OK else name.title().replace("_", "")
