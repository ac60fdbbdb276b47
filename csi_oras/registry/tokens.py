"""Authorization headers: one token per (origin, repository, actions, credential), sent nowhere else."""

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from csi_oras.errors import BadResponseError, UnacceptableError, UnauthenticatedError
from csi_oras.oci import document as json
from csi_oras.oci.reference import Repository
from csi_oras.registry import hosts
from csi_oras.registry.challenge import Challenge, parse
from csi_oras.registry.channel import Channel
from csi_oras.registry.credentials import Credential, CredentialKind
from csi_oras.registry.failures import may_pass, unavailable
from csi_oras.registry.origin import Origin
from csi_oras.registry.transport import Response, Transport
from csi_oras.telemetry.secrets import Secret

_LARGEST_ANSWER = 64 << 10
_SHORTEST_LIFE = 30.0
_LONGEST_LIFE = 3600.0
_MOST_TOKENS = 4096
_TOKEN = re.compile(r"[\x21-\x7e]+")
_OK = 200
_NOT_THIS_WAY = frozenset({400, 401, 403, 404, 405, 501})
"""What token endpoints say to a way of asking that they do not know."""
_CLIENT = "csi-oras"
_EXCHANGE = {
    "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
    "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
}
_FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Access:
    """What a token is for: it is the key of the cache, so nothing of it may be left out."""

    origin: Origin
    repository: Repository
    actions: str
    credential: Credential | None
    name: str = ""
    """What the host calls the repository, where that is not its name."""
    beside: str = ""
    """Another repository that is read from, as the host calls it."""

    @property
    def scopes(self) -> tuple[str, ...]:
        """Return what a token is asked for."""
        own = f"repository:{self.name or self.repository.name}:{self.actions}"
        return (own, f"repository:{self.beside}:pull") if self.beside else (own,)


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

    def answer(self, access: Access, www_authenticate: str, channel: Channel | None = None) -> Secret | None:
        """Return the header that answers a 401, or None where there is nothing to answer with.

        A token endpoint is reached over `channel`, as the host that names it.

        Raises:
            BadResponseError: a token endpoint that we do not go to, or one that does not behave.
            UnauthenticatedError: the token endpoint refuses the credential.
            RegistryUnavailableError: it cannot be reached.
        """
        challenges = {challenge.scheme: challenge for challenge in reversed(parse(www_authenticate))}
        if bearer := challenges.get("bearer"):
            header, life = self._fetch(access, bearer, channel)
        elif "basic" in challenges and access.credential:
            _refuse_identity_token(access.credential, access.repository.registry)
            header, life = access.credential.basic(), _LONGEST_LIFE
        else:
            return None
        with self._lock:
            if len(self._headers) >= _MOST_TOKENS:
                self._headers.clear()
            self._headers[access] = (header, self._clock() + life)
        return header

    def _fetch(self, access: Access, challenge: Challenge, channel: Channel | None) -> tuple[Secret, float]:
        realm = challenge.parameters.get("realm", "")
        hosts.check_realm(Origin.of(realm, f"registry {access.repository.registry}"), access.origin)
        refusal: Exception | None = None
        for question in _questions(realm, challenge.parameters.get("service", ""), access):
            with self._transport.request(
                question.method, question.url, question.headers, question.body, channel=channel
            ) as response:
                if response.status == _OK:
                    body = response.read(_LARGEST_ANSWER)
                    return _read_token(body, f"token endpoint of {access.repository.registry}")
                refusal = refusal or _refused(access, response)
                if response.status not in _NOT_THIS_WAY:
                    break
        raise refusal or UnauthenticatedError("token endpoint", "was not asked")


@dataclass(frozen=True, slots=True, repr=False)
class _Question:
    """A request for a token."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None = None


def _questions(realm: str, service: str, access: Access) -> Iterator[_Question]:
    """Yield the ways to ask (distribution, Token and OAuth2); one is for endpoints that did not take the one before.

    A service account's token is the password at most token servers, and the subject of an exchange (RFC 8693) at
    those that are OAuth2 servers.
    """
    named = [("service", service)] if service else []
    query = urlencode([*named, *(("scope", scope) for scope in access.scopes)], quote_via=quote)
    url = f"{realm}{'&' if '?' in realm else '?'}{query}"
    fields, credential = {**dict(named), "scope": " ".join(access.scopes)}, access.credential
    if credential is None:
        yield _Question("GET", url, {})
    elif credential.kind is CredentialKind.IDENTITY_TOKEN:
        yield _form(realm, {"grant_type": "refresh_token", "refresh_token": credential.password.reveal(), **fields})
    else:
        yield _Question("GET", url, {"Authorization": credential.basic().reveal()})
        if credential.kind is CredentialKind.SERVICE_ACCOUNT:
            yield _form(realm, {**_EXCHANGE, "subject_token": credential.password.reveal(), **fields})


def _form(realm: str, fields: Mapping[str, str]) -> _Question:
    body = urlencode({"client_id": _CLIENT, **fields}, quote_via=quote).encode()
    return _Question("POST", realm, {"Content-Type": _FORM, "Content-Length": str(len(body))}, body)


def _refuse_identity_token(credential: Credential, registry: str) -> None:
    if credential.kind is CredentialKind.IDENTITY_TOKEN:
        cause = f"wants a password, and {credential.source} holds an identity token"
        raise UnauthenticatedError(f"registry {registry}", cause, "give it a user name and a password")


def _refused(access: Access, response: Response) -> Exception:
    subject, status = f"token endpoint of {access.repository.registry}", response.status
    if may_pass(status):
        return unavailable(subject, f"answered with status {status}", response.header("Retry-After"))
    if access.credential:
        return UnauthenticatedError(
            subject, f"refused the credential from {access.credential.source} (status {status})", "correct it"
        )
    return UnauthenticatedError(subject, f"gives no anonymous token (status {status})", "name a secret for the volume")


def _read_token(body: bytes, subject: str) -> tuple[Secret, float]:
    try:
        document = json.parse_object(body, subject, is_secret=True)
        token = json.text(document, "token", subject, "") or json.text(document, "access_token", subject, "")
    except UnacceptableError:  # whose words may quote the answer, and with it a token
        token = ""
    if not _TOKEN.fullmatch(token):
        raise BadResponseError(subject, "sent no usable token", "check that it is a registry")
    life = document.get("expires_in")
    seconds = min(life, 2 * _LONGEST_LIFE) if isinstance(life, int) and not isinstance(life, bool) else 60.0
    # half of the life left is the margin for clocks and for requests under way
    return Secret(f"Bearer {token}"), max(seconds / 2, _SHORTEST_LIFE)
