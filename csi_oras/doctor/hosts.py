"""The hosts of a registry, each asked for real, with the credential that a pull would show it, and once."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from csi_oras.doctor.check import SECONDS, Check, begin
from csi_oras.errors import ArtifactNotFoundError, CsiOrasError, RegistryUnavailableError
from csi_oras.oci import manifest as manifests
from csi_oras.oci.digest import Digest
from csi_oras.oci.manifest import Index, Manifest
from csi_oras.oci.platform import Platform
from csi_oras.oci.reference import Reference
from csi_oras.registry.answers import FetchedManifest
from csi_oras.registry.client import RepositoryClient
from csi_oras.registry.host import RegistryHost
from csi_oras.registry.hosts_file import Capability
from csi_oras.transfer.resolve import ManifestLimits, Resolved, lead

_REMEDY = "check that it is a registry, or push the artifact again"
"""For what is wrong with what was sent, where the error knows no better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What hosts are asked for, for a node of `platform`."""

    reference: Reference
    platform: Platform
    limits: ManifestLimits
    open_host: Callable[[RegistryHost], RepositoryClient]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostAnswer:
    """What a host says the reference is, and on this platform; or why it does not say, or cannot serve that.

    Nothing of it, where it is not asked at all.
    """

    host: RegistryHost
    digest: Digest | None = None
    artifact: Digest | None = None
    error: CsiOrasError | None = None
    seconds: float = 0.0

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What it may be asked for."""
        return tuple(capability for capability in Capability if self.host.can(capability))


def ask_all(hosts: Iterable[RegistryHost], question: Question) -> list[HostAnswer]:
    """Ask every host that may be asked; those that may not tell what a tag means are asked by its digest after that."""
    listed, reference = list(hosts), question.reference
    wanted = [Capability.PULL] if reference.digest else [Capability.PULL, Capability.RESOLVE]
    first = _ask([host for host in listed if host.can(*wanted)], question)
    digest = next((answer.digest for answer in first.values() if answer.digest), None)
    rest = [host for host in listed if host.can(Capability.PULL) and host not in first]
    second = _ask(rest, replace(question, reference=reference.pinned(digest))) if digest else {}
    answers = first | second
    return [answers.get(host) or HostAnswer(host=host) for host in listed]


def _ask(hosts: list[RegistryHost], question: Question) -> dict[RegistryHost, HostAnswer]:
    began = time.monotonic()

    def asking(host: RegistryHost) -> Callable[[], HostAnswer]:
        return lambda: _answer(host, question)

    running = {host: begin(asking(host)) for host in hosts}
    return {host: _outcome(host, future.result, began + SECONDS) for host, future in running.items()}


def _answer(host: RegistryHost, question: Question) -> HostAnswer:
    """Ask one host for what a pull would ask it for, and of the bytes for one."""
    began = time.monotonic()
    client, reference = question.open_host(host), question.reference
    limit = question.limits.manifest_bytes
    document = client.manifest(reference.identifier, limit=limit, expected=reference.digest)
    answer = HostAnswer(host=host, digest=document.digest)
    try:
        resolved = _resolve(client, document, question)
        _read_of(client, resolved.manifest, reference)
    except CsiOrasError as error:
        return replace(answer, error=error)
    return replace(answer, artifact=resolved.artifact, seconds=time.monotonic() - began)


def _resolve(client: RepositoryClient, document: FetchedManifest, question: Question) -> Resolved:
    subject, limits = str(question.reference), question.limits

    def parse(fetched: FetchedManifest) -> Manifest | Index:
        return manifests.parse(fetched.content, fetched.media_type, subject, most_layers=limits.layers)

    def fetch(digest: Digest) -> FetchedManifest:
        with _naming(f"{subject}, manifest {digest.short}", client):
            return client.manifest(str(digest), limit=limits.manifest_bytes, expected=digest)

    return lead(document, question.platform, subject, parse=parse, fetch=fetch)


def _read_of(client: RepositoryClient, manifest: Manifest, reference: Reference) -> None:
    """Read the first byte of the largest layer: manifests come from a registry, and bytes often from elsewhere."""
    number, layer = max(enumerate(manifest.layers), key=lambda item: item[1].size, default=(0, manifest.config))
    if not (manifest.layers and layer.size):
        return
    with _naming(f"{reference}, layer {number} ({layer.digest.short})", client), client.blob(layer, 0, 1) as stream:
        if not stream.readinto(memoryview(bytearray(1))):
            raise RegistryUnavailableError(str(client.repository), "none of its bytes come", "check the registry")


@contextmanager
def _naming(subject: str, client: RepositoryClient) -> Iterator[None]:
    """See to it that an error names the part of the artifact that it is about."""
    try:
        yield
    except CsiOrasError as error:
        whose = subject if error.subject.startswith(str(client.repository)) else f"{subject}: {error.subject}"
        remedy = "push it again" if isinstance(error, ArtifactNotFoundError) else error.remedy
        raise type(error)(whose, error.cause, remedy) from error


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
    """The way of a pull: who tells what the reference means, who is asked first for the bytes, and what they are."""

    digest: Digest
    resolving: RegistryHost
    artifact: Digest | None = None
    serving: RegistryHost | None = None


def route(answers: Iterable[HostAnswer], reference: Reference) -> Route | None:
    """Return the way that a pull would go by these answers; it ends where nobody serves what the first one tells."""
    good = [answer for answer in answers if answer.digest]
    telling = good if reference.digest else [answer for answer in good if answer.host.can(Capability.RESOLVE)]
    if not telling or telling[0].digest is None:
        return None
    way = Route(digest=telling[0].digest, resolving=telling[0].host)
    serving = next((answer for answer in good if answer.digest == way.digest and not answer.error), None)
    return replace(way, artifact=serving.artifact, serving=serving.host) if serving else way


def check(answer: HostAnswer, way: Route | None) -> Check:
    """Return what an answer means for a pull that would go this way."""
    name = "registry" if answer.host.is_own else "mirror"
    said = f"{answer.host.url} ({', '.join(answer.capabilities)})"
    if answer.digest and not answer.error and way and answer.digest != way.digest:
        message = f"{said} has another one than {way.resolving.origin}, which is asked before: {answer.digest}"
        return Check.warning(name, message, "wait until the mirror has caught up, or use digests")
    if answer.artifact:
        return Check.ok(name, f"{said} has it, and answered in {answer.seconds * 1000:.0f} ms")
    if answer.error is None:
        return Check.ok(name, f"{said} is not asked for this")
    message, remedy = f"{said}: {_words(answer.error, answer.host)}", answer.error.remedy or _REMEDY
    if way and way.serving:
        return Check.warning(name, f"{message}; {way.serving.origin} serves instead", remedy)
    return Check.failed(name, message, remedy)


def _words(error: CsiOrasError, host: RegistryHost) -> str:
    """Return a cause, with what it is about where that is not the host or the whole artifact."""
    about_it = error.subject.startswith((str(host.origin), f"{host.registry}/"))
    subject = error.subject.partition(", ")[2] if about_it else error.subject
    return f"{subject}: {error.cause}" if subject else error.cause
