"""A repository at one host, with the one credential that the host may see.

Requests carry the credential, and the headers that an administrator has named, to the host's own origin only; a
redirect elsewhere is followed without.
"""

from collections.abc import Mapping
from urllib.parse import urljoin

from csi_oras.errors import BadResponseError
from csi_oras.oci.reference import Repository
from csi_oras.registry import hosts
from csi_oras.registry.credentials import Credential
from csi_oras.registry.failures import failure
from csi_oras.registry.host import RegistryHost
from csi_oras.registry.origin import Origin
from csi_oras.registry.sources import Body
from csi_oras.registry.tokens import Access, Tokens
from csi_oras.registry.transport import Response, Transport
from csi_oras.telemetry.secrets import Secret

_UNAUTHORIZED = 401
_READS = frozenset({"GET", "HEAD"})
"""What registries may let everybody do who wants a credential for the rest."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 5


class Session:
    """Sends requests for one repository to one host."""

    def __init__(
        self,
        transport: Transport,
        tokens: Tokens,
        repository: Repository,
        host: RegistryHost,
        credential: Credential | None,
    ) -> None:
        self._transport = transport
        self._tokens = tokens
        self._repository = repository
        self._credential = credential
        self._shown: set[Secret] = set()
        self._open: set[Access] = set()
        """What was let in without a credential."""
        self.host = host

    def url(self, path: str) -> str:
        """Return the URL of a path below the repository."""
        return self.host.at(f"/{self._repository.name}{path}")

    def get(self, method: str, path: str, subject: str, headers: Mapping[str, str], actions: str = "pull") -> Response:
        """Send a request without a body, and follow where the host sends us as far as that is safe.

        Raises:
            RegistryUnavailableError: there is no answer.
            BadResponseError: we are sent where we do not go.
            UnauthenticatedError: a token endpoint refuses the credential.
        """
        url = self.url(path)
        response = self.send(method, url, headers, actions)
        for _ in range(_MOST_REDIRECTS):
            if response.status not in _REDIRECTS:
                break
            location = response.header("Location")
            response.close()  # unread: what a redirect's body holds is of no use, and may be a bomb
            if not location:
                raise BadResponseError(subject, f"{self.host.name} redirects to nowhere")
            url = joined(url, location)
            hosts.check_destination(Origin.of(url, subject), self.host.origin, "blob")
            response = self.send(method, url, headers, actions)
        return response

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        actions: str,
        body: bytes | Body | None = None,
        *,
        beside: Repository | None = None,
        patience: float = 0.0,
    ) -> Response:
        """Send one request, with the credential if it is for the host itself.

        `beside` is another repository of the registry that the request reads from; `patience` is the transport's.

        Raises:
            RegistryUnavailableError, BadResponseError, UnauthenticatedError: as for `get`.
        """
        channel = self.host.channel
        if Origin.of(url) != self.host.origin:
            return self._transport.request(method, url, headers, channel=channel.elsewhere if channel else None)
        access = self._access(actions, beside)
        authorization = self._tokens.header(access)
        if authorization is None and body is not None and access not in self._open:
            # a body is sent once: ask for the token first
            authorization = self._ask(access)
        response = self._request(method, url, headers, authorization, body, patience=patience)
        if response.status != _UNAUTHORIZED:
            if authorization is None and method not in _READS:
                self._open.add(access)
            return response
        self._open.discard(access)
        if authorization:
            self._tokens.forget(access, authorization)
        if isinstance(body, Body):  # sent, and cannot be sent again from here
            return response
        answer = self._answer(access, response)
        if answer is None:
            return response
        return self._request(method, url, headers, answer, body, patience=patience)

    def expect(self, response: Response, subject: str, *statuses: int) -> None:
        """Let a response with one of these statuses pass.

        Raises:
            CsiOrasError: what any other status stands for.
        """
        if response.status in statuses:
            return
        speaker = self.host.name
        if response.origin != self.host.origin:
            speaker = f"{response.origin}, where {speaker} sends us,"
        hidden = (*self.host.headers.values(), *self._shown)
        raise failure(response, subject, self._credential, speaker=speaker, hidden=hidden)

    def _access(self, actions: str, beside: Repository | None) -> Access:
        name = self.host.scope_name(self._repository.name)
        other = self.host.scope_name(beside.name) if beside else ""
        return Access(self.host.origin, self._repository, actions, self._credential, name, other)

    def _request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        authorization: Secret | None,
        body: bytes | Body | None = None,
        *,
        patience: float = 0.0,
    ) -> Response:
        ours = dict(headers)
        if authorization:
            self._shown.add(authorization)
            ours["Authorization"] = authorization.reveal()
        names = {name.lower() for name in ours}
        theirs = {name: value.reveal() for name, value in self.host.headers.items() if name.lower() not in names}
        every = {**theirs, **ours}
        return self._transport.request(method, url, every, body, channel=self.host.channel, patience=patience)

    def _answer(self, access: Access, response: Response) -> Secret | None:
        """Return the header that answers a 401, which is closed unless it is the last word."""
        try:
            answer = self._tokens.answer(access, response.header("WWW-Authenticate"), self.host.channel)
        except BaseException:
            response.close()
            raise
        if answer:
            response.close()
        return answer

    def _ask(self, access: Access) -> Secret | None:
        with self._request("GET", self.host.at("/"), {}, None) as response:
            if response.status != _UNAUTHORIZED:
                return None
            return self._tokens.answer(access, response.header("WWW-Authenticate"), self.host.channel)


def joined(base: str, location: str) -> str:
    """Return the URL that a Location names.

    Raises:
        BadResponseError: it is none.
    """
    try:
        return urljoin(base, location)
    except ValueError:
        raise BadResponseError("registry", "sends us on to a URL that is none", "check that it is a registry") from None
