"""Credentials: what is shown to a registry, and how docker's file format and a volume's secret hold it."""

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from csi_oras.errors import UnauthenticatedError
from csi_oras.oci.reference import Repository
from csi_oras.registry import coverage
from csi_oras.telemetry.secrets import Secret

DOCKER_CONFIG_KEY = ".dockerconfigjson"
VOLUME_SECRET = "the volume's secret"  # noqa: S105 (the name of a source, for people)
LARGEST_CONFIG = 1 << 20
_IDENTITY_USER = "<token>"
"""By this user name docker's credential stores say that the password is an identity token."""


class CredentialKind(StrEnum):
    """How a credential is shown to a registry."""

    PASSWORD = "password"  # noqa: S105 (a kind)
    IDENTITY_TOKEN = "identity token"  # noqa: S105
    """What a token endpoint gave at a login: its OAuth2 refresh token."""
    SERVICE_ACCOUNT = "service-account token"
    """What the cluster gave a pod; a token endpoint exchanges it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A user name and a password or token, and in `source` where they came from, for people."""

    username: str
    password: Secret
    source: str
    kind: CredentialKind = CredentialKind.PASSWORD

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

    @property
    def remedy(self) -> str:
        """What a person does when it is refused."""
        return "correct the secret" if self.source == VOLUME_SECRET else "correct it where it comes from"

    def opens_as(self, other: "Credential") -> bool:
        """Say whether a registry can see no difference to `other`."""
        return (self.username, self.password, self.kind) == (other.username, other.password, other.kind)


def to_text(credential: Credential | None) -> Secret:
    """Return what a credential, or none, is kept as until it is used for a push."""
    if credential is None:
        return Secret("{}")
    document = {
        "username": credential.username,
        "password": credential.password.reveal(),
        "source": credential.source,
        "kind": str(credential.kind),
    }
    return Secret(json.dumps(document))


def from_text(text: Secret) -> Credential | None:
    """Return the credential that was kept, or None where none was, or nothing of it is left.

    Raises:
        UnauthenticatedError: it cannot be read.
    """
    if not text:
        return None
    try:
        kept = json.loads(text.reveal())
        if not kept:
            return None
        kind = CredentialKind(kept["kind"])
        return Credential(
            username=kept["username"], password=Secret(kept["password"]), source=kept["source"], kind=kind
        )
    except (ValueError, LookupError, TypeError):
        raise UnauthenticatedError("kept credential", "cannot be read", "export the files and push them") from None


def from_secret(secret: Mapping[str, Secret], repository: Repository) -> Credential | None:
    """Return the credential that a volume's secret holds for `repository`, or None where it holds none.

    Raises:
        UnauthenticatedError: the secret has neither of the two shapes that are understood.
    """
    if DOCKER_CONFIG_KEY in secret:
        config = DockerConfig.parse(secret[DOCKER_CONFIG_KEY])
        if config is None:
            raise UnauthenticatedError(
                VOLUME_SECRET,
                f'{DOCKER_CONFIG_KEY} is not a docker config with "auths"',
                "see: kubectl create secret docker-registry",
            )
        return config.find(repository, VOLUME_SECRET)
    if "username" in secret and "password" in secret:
        return Credential(username=secret["username"].reveal(), password=secret["password"], source=VOLUME_SECRET)
    if secret:
        raise UnauthenticatedError(
            VOLUME_SECRET, "holds no credential", f"give it {DOCKER_CONFIG_KEY}, or username and password"
        )
    return None


@dataclass(frozen=True, slots=True, repr=False)
class DockerConfig:
    """A docker config.json; credential helpers that it names are never run."""

    _document: Mapping[str, Any]

    @classmethod
    def parse(cls, config: Secret) -> "DockerConfig | None":
        """Read a file's text; None is what is no docker config."""
        text = config.reveal()
        try:
            document = json.loads(text) if len(text) <= LARGEST_CONFIG else None
        except (ValueError, RecursionError):
            return None
        if not isinstance(document, dict) or not isinstance(document.get("auths"), dict):
            return None
        return cls(document)

    def find(self, repository: Repository, source: str) -> Credential | None:
        """Return the credential under the key that says most of `repository`, if there is one.

        Raises:
            UnauthenticatedError: the entry cannot be read.
        """
        entry = coverage.closest(self._entries(), repository)
        return _credential(entry, source) if entry is not None else None

    @property
    def helpers(self) -> tuple[str, ...]:
        """The keys by which it asks for helpers."""
        return tuple(key for key in ("credsStore", "credHelpers") if self._document.get(key))

    @property
    def unreadable(self) -> tuple[str, ...]:
        """The keys whose entries are no credential, whatever they were meant to be."""
        return tuple(key for key, entry in self._document["auths"].items() if not _is_readable(entry))

    def _entries(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for key, entry in self._document["auths"].items():
            if isinstance(entry, dict):
                yield key, entry


def password(username: str, secret: str, source: str) -> Credential | None:
    """Return a pair as a credential, or None where it is none.

    Raises:
        UnauthenticatedError: what no server can be sent.
    """
    if not (_is_text(username) and _is_text(secret)):
        raise UnauthenticatedError(source, "has a user name or password that is no text", "correct it")
    if username == _IDENTITY_USER and secret:
        return _identity(secret, source)
    return Credential(username=username, password=Secret(secret), source=source) if username else None


def _credential(entry: dict[str, Any], source: str) -> Credential | None:
    username, secret, encoded, identity = (entry.get(key) for key in ("username", "password", "auth", "identitytoken"))
    if isinstance(identity, str) and identity:  # beside it, "auth" holds a user name and nothing that opens
        if not _is_text(identity):
            raise UnauthenticatedError(source, "has an identity token that is no text", "correct it")
        return _identity(identity, source)
    if isinstance(encoded, str) and encoded:
        try:
            username, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
        except ValueError:  # neither base64 nor UTF-8
            raise UnauthenticatedError(source, 'has an "auth" that is not base64 of user:password') from None
    return password(username, secret, source) if isinstance(username, str) and isinstance(secret, str) else None


def _is_readable(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("auth") or "", str):
        return False
    try:
        _credential(entry, "")
    except UnauthenticatedError:
        return False
    return True


def _identity(token: str, source: str) -> Credential:
    return Credential(
        username=_IDENTITY_USER, password=Secret(token), source=source, kind=CredentialKind.IDENTITY_TOKEN
    )


def _is_text(value: str) -> bool:
    """Half a surrogate pair, which JSON can spell, is none."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
