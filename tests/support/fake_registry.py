"""The one programmable registry: honest by itself, and as hostile or broken as `bend` makes it.

Repositories hold blobs and manifests as a real one's do, uploads work, ranges and authentication can be switched.
A second `FakeServer` plays the other origin that must never see a credential.
"""

import base64
import json
import re
import ssl
from collections.abc import Sequence
from itertools import count
from typing import Any

from tests.support.artifacts import EMPTY_TYPE, OCI_MANIFEST, Layer, manifest, sha256
from tests.support.fake_server import Answer, FakeServer, Request
from tests.support.fake_uploads import FakeUploads
from tests.support.planted import planted

_ROUTE = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs)/(?P<rest>.+|uploads/)")
_TAGS = re.compile(r"/v2/(?P<name>.+)/tags/list")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


def basic(user: str, password: str) -> str:
    """The Authorization header of a user, with his password planted."""
    return "Basic " + base64.b64encode(f"{user}:{planted(password)}".encode()).decode()


def bearer(number: int) -> str:
    """The Authorization header with the token that a registry gave as its first, second, ..."""
    return f"Bearer {planted(f'token-{number}')}"


class FakeRegistry(FakeServer):
    """A registry whose content is in its public dictionaries."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        super().__init__(context)
        self.blobs: dict[str, dict[str, bytes]] = {}
        self.manifests: dict[str, dict[str, tuple[bytes, str]]] = {}
        self.serves_ranges = True
        self.mounts = True
        self.uploads = FakeUploads()
        self._users: dict[str, str] = {}
        self._challenge = ""
        self._anonymous = False
        self.token_seconds: Any = 300
        self._tokens: dict[str, set[str]] = {}
        self._numbers = count(1)

    # -- content

    def blob(self, repository: str, content: bytes) -> str:
        """Put a blob there and return its digest."""
        self.blobs.setdefault(repository, {})[sha256(content)] = content
        return sha256(content)

    def manifest(self, repository: str, tag: str, content: bytes, media_type: str = OCI_MANIFEST) -> str:
        """Put a manifest there under its tag and its digest, and return the digest."""
        held = self.manifests.setdefault(repository, {})
        held[tag] = held[sha256(content)] = (content, media_type)
        return sha256(content)

    def artifact(self, repository: str, layers: Sequence[Layer], tag: str = "v1", **options: Any) -> str:
        """Put an artifact of `layers` there and return its reference."""
        config = options.get("config") or Layer(content=b"{}", media_type=EMPTY_TYPE)
        for layer in (config, *layers):
            self.blob(repository, layer.content)
        self.manifest(repository, tag, manifest(layers, **options), options.get("media_type", OCI_MANIFEST))
        return f"{self.address}/{repository}:{tag}"

    # -- who may read it

    def require_basic(self, user: str, password: str) -> None:
        """Let only this user in, with his password in every request."""
        self._users[user] = password
        self._challenge = 'Basic realm="fake"'

    def require_tokens(self, *, realm: str = "", anonymous: bool = False, **users: str) -> None:
        """Let in who brings a token of /token: for users by their passwords, or for anybody."""
        self._users.update(users)
        self._anonymous = anonymous
        self._challenge = f'Bearer realm="{realm or self.url("/token")}",service="fake",scope="registry:catalog:*"'

    def expire_tokens(self) -> None:
        """Refuse every token given so far."""
        self._tokens.clear()

    # -- answers

    def answer(self, request: Request) -> Answer:
        if request.path == "/token":
            return self._token(request)
        if self._challenge and not self._admits(request):
            return _error(401, "UNAUTHORIZED").having(WWW_Authenticate=self._challenge)
        return self._serve(request)

    def _serve(self, request: Request) -> Answer:
        if request.path == "/v2/":
            return Answer(body=b"{}")
        if tags := _TAGS.fullmatch(request.path):
            return self._tags(tags["name"])
        match = _ROUTE.fullmatch(request.path)
        if match is None:
            return _error(404, "NOT_FOUND")
        if match["kind"] == "manifests":
            return self._manifest(request, match["name"], match["rest"])
        if match["rest"].startswith("uploads/"):
            return self._upload(request, match["name"], match["rest"])
        return self._blob(request, match["name"], match["rest"])

    def _token(self, request: Request) -> Answer:
        valid = request.authorization in {basic(*pair) for pair in self._users.items()}
        if not valid and (request.authorization or not self._anonymous):
            return _error(401, "UNAUTHORIZED")
        token = planted(f"token-{next(self._numbers)}")
        self._tokens[token] = set(request.query.get("scope", "").split(" "))
        return Answer(body=json.dumps({"token": token, "expires_in": self.token_seconds}).encode())

    def _admits(self, request: Request) -> bool:
        if self._challenge.startswith("Basic"):
            return request.authorization in {basic(*pair) for pair in self._users.items()}
        scopes = self._tokens.get(request.authorization.removeprefix("Bearer "), set())
        action = "pull" if request.method in ("GET", "HEAD") else "push"
        match = re.match(r"/v2/(.+)/(?:manifests|blobs|tags)/", request.path)
        return match is not None and any(
            scope.rpartition(":")[0] == f"repository:{match[1]}" and action in scope.rpartition(":")[2].split(",")
            for scope in scopes
        )

    def _tags(self, name: str) -> Answer:
        if name not in self.manifests:
            return _error(404, "NAME_UNKNOWN")
        tags = sorted(tag for tag in self.manifests[name] if ":" not in tag)
        return Answer(body=json.dumps({"name": name, "tags": tags}).encode()).having(Content_Type="application/json")

    def _manifest(self, request: Request, name: str, identifier: str) -> Answer:
        if request.method == "PUT":
            digest = self.manifest(name, identifier, request.body, request.headers["Content-Type"])
            return Answer(status=201).having(Docker_Content_Digest=digest)
        held = self.manifests.get(name, {}).get(identifier)
        if held is None:
            return _error(404, "MANIFEST_UNKNOWN")
        content, media_type = held
        return Answer(body=content).having(Content_Type=media_type, Docker_Content_Digest=sha256(content))

    def _upload(self, request: Request, name: str, rest: str) -> Answer:
        if request.method == "POST":
            mounted = self.blobs.get(request.query.get("from", ""), {}).get(request.query.get("mount", ""))
            if mounted is None or not self.mounts or not self._may_read(request, request.query["from"]):
                return self.uploads.begin(name)
            return self._taken(name, mounted)
        answer = self.uploads.answer(request, name, rest)
        return self._taken(name, answer) if isinstance(answer, bytes) else answer

    def _taken(self, name: str, content: bytes) -> Answer:
        digest = self.blob(name, content)
        return Answer(status=201).having(Location=f"/v2/{name}/blobs/{digest}", Docker_Content_Digest=digest)

    def _may_read(self, request: Request, name: str) -> bool:
        scopes = self._tokens.get(request.authorization.removeprefix("Bearer "), set())
        return not self._challenge.startswith("Bearer") or f"repository:{name}:pull" in scopes

    def _blob(self, request: Request, name: str, digest: str) -> Answer:
        content = self.blobs.get(name, {}).get(digest)
        if content is None:
            return _error(404, "BLOB_UNKNOWN")
        wanted = _RANGE.fullmatch(request.headers.get("Range", ""))
        if wanted is None or not self.serves_ranges:
            return Answer(body=content).having(Content_Type="application/octet-stream")
        start, end = int(wanted[1]), min(int(wanted[2] or len(content)) + 1, len(content))
        if start >= len(content):
            return _error(416, "RANGE_INVALID").having(Content_Range=f"bytes */{len(content)}")
        part = Answer(status=206, body=content[start:end])
        return part.having(Content_Range=f"bytes {start}-{end - 1}/{len(content)}")


def _error(code: int, word: str) -> Answer:
    """An error as the distribution specification writes it."""
    said = {"errors": [{"code": word, "message": word.replace("_", " ").lower()}]}
    return Answer(status=code, body=json.dumps(said).encode()).having(Content_Type="application/json")


class TLSRegistry(FakeRegistry):
    """The same behind TLS, with the certificates of `context`."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(context)
