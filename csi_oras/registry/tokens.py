"""Authorization headers: one token per (origin, repository, actions, credential), sent nowhere else."""

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from csi_oras.errors import BadResponseError, RegistryUnavailableError, UnacceptableError, UnauthenticatedError
from csi_oras.oci import document as json
from csi_oras.oci.reference import Repository
from csi_oras.registry import hosts
from csi_oras.registry.challenge import Challenge, parse
from csi_oras.registry.credentials import Credential
from csi_oras.registry.transport import Origin, Transport
from csi_oras.telemetry.secrets import Secret

_LARGEST_ANSWER = 64 << 10
_SHORTEST_LIFE = 30.0
_LONGEST_LIFE = 3600.0
_MOST_TOKENS = 4096
_TOKEN = re.compile(r"[\x21-\x7e]+")
_OK = 200
_TOO_MANY, _SERVER_FAILED = 429, 500


@dataclass(frozen=True, slots=True)
class Access:
    """What a token is for: it is the key of the cache, so nothing of it may be left out."""

    origin: Origin
    repository: Repository
    actions: str
    credential: Credential | None


class Tokens:
    """Authorization headers by access, each until it expires."""

    def __init__(self, transport: Transport, clock: Callable[[], float] = time.monotonic) -> None:
        self._transport = transport
        self._clock = clock
        self._lock = threading.Lock()
        self._headers: dict[Access, tuple[Secret, float]] = {}

    def header(self, access: Access) -> Secret | None:
        """Return the Authorization header that is known to be asked for, if any."""
        with self._lock:
            header, expires = self._headers.get(access, (None, 0.0))
        return header if expires > self._clock() else None

    def forget(self, access: Access, header: Secret) -> None:
        """Drop a header that was refused, unless another thread has already renewed it."""
        with self._lock:
            if self._headers.get(access, (None, 0.0))[0] == header:
                del self._headers[access]

    def answer(self, access: Access, www_authenticate: str) -> Secret | None:
        """Return the header that answers a 401, or None where there is nothing to answer with.

        Raises:
            BadResponseError: a token endpoint that we do not go to, or one that does not behave.
            UnauthenticatedError: the token endpoint refuses the credential.
            RegistryUnavailableError: it cannot be reached.
        """
        challenges = {challenge.scheme: challenge for challenge in reversed(parse(www_authenticate))}
        if bearer := challenges.get("bearer"):
            header, life = self._fetch(access, bearer)
        elif "basic" in challenges and access.credential:
            header, life = access.credential.basic(), _LONGEST_LIFE
        else:
            return None
        with self._lock:
            if len(self._headers) >= _MOST_TOKENS:
                self._headers.clear()
            self._headers[access] = (header, self._clock() + life)
        return header

    def _fetch(self, access: Access, challenge: Challenge) -> tuple[Secret, float]:
        realm = challenge.parameters.get("realm", "")
        hosts.check_realm(Origin.of(realm), access.origin)
        scope = f"repository:{access.repository.name}:{access.actions}"
        query = {"scope": scope}
        if service := challenge.parameters.get("service"):
            query = {"service": service, **query}
        url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(query, quote_via=quote)}"
        headers = {"Authorization": access.credential.basic().reveal()} if access.credential else {}
        with self._transport.request("GET", url, headers) as response:
            if response.status != _OK:
                raise _refused(access, response.status)
            body = response.read(_LARGEST_ANSWER)
        return _read_token(body, f"token endpoint of {access.repository.registry}")


def _refused(access: Access, status: int) -> Exception:
    subject = f"token endpoint of {access.repository.registry}"
    if status == _TOO_MANY or status >= _SERVER_FAILED:
        return RegistryUnavailableError(subject, f"answered with status {status}", "it is tried again")
    if access.credential:
        return UnauthenticatedError(
            subject, f"refused the credential from {access.credential.source} (status {status})", "correct it"
        )
    return UnauthenticatedError(subject, f"gives no anonymous token (status {status})", "name a secret for the volume")


def _read_token(body: bytes, subject: str) -> tuple[Secret, float]:
    try:
        document = json.parse_object(body, subject)
        token = json.text(document, "token", subject, "") or json.text(document, "access_token", subject, "")
    except UnacceptableError:  # whose words may quote the answer, and with it a token
        token = ""
    if not _TOKEN.fullmatch(token):
        raise BadResponseError(subject, "sent no usable token", "check that it is a registry")
    life = document.get("expires_in")
    seconds = min(life, 2 * _LONGEST_LIFE) if isinstance(life, int) and not isinstance(life, bool) else 60.0
    # half of the life left is the margin for clocks and for requests under way
    return Secret(f"Bearer {token}"), max(seconds / 2, _SHORTEST_LIFE)
