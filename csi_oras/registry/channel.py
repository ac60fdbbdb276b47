"""Channels: how a connection to a host is made, that is whom it trusts, what it shows and how long it tries.

Only an administrator's hosts.toml makes one; everything else goes over the transport's own, which trusts what the
system trusts.
"""

import ssl
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from csi_oras.errors import RegistryUnavailableError
from csi_oras.registry import named_files

_LARGEST_FILE = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustSettings:
    """Files with CAs beside the system's, client certificates with their keys, and whether anything is checked."""

    authorities: tuple[Path, ...] = ()
    clients: tuple[tuple[Path, Path | None], ...] = ()
    skip_verify: bool | None = None

    @property
    def are_given(self) -> bool:
        """Whether anything differs from what holds everywhere."""
        return self != TrustSettings()

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that is named."""
        return (*self.authorities, *(file for pair in self.clients for file in pair if file))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Channel:
    """One way to connect; it is the key of the connections that were made with it, so it equals only itself."""

    context: ssl.SSLContext | None = None
    dial_seconds: float | None = None
    tries_tls: bool = False
    """Whether a host that is reached by plain HTTP is tried with TLS before."""
    elsewhere: "Channel | None" = None
    """How to connect to where the host redirects: without our client certificate."""

    @classmethod
    def make(cls, trust: TrustSettings, *, dial_seconds: float | None = None, tries_tls: bool = False) -> Self:
        """Load what `trust` names.

        Raises:
            RegistryUnavailableError: a file cannot be read, or holds no certificate or key.
        """
        context = load(trust) if trust.are_given else None
        plain = replace(trust, clients=())
        elsewhere = Channel(context=load(plain) if trust.clients else context, dial_seconds=dial_seconds)
        return cls(context=context, dial_seconds=dial_seconds, tries_tls=tries_tls, elsewhere=elsewhere)


def load(trust: TrustSettings) -> ssl.SSLContext:
    """Return a context that trusts and shows what `trust` says.

    Raises:
        RegistryUnavailableError: a file cannot be read, or holds no certificate or key.
    """
    context = ssl.create_default_context()
    for file in trust.authorities:
        with _opened((file,), "CA certificate") as places:
            context.load_verify_locations(*places)
    for pair in trust.clients:
        with _opened(pair, "client certificate with its key") as places:
            context.load_cert_chain(places[0], places[-1], password=lambda: "")  # without it, OpenSSL asks the terminal
    if trust.skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@contextmanager
def _opened(files: Iterable[Path | None], what: str) -> Iterator[list[str]]:
    """Yield where OpenSSL, which opens files itself, finds the very files that were looked at."""
    places: list[str] = []
    with ExitStack() as stack:
        try:
            for file in filter(None, files):
                descriptor = stack.enter_context(named_files.opened(file, _LARGEST_FILE))
                places.append(f"/proc/self/fd/{descriptor}")
            yield places
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise _unusable(file, what, error) from None


def _unusable(file: Path, what: str, error: Exception) -> RegistryUnavailableError:
    reason = error.reason if isinstance(error, ssl.SSLError) else getattr(error, "strerror", None)
    cause = f"is not usable as {what} ({reason or type(error).__name__})"
    return RegistryUnavailableError(f"file {file}", cause, "correct it, or the hosts.toml that names it")
