"""What a registry's refusal means, told so that a person can do something about it."""

from csi_oras.errors import (
    AccessDeniedError,
    ArtifactNotFoundError,
    BadResponseError,
    CsiOrasError,
    RegistryUnavailableError,
    UnauthenticatedError,
    printable,
)
from csi_oras.oci import document as json
from csi_oras.registry.credentials import Credential
from csi_oras.registry.transport import Response

_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 401, 403, 404
_REQUEST_TIMEOUT, _TOO_MANY, _SERVER_FAILED = 408, 429, 500
LARGEST_ERROR = 16 << 10
_LONGEST_QUOTE = 200


def failure(response: Response, subject: str, credential: Credential | None) -> CsiOrasError:
    """Return the error that an unexpected status stands for, with the registry's own words."""
    status, quote = response.status, _quote(response, credential)
    if status == _UNAUTHORIZED:
        if credential is None:
            return UnauthenticatedError(
                subject,
                f"the registry wants a credential{quote}",
                "name a secret for the volume (nodePublishSecretRef)",
            )
        return UnauthenticatedError(
            subject,
            f"the registry refuses the credential from {credential.source}{quote}",
            credential.remedy,
        )
    if status == _FORBIDDEN:
        who = f"the credential from {credential.source}" if credential else "an anonymous user"
        return AccessDeniedError(subject, f"the registry does not allow it to {who}{quote}", "ask for access")
    if status == _NOT_FOUND:
        return ArtifactNotFoundError(subject, f"the registry does not have it{quote}", "check the reference")
    if status in (_REQUEST_TIMEOUT, _TOO_MANY) or status >= _SERVER_FAILED:
        return RegistryUnavailableError(
            subject, f"the registry answers with status {status}{quote}", "it is tried again"
        )
    return BadResponseError(subject, f"the registry answers with status {status}{quote}", "check that it is a registry")


def _quote(response: Response, credential: Credential | None) -> str:
    """Return the registry's own words (distribution-spec, Error Codes), short and harmless.

    Words that repeat the credential are left out: events are read by more people than secrets.
    """
    try:
        document = json.parse_object(response.read(LARGEST_ERROR), "error")
        first = json.objects(document, "errors", "error")[0]
        said = json.text(first, "message", "error", "") or json.text(first, "code", "error", "")
    except (CsiOrasError, IndexError):
        return ""
    if credential and any(secret in said for secret in filter(None, credential.spellings())):
        return ""
    return f' ("{printable(said, _LONGEST_QUOTE)}")' if said else ""
