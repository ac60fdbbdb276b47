"""What a registry's refusal means, told so that a person can do something about it."""

from collections.abc import Iterable
from urllib.parse import unquote_plus

from csi_oras.errors import (
    AccessDeniedError,
    ArtifactNotFoundError,
    BadResponseError,
    CsiOrasError,
    PushRefusedError,
    RegistryUnavailableError,
    UnauthenticatedError,
    printable,
)
from csi_oras.oci import document as json
from csi_oras.registry.credentials import Credential
from csi_oras.registry.retries import asked_pause
from csi_oras.registry.transport import Response
from csi_oras.telemetry.secrets import Secret

_BAD_REQUEST, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 400, 401, 403, 404
_REQUEST_TIMEOUT, _TOO_MANY, _SERVER_FAILED = 408, 429, 500
LARGEST_ERROR = 16 << 10
_PUSHES = frozenset({"POST", "PATCH", "PUT"})
_LONGEST_QUOTE = 200


def failure(
    response: Response,
    subject: str,
    credential: Credential | None,
    *,
    speaker: str = "the registry",
    hidden: Iterable[Secret] = (),
) -> CsiOrasError:
    """Return the error that an unexpected status stands for, with the words of who answered.

    `hidden` is what these words must not repeat, beside the credential.
    """
    status = response.status
    headers = [secret.reveal() for secret in hidden]
    secrets = {*(credential.spellings() if credential else ()), *headers, *(text.partition(" ")[2] for text in headers)}
    quote = _quote(response, secrets)
    if status == _UNAUTHORIZED and not (credential and _may_only_read(response)):
        return _unauthorized(subject, speaker, quote, credential)
    if status in (_UNAUTHORIZED, _FORBIDDEN):
        who = f"the credential from {credential.source}" if credential else "an anonymous user"
        return AccessDeniedError(subject, f"{speaker} does not allow it to {who}{quote}", "ask for access")
    if status == _NOT_FOUND:
        cause, remedy = f"{speaker} does not have it{quote}", "check the reference"
        if response.method == "POST":  # which opens an upload
            cause = f"{speaker} has no such repository, or none that a push may make{quote}"
            remedy = "make the repository first, or check its name"
        return ArtifactNotFoundError(subject, cause, remedy)
    if may_pass(status):
        cause = f"{speaker} answers with status {status}{quote}"
        error = unavailable(subject, cause, response.header("Retry-After"))
        error.status = status
        return error
    if response.method in _PUSHES and _BAD_REQUEST <= status < _SERVER_FAILED:
        return PushRefusedError(
            subject, f"{speaker} does not take it (status {status}){quote}", "ask its administrator"
        )
    return BadResponseError(subject, f"{speaker} answers with status {status}{quote}", "check that it is a registry")


def _may_only_read(response: Response) -> bool:
    """Say whether a push was refused to somebody who is known, and has a token (RFC 6750, 3.1)."""
    return response.method in _PUSHES and 'error="insufficient_scope"' in response.header("WWW-Authenticate")


def may_pass(status: int) -> bool:
    """Say whether a status is worth another attempt."""
    return status in (_REQUEST_TIMEOUT, _TOO_MANY) or status >= _SERVER_FAILED


def unavailable(subject: str, cause: str, retry_after: str) -> RegistryUnavailableError:
    """Return the error of a server that may do better later, and says so in its Retry-After."""
    error = RegistryUnavailableError(subject, cause, "it is tried again")
    error.retry_after = asked_pause(retry_after)
    return error


def _unauthorized(subject: str, speaker: str, quote: str, credential: Credential | None) -> CsiOrasError:
    if credential is None:
        remedy = "name a secret for the volume (nodePublishSecretRef)"
        return UnauthenticatedError(subject, f"{speaker} wants a credential{quote}", remedy)
    cause = f"{speaker} refuses the credential from {credential.source}{quote}"
    return UnauthenticatedError(subject, cause, credential.remedy)


def _quote(response: Response, secrets: Iterable[str]) -> str:
    """Return the registry's own words (distribution-spec, Error Codes), short and harmless.

    Words that repeat a secret are left out: events are read by more people than secrets.
    """
    try:
        document = json.parse_object(response.read(LARGEST_ERROR), "error")
        first = json.objects(document, "errors", "error")[0]
        said = json.text(first, "message", "error", "") or json.text(first, "code", "error", "")
    except (CsiOrasError, IndexError):
        return ""
    spellings = (said, unquote_plus(said))
    if any(secret in spelling for secret in filter(None, secrets) for spelling in spellings):
        return ""
    return f' ("{printable(said, _LONGEST_QUOTE)}")' if said else ""
