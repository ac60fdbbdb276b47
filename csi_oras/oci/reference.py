"""References: `registry/repository[:tag][@digest]` as the distribution grammar has them.

A `Reference` is safe in a URL: nothing that is not in the grammar gets into one.
"""

import ipaddress
import re
from dataclasses import dataclass, replace
from typing import Self

from csi_oras.errors import InvalidRequestError, UnacceptableError, printable
from csi_oras.oci.digest import Digest

DOCKER_HUB = "docker.io"

_LONGEST = 512 + 128 + 2 + 71
_LONGEST_REPOSITORY = 255
_HOST_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_HOST = re.compile(rf"({_HOST_LABEL}(?:\.{_HOST_LABEL})*|\[[0-9a-fA-F:]+\])(?::([0-9]{{1,5}}))?")
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_DIGEST_LIKE = re.compile(r"[^/:@]*:(?![0-9]{1,5}\Z)[^/:@]*")
"""Algorithm and value, and no host with its port or path."""
_HTTPS_PORT, _HIGHEST_PORT = 443, 65535
_HUB_HOSTS = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})


def canonical_host(host: str) -> str | None:
    """Return the one spelling of a registry's host (with port, if any), or None where `host` is none.

    Policy, grants and credentials go by this spelling: with a second one, a rule could be walked around.
    """
    match = _HOST.fullmatch(host)
    name, port = (match[1].lower(), int(match[2] or _HTTPS_PORT)) if match else ("", 0)
    if not 0 < port <= _HIGHEST_PORT:
        return None
    if name.startswith("["):
        address = _ipv6(name[1:-1])
        if address is None:
            return None
        name = f"[{address}]"
    if name in _HUB_HOSTS and port == _HTTPS_PORT:
        return DOCKER_HUB
    reads_as_host = name == "localhost" or "." in name or name.startswith("[")  # without its port, too
    return name if port == _HTTPS_PORT and reads_as_host else f"{name}:{port}"


def _ipv6(text: str) -> ipaddress.IPv6Address | None:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        return None
    return None if address.ipv4_mapped else address  # that is another spelling of an IPv4 address


def is_tag(text: str) -> bool:
    """Say whether `text` is a tag by the grammar of the distribution specification."""
    return bool(_TAG.fullmatch(text))


def without_user(text: str) -> str:
    """Return what was given as a reference for people to read: what may be a user and his password is left out."""
    _, at, last = text.rpartition("@")
    return f"***@{last}" if at and not _DIGEST_LIKE.fullmatch(last) else text


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """Where artifacts live: a registry's host (with port, if any) and a repository of it."""

    registry: str
    name: str

    def __str__(self) -> str:
        return f"{self.registry}/{self.name}"

    def at(self, identifier: str) -> str:
        """Return what messages call something of it, by tag or digest."""
        return f"{self}{'@' if ':' in identifier else ':'}{identifier}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """One artifact of a repository, by tag, by digest, or by both (then the digest decides)."""

    repository: Repository
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a reference; short names are Docker Hub's, and no tag and no digest mean `latest`.

        Raises:
            InvalidRequestError: not a reference by the grammar of distribution/reference.
        """
        if (shown := without_user(text)) != text:
            cause = "what stands behind the @ is not a digest"
            raise _invalid(shown, cause, "write @sha256:...; user and password belong in a secret")
        if len(text) > _LONGEST:
            raise _invalid(text, f"is longer than {_LONGEST} characters")
        if "://" in text:
            raise _invalid(text, "has a scheme", "leave out everything up to ://")
        rest, at, digest_text = text.partition("@")
        digest = _parse_digest(text, digest_text) if at else None
        name, tag = _split_tag(text, rest)
        repository = _parse_repository(text, name)
        if tag is None and digest is None:
            tag = "latest"
        return cls(repository=repository, tag=tag, digest=digest)

    def pinned(self, digest: Digest) -> Self:
        """Return this reference with `digest`; the tag stays for people to read."""
        return replace(self, digest=digest)

    @property
    def identifier(self) -> str:
        """What a manifest URL ends with: the digest if there is one, else the tag."""
        return str(self.digest or self.tag)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.repository}{tag}{digest}"


def _parse_digest(text: str, digest_text: str) -> Digest:
    try:
        return Digest.parse(digest_text)
    except UnacceptableError as error:
        raise _invalid(text, f"{error.subject} {error.cause}") from None


def _split_tag(text: str, rest: str) -> tuple[str, str | None]:
    name, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:  # no colon at all, or the one of host:port
        return rest, None
    if "/" not in name and tag.isdigit() and "." in name:
        raise _invalid(text, "names a host and a port but no repository")
    if not is_tag(tag):
        raise _invalid(text, f'"{printable(tag, 40)}" is not a tag')
    return name, tag


def _parse_repository(text: str, name: str) -> Repository:
    first, slash, rest = name.partition("/")
    is_host = bool(slash) and (bool(set(".:[") & set(first)) or first == "localhost" or first.lower() != first)
    host, repository = (canonical_host(first), rest) if is_host else (DOCKER_HUB, name)
    if host is None:
        raise _invalid(text, f'"{printable(first, 80)}" is not a host')
    if host == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    if len(repository) > _LONGEST_REPOSITORY:
        raise _invalid(text, f"the repository is longer than {_LONGEST_REPOSITORY} characters")
    if not _REPOSITORY.fullmatch(repository):
        raise _invalid(
            text,
            f'"{printable(repository, 80)}" is not a repository name',
            "use lower-case letters, digits and . _ - /",
        )
    return Repository(registry=host, name=repository)


def _invalid(
    text: str, cause: str, remedy: str = "write it as registry/repository:tag or @digest"
) -> InvalidRequestError:
    return InvalidRequestError(f'reference "{printable(text, 120)}"', cause, remedy)
