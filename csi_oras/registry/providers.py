"""Credential providers: the kubelet's plugins, asked as the kubelet asks them and cached as they say.

A plugin runs once for an image however many ask, never while a lock is held, and again when what it gave was
refused by the registry.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass

from csi_oras.errors import InvalidConfigError, UnauthenticatedError
from csi_oras.oci.reference import Repository
from csi_oras.registry import coverage, plugin, provider_config
from csi_oras.registry.credentials import Credential, password
from csi_oras.registry.plugin import PluginError, PluginResponse
from csi_oras.registry.provider_config import Provider
from csi_oras.telemetry.logs import logger

_GLOBAL = "global"
_MOST_RESPONSES = 4096

Note = Callable[[str], None]


class UnknownYetError(Exception):
    """A plugin would have to run to say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSettings:
    """Where the kubelet's configuration and its programs are; empty for none."""

    config_file: str = ""
    directory: str = ""


@dataclass(frozen=True, slots=True)
class _Kept:
    response: PluginResponse
    expires: float


class Providers:
    """The plugins of a node."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        timeout: float = plugin.TIMEOUT_SECONDS,
    ) -> None:
        self._clock = clock
        self._timeout = timeout
        self._lock = threading.Lock()
        self._loaded: tuple[object, tuple[Provider, ...]] = (None, ())
        self._kept: dict[tuple[Provider, str], _Kept] = {}
        self._running: dict[tuple[Provider, str], Future[PluginResponse]] = {}

    def find(
        self, settings: ProviderSettings, repository: Repository, note: Note, *, may_run: bool = True
    ) -> Credential | None:
        """Return what the first provider that covers `repository` gives; `note` hears why one gives nothing.

        Raises:
            UnknownYetError: a plugin would have to run, and may not.
        """
        for provider in self._covering(settings, repository, note):
            try:
                response = self._response(provider, repository, may_run=may_run)
                found = _choose(response, repository, f"credential provider {provider.name}")
            except (PluginError, UnauthenticatedError) as error:
                logger.warning("a credential provider gave nothing", provider=provider.name, cause=error.cause)
                note(f"{provider.name} {error.cause}")
                continue
            if found:
                return found
            note(f"{provider.name} has nothing for it")
        return None

    def forget(self, refused: Credential) -> None:
        """Drop whatever answer holds a credential that a registry refused."""
        with self._lock:
            for key, kept in list(self._kept.items()):
                if any(
                    (user, word) == (refused.username, refused.password) for user, word in kept.response.auth.values()
                ):
                    del self._kept[key]

    def _covering(self, settings: ProviderSettings, repository: Repository, note: Note) -> Iterator[Provider]:
        if not settings.config_file:
            note("not configured")
            return
        try:
            covering = [provider for provider in self._providers(settings) if provider.covers(repository)]
        except (InvalidConfigError, OSError) as error:
            cause = error.message if isinstance(error, InvalidConfigError) else str(error.strerror)
            logger.warning("credential providers cannot be used", file=settings.config_file, cause=cause)
            note(f"{settings.config_file} cannot be used, see the driver's log")
            return
        if not covering:
            note("none for it")
        for provider in covering:
            if provider.needs_token:
                note(f"{provider.name} wants service-account tokens of the kubelet's own")
            else:
                yield provider

    def _providers(self, settings: ProviderSettings) -> tuple[Provider, ...]:
        version = (settings, provider_config.version_of(settings.config_file))
        with self._lock:
            known, providers = self._loaded
        if known != version:
            providers = provider_config.load(settings.config_file, settings.directory)
            with self._lock:
                self._loaded = (version, providers)
        return providers

    def _response(self, provider: Provider, repository: Repository, *, may_run: bool) -> PluginResponse:
        image = str(repository)
        with self._lock:
            for key in (image, repository.registry, _GLOBAL):
                kept = self._kept.get((provider, key))
                if kept and kept.expires > self._clock():
                    return kept.response
            if not may_run:
                raise UnknownYetError
            running = self._running.get((provider, image))
            mine = None if running else Future[PluginResponse]()
            if mine:
                self._running[provider, image] = mine
        return self._run(provider, repository, mine) if mine else running.result()  # type: ignore[union-attr]

    def _run(self, provider: Provider, repository: Repository, future: "Future[PluginResponse]") -> PluginResponse:
        image = str(repository)
        try:
            response = plugin.run(provider.plugin, image, self._timeout)
        except BaseException as error:
            future.set_exception(error)
            raise
        else:
            self._keep(provider, repository, response)
            future.set_result(response)
            return response
        finally:
            with self._lock:
                del self._running[provider, image]

    def _keep(self, provider: Provider, repository: Repository, response: PluginResponse) -> None:
        seconds = provider.seconds if response.seconds is None else response.seconds
        if seconds <= 0:
            return
        keys = {"Image": str(repository), "Registry": repository.registry, "Global": _GLOBAL}
        now = self._clock()
        with self._lock:
            if len(self._kept) >= _MOST_RESPONSES:
                self._kept = {key: kept for key, kept in self._kept.items() if kept.expires > now}
            if len(self._kept) < _MOST_RESPONSES:
                self._kept[provider, keys[response.cache_key_type]] = _Kept(response, now + seconds)


def _choose(response: PluginResponse, repository: Repository, source: str) -> Credential | None:
    pair = coverage.closest(response.auth.items(), repository)
    return password(pair[0], pair[1].reveal(), source) if pair else None
