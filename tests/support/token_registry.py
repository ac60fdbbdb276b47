"""A distribution registry that wants tokens, and the token server of its administrator (distribution, Token).

The server knows users by their passwords, service accounts and identity tokens; each may read what it is told.
"""

import base64
import datetime as dt
import json
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from csi_oras.demo.distribution import Distribution
from tests.support.artifacts import Pusher
from tests.support.certificates import server_context
from tests.support.fake_registry import basic
from tests.support.fake_server import Answer, FakeServer, Request
from tests.support.planted import MARK, planted

_ISSUER, _SERVICE = "tests", "registry"


class TokenServer(FakeServer):
    """Gives tokens: `readers` maps who asks (an Authorization header, or a token in a form) to repositories."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        super().__init__(context)
        self.readers: dict[str, tuple[str, ...]] = {}
        self.seconds = 300
        self.is_generous = False
        """Whether who may read may do anything, asked for or not, as at GitHub."""
        self.may_push = True
        """Whether who may read a repository may push to it, too."""
        self._key = rsa.generate_private_key(65537, 2048)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _ISSUER)])
        now = dt.datetime.now(dt.UTC)
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(1)
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .sign(self._key, hashes.SHA256())
        )

    @property
    def certificate(self) -> bytes:
        return self._certificate.public_bytes(Encoding.PEM)

    def let_read(self, user: str, password: str, *repositories: str) -> None:
        """Know a user, or a service account by its token."""
        self.readers[basic(user, password)] = repositories

    def let_exchange(self, token: str, *repositories: str) -> None:
        """Know an identity token, or a token that is exchanged in a form only."""
        self.readers[planted(token)] = repositories

    def asked_by(self) -> list[str]:
        """Who asked for a token, in order."""
        return [_who(request) for request in self.seen("/token")]

    def token(self, name: str, *actions: str) -> str:
        """A token for a repository."""
        header = {"typ": "JWT", "alg": "RS256", "x5c": [_base64(self._certificate.public_bytes(Encoding.DER))]}
        now = int(time.time())
        claims = {
            "iss": _ISSUER,
            "sub": "",
            "aud": _SERVICE,
            "jti": MARK,
            "exp": now + self.seconds,
            "nbf": now - 10,
            "iat": now,
            "access": [{"type": "repository", "name": name, "actions": list(actions)}],
        }
        signed = f"{_url_base64(json.dumps(header).encode())}.{_url_base64(json.dumps(claims).encode())}"
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_url_base64(signature)}"

    def answer(self, request: Request) -> Answer:
        repositories = self.readers.get(_who(request))
        if repositories is None:
            return Answer(status=401, body=b"{}")
        _, name, actions = (_field(request, "scope") or "repository::").split(":")
        asked = ["pull", "push"] if self.is_generous else actions.split(",")
        allowed = [action for action in asked if name in repositories and (self.may_push or action != "push")]
        body = {"token": self.token(name, *allowed), "expires_in": self.seconds}
        return Answer(body=json.dumps(body).encode())


def _who(request: Request) -> str:
    if request.method == "GET":
        return request.authorization
    return _field(request, "refresh_token") or _field(request, "subject_token")


def _field(request: Request, name: str) -> str:
    values: Any = request.query if request.method == "GET" else parse_qs(request.body.decode())
    value = values.get(name, "")
    return value if isinstance(value, str) else str(value[0])


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _url_base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


class TokenRegistry:
    """The registry and its token server."""

    def __init__(self, registry: Distribution, tokens: TokenServer) -> None:
        self.registry = registry
        self.tokens = tokens
        self.address = registry.address

    def pusher(self, repository: str) -> Pusher:
        """What may push to a repository."""
        token = self.tokens.token(repository, "pull", "push")
        return Pusher(self.address, headers={"Authorization": f"Bearer {token}"})


@contextmanager
def token_registry(directory: Path, pair: tuple[Path, Path] | None = None) -> Iterator[TokenRegistry]:
    """Run both, behind TLS where they get a certificate with its key."""
    directory.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch, TokenServer(server_context(pair) if pair else None) as tokens:
        if pair:
            patch.setenv("REGISTRY_HTTP_TLS_CERTIFICATE", str(pair[0]))
            patch.setenv("REGISTRY_HTTP_TLS_KEY", str(pair[1]))
        bundle = directory / "tokens.pem"
        bundle.write_bytes(tokens.certificate)
        # some clients go to no realm at an address
        url = tokens.url("/token").replace("127.0.0.1", "localhost" if pair else "127.0.0.1")
        realm = f"realm: {url}, service: {_SERVICE}, issuer: {_ISSUER}, rootcertbundle: {bundle}"
        with Distribution(directory, f"auth: {{token: {{{realm}}}}}\n") as running:
            yield TokenRegistry(running, tokens)
