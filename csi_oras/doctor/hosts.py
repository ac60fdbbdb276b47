"""The hosts of a registry, each asked for real, with the credential that a pull would show it, and once."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from csi_oras.doctor.check import SECONDS, Check, begin
from csi_oras.errors import CsiOrasError, RegistryUnavailableError
from csi_oras.oci.digest import Digest
from csi_oras.oci.reference import Reference
from csi_oras.registry.client import RepositoryClient
from csi_oras.registry.host import RegistryHost
from csi_oras.registry.hosts_file import Capability

Open = Callable[[RegistryHost], RepositoryClient]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostAnswer:
    """What a host says the reference is, or why it does not say; neither, where it is not asked at all."""

    host: RegistryHost
    digest: Digest | None = None
    error: CsiOrasError | None = None
    seconds: float = 0.0

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What it may be asked for."""
        return tuple(capability for capability in Capability if self.host.can(capability))


def ask_all(hosts: Iterable[RegistryHost], open_host: Open, reference: Reference, limit: int) -> list[HostAnswer]:
    """Ask every host that may be asked; those that may not tell what a tag means are asked by its digest after that.

    No manifest of more than `limit` bytes is read.
    """
    listed = list(hosts)
    wanted = [Capability.PULL] if reference.digest else [Capability.PULL, Capability.RESOLVE]
    first = _ask([host for host in listed if host.can(*wanted)], open_host, reference, limit)
    digest = next((answer.digest for answer in first.values() if answer.digest), None)
    rest = [host for host in listed if host.can(Capability.PULL) and host not in first]
    second = _ask(rest, open_host, reference.pinned(digest), limit) if digest else {}
    answers = first | second
    return [answers.get(host) or HostAnswer(host=host) for host in listed]


def _ask(
    hosts: list[RegistryHost], open_host: Open, reference: Reference, limit: int
) -> dict[RegistryHost, HostAnswer]:
    began = time.monotonic()

    def asking(host: RegistryHost) -> Callable[[], HostAnswer]:
        return lambda: _answer(host, open_host(host), reference, limit)

    running = {host: begin(asking(host)) for host in hosts}
    return {host: _outcome(host, future.result, began + SECONDS) for host, future in running.items()}


def _answer(host: RegistryHost, client: RepositoryClient, reference: Reference, limit: int) -> HostAnswer:
    began = time.monotonic()
    digest = client.digest_hint(reference.identifier, attempts=1)
    if digest is None:  # a registry that does not say must be asked for all of it
        digest = client.manifest(reference.identifier, limit=limit, expected=reference.digest).digest
    return HostAnswer(host=host, digest=digest, seconds=time.monotonic() - began)


def _outcome(host: RegistryHost, result: Callable[[float], HostAnswer], until: float) -> HostAnswer:
    try:
        return result(max(0.0, until - time.monotonic()))
    except CsiOrasError as error:
        return HostAnswer(host=host, error=error)
    except TimeoutError:
        cause, remedy = f"does not answer within {SECONDS:.0f} s", "check the network, and the name server"
        return HostAnswer(host=host, error=RegistryUnavailableError(str(host.origin), cause, remedy))


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The way of a pull: who tells what the reference means, and who is asked first for the bytes of that."""

    digest: Digest
    resolving: RegistryHost
    serving: RegistryHost


def route(answers: Iterable[HostAnswer], reference: Reference) -> Route | None:
    """Return the way that a pull would go by these answers, if there is one."""
    good = [answer for answer in answers if answer.digest]
    telling = good if reference.digest else [answer for answer in good if answer.host.can(Capability.RESOLVE)]
    if not telling or telling[0].digest is None:
        return None
    digest = telling[0].digest
    serving = next(answer.host for answer in good if answer.digest == digest)
    return Route(digest=digest, resolving=telling[0].host, serving=serving)


def check(answer: HostAnswer, way: Route | None) -> Check:
    """Return what an answer means for a pull that would go this way."""
    name = "registry" if answer.host.is_own else "mirror"
    said = f"{answer.host.url} ({', '.join(answer.capabilities)})"
    if answer.digest and way and answer.digest != way.digest:
        message = f"{said} has another one than {way.resolving.origin}, which is asked before: {answer.digest}"
        return Check.warning(name, message, "wait until the mirror has caught up, or use digests")
    if answer.digest:
        return Check.ok(name, f"{said} has it, and answered in {answer.seconds * 1000:.0f} ms")
    if answer.error is None:
        return Check.ok(name, f"{said} is not asked for this")
    message = f"{said}: {_words(answer.error, answer.host)}"
    if way:
        return Check.warning(name, f"{message}; {way.serving.origin} serves instead", answer.error.remedy)
    return Check.failed(name, message, answer.error.remedy)


def _words(error: CsiOrasError, host: RegistryHost) -> str:
    """Return a cause, with whom it is about where that is somebody else than the host."""
    about_it = error.subject.startswith((str(host.origin), f"{host.registry}/"))
    return error.cause if about_it else f"{error.subject}: {error.cause}"
