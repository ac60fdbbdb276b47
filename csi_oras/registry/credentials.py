"""Credentials: what a volume's secret gives for a repository."""

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from csi_oras.errors import UnauthenticatedError
from csi_oras.oci.reference import Repository, canonical_host
from csi_oras.telemetry.secrets import Secret

DOCKER_CONFIG_KEY = ".dockerconfigjson"
_LARGEST_CONFIG = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A user name and a password, and in `source` where they came from, for people."""

    username: str
    password: Secret
    source: str

    def basic(self) -> Secret:
        """Return the value of a Basic Authorization header (RFC 7617)."""
        pair = f"{self.username}:{self.password.reveal()}"
        return Secret(f"Basic {base64.b64encode(pair.encode()).decode()}")

    def spellings(self) -> tuple[str, str]:
        """Return the texts by which somebody could give the password away."""
        return self.password.reveal(), self.basic().reveal().partition(" ")[2]

    def keyed_hash(self, key: bytes) -> str:
        """Return what stands for this credential in records that anybody may read."""
        pair = f"{self.username}\0{self.password.reveal()}".encode()
        return hmac.new(key, pair, hashlib.sha256).hexdigest()


def from_secret(secret: Mapping[str, Secret], repository: Repository) -> Credential | None:
    """Return the credential that a volume's secret holds for `repository`, or None where it holds none.

    Raises:
        UnauthenticatedError: the secret has neither of the two shapes that are understood.
    """
    source = "the volume's secret"
    if DOCKER_CONFIG_KEY in secret:
        return _from_docker_config(secret[DOCKER_CONFIG_KEY], repository, source)
    if "username" in secret and "password" in secret:
        return Credential(username=secret["username"].reveal(), password=secret["password"], source=source)
    if secret:
        raise UnauthenticatedError(
            source, "holds no credential", f"give it {DOCKER_CONFIG_KEY}, or username and password"
        )
    return None


def _from_docker_config(config: Secret, repository: Repository, source: str) -> Credential | None:
    """Take the longest key that covers the repository; helpers that a tenant's file names are never run."""
    covering = [(key, entry) for key, entry in _entries(config, source) if _covers(key, str(repository))]
    if not covering:
        return None
    _, entry = max(covering, key=lambda found: len(found[0]))
    return _credential(entry, source)


def _entries(config: Secret, source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    text = config.reveal()
    try:
        document = json.loads(text) if len(text) <= _LARGEST_CONFIG else None
    except (ValueError, RecursionError):
        document = None
    auths = document.get("auths") if isinstance(document, dict) else None
    if not isinstance(auths, dict):
        raise UnauthenticatedError(
            source,
            f'{DOCKER_CONFIG_KEY} is not a docker config with "auths"',
            "see: kubectl create secret docker-registry",
        )
    for key, entry in auths.items():
        if isinstance(entry, dict):
            yield _canonical_key(key), entry


def _canonical_key(key: str) -> str:
    """Docker writes keys as host, host/path, or as a URL of the v1 API."""
    rest = key.partition("://")[2] or key
    host, _, path = rest.partition("/")
    path = path.strip("/")
    return "/".join(filter(None, (canonical_host(host) or host, "" if path in ("v1", "v2") else path)))


def _covers(key: str, wanted: str) -> bool:
    return wanted == key or wanted.startswith(f"{key}/")


def _credential(entry: dict[str, Any], source: str) -> Credential | None:
    username, password, encoded = (entry.get(key) for key in ("username", "password", "auth"))
    if isinstance(encoded, str) and encoded:
        try:
            username, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except ValueError:  # neither base64 nor UTF-8
            raise UnauthenticatedError(source, 'has an "auth" that is not base64 of user:password') from None
    if isinstance(username, str) and isinstance(password, str) and username:
        if not (_is_text(username) and _is_text(password)):
            raise UnauthenticatedError(source, "has a user name or password that is no text", "correct it")
        return Credential(username=username, password=Secret(password), source=source)
    return None


def _is_text(value: str) -> bool:
    """Half a surrogate pair, which JSON can spell, is none."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
