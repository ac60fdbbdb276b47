"""Origins: where a URL leads, and what of it stands in a request line; the border that no credential crosses."""

import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import SplitResult, urlsplit

from csi_oras.errors import BadResponseError

DEFAULT_PORTS = {"http": 80, "https": 443}
"""Where each scheme listens."""
_EXTERNAL_URL = "correct what it takes for its own URL, or what a proxy makes of that"
_TARGET = re.compile(r"[!-~]+")
_HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+")  # what else there is, resolvers fold into names that nobody checked


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str, subject: str = "registry") -> Self:
        """Return the origin of an absolute URL, which `subject` names.

        Raises:
            BadResponseError: no http or https URL with a host, or one with user information.
        """
        parts = _split(url, subject)
        host = parts.hostname
        if parts.scheme not in DEFAULT_PORTS or not host or not _HOST.fullmatch(host) or "@" in parts.netloc:
            raise BadResponseError(subject, "names a URL that is not plain http or https", _EXTERNAL_URL)
        try:
            port = parts.port
        except ValueError:
            raise BadResponseError(subject, "names a URL with a bad port", _EXTERNAL_URL) from None
        return cls(parts.scheme, host, port or DEFAULT_PORTS[parts.scheme])

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def _split(url: str, subject: str = "registry") -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        raise BadResponseError(subject, "names a URL that is none", _EXTERNAL_URL) from None


def target_of(url: str) -> str:
    """Return path and query of `url`, as a request line has them.

    Raises:
        BadResponseError: characters that have no place there.
    """
    parts = _split(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not _TARGET.fullmatch(target):
        raise BadResponseError("registry", "names a URL with characters that have no place in one")
    return target
