"""Channels: how a connection to a host is made, that is whom it trusts, what it shows and how long it tries.

Only an administrator's hosts.toml makes one; everything else goes over the transport's own, which trusts what the
system trusts.
"""

import ssl
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from csi_oras.errors import RegistryUnavailableError


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
        try:
            context.load_verify_locations(cafile=file)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise _unusable(file, "CA certificate", error) from None
    for certificate, key in trust.clients:
        try:
            context.load_cert_chain(certificate, key, password=lambda: "")  # without it, OpenSSL asks the terminal
        except (OSError, ValueError) as error:
            raise _unusable(key or certificate, "client certificate with its key", error) from None
    if trust.skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _unusable(file: Path, what: str, error: Exception) -> RegistryUnavailableError:
    reason = error.reason if isinstance(error, ssl.SSLError) else getattr(error, "strerror", None)
    cause = f"is not usable as {what} ({reason or type(error).__name__})"
    return RegistryUnavailableError(f"file {file}", cause, "correct it, or the hosts.toml that names it")
