"""A reference: which credential, host and mirror would serve it on this node, and why one would not."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from csi_oras import config, in_force
from csi_oras.doctor import hosts, settings, signatures, stored
from csi_oras.doctor.check import SECONDS, Check, Finding, State, begin, run
from csi_oras.doctor.hosts import HostAnswer, Question, Route
from csi_oras.errors import AccessDeniedError, CsiOrasError
from csi_oras.oci.digest import Digest
from csi_oras.oci.glob import Glob
from csi_oras.oci.platform import Platform
from csi_oras.oci.reference import Reference
from csi_oras.registry.client import RepositoryClient
from csi_oras.registry.credentials import Credential
from csi_oras.registry.host import RegistryHost
from csi_oras.registry.hosts_dirs import HOSTS_FILE, HostsDirectories
from csi_oras.registry.keychain import Found, Keychain
from csi_oras.registry.providers import Providers
from csi_oras.registry.registries import Registries
from csi_oras.registry.transport import Transport
from csi_oras.transfer.resolve import ManifestLimits

_STALL_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Inquiry:
    """What is asked for, and on what kind of node; `brought` is what a volume or a command would bring itself."""

    reference: Reference
    policy: config.Policy
    brought: Found
    state_dir: Path
    platform: Platform


def examine(inquiry: Inquiry) -> Finding:
    """Find out what a pull would meet; where policy forbids it, no registry is asked and no credential shown."""
    asked = Finding(
        document={"reference": str(inquiry.reference), "digest": None, "resolvedBy": None, "servedBy": None}
    )
    allowed, policy = _look_at_policy(inquiry)
    asked += policy
    root = inquiry.reference.digest
    if allowed:
        found, credential = _look_for_credential(inquiry)
        asked += found
        served, found = _ask_registry(inquiry, credential)
        asked += found
        root = served or root
    return asked + stored.look(inquiry.state_dir, inquiry.reference, inquiry.platform, root)


def _look_at_policy(inquiry: Inquiry) -> tuple[bool, Finding]:
    named, repository = inquiry.policy.registries, inquiry.reference.repository
    denying, allowing = _first(named.deny, str(repository)), _first(named.allow, str(repository))
    rule = f'registries.deny "{denying}"' if denying else f'registries.allow "{allowing}"' if allowing else None
    try:
        in_force.rules(inquiry.policy).check(repository)
    except AccessDeniedError as error:
        message = f"{error.cause} ({rule or 'no rule of registries.allow names it'})"
        check, allowed = Check.failed("policy", message, error.remedy), False
    else:
        check, allowed = Check.ok("policy", f"allowed by {rule}"), True
    return allowed, Finding(checks=(check,), document={"policy": {"allowed": allowed, "rule": rule}})


def _first(globs: Iterable[Glob], name: str) -> str | None:
    return next((glob.pattern for glob in globs if glob.matches(name)), None)


def _look_for_credential(inquiry: Inquiry) -> tuple[Finding, Credential | None]:
    found, broken = inquiry.brought, Finding()
    if found.credential is None:
        of_node = _of_node(inquiry)
        found = replace(of_node, tried=(*found.tried, *of_node.tried))
        broken = Finding(checks=_broken_sources(inquiry))
    source = found.credential.source if found.credential else None
    in_vain = f"; looked for in vain: {'; '.join(found.tried)}" if found.tried else ""
    check = Check.ok("credential", f"{source or 'none, so it is read as by anybody'}{in_vain}")
    document = {"credential": {"source": source, "tried": list(found.tried)}}
    return broken + Finding(checks=(check,), document=document), found.credential


def _of_node(inquiry: Inquiry) -> Found:
    keychain = Keychain(lambda: in_force.sources(inquiry.policy), Providers(timeout=SECONDS))
    try:
        return begin(lambda: keychain.of_node(inquiry.reference.repository)).result(SECONDS)
    except TimeoutError:
        return Found(tried=(f"the node's sources: no answer within {SECONDS:.0f} s",))


def _broken_sources(inquiry: Inquiry) -> tuple[Check, ...]:
    """Return what is wrong with the node's sources, and which one a pod has that nobody else can show."""
    examinations = settings.examinations(inquiry.policy)
    found = run({name: examinations[name] for name in ("docker configs", "credential providers")})
    broken = tuple(check for check in found if check.state is not State.OK)
    rules = in_force.sources(inquiry.policy).service_accounts
    rule = next((rule for rule in rules if rule.match.matches(str(inquiry.reference.repository))), None)
    if rule is None:
        return broken
    message = f'a pod shows its service-account token for "{rule.audience}" instead of what is found here'
    return (*broken, Check.warning("credential", message, "look at the events of a pod"))


def _ask_registry(inquiry: Inquiry, credential: Credential | None) -> tuple[Digest | None, Finding]:
    """Ask the hosts what the reference means, and look for signatures of it."""
    transport = Transport(stall_seconds=_STALL_SECONDS)
    directories = HostsDirectories(lambda: inquiry.policy.registries.hosts_dirs)
    registries = Registries(transport, directories)
    try:
        way, found = _ask_hosts(inquiry, registries, directories, credential)
        if way and way.artifact:
            client = registries.repository(inquiry.reference.repository, credential)
            found += _look_for_signatures(inquiry, client, (way.digest, way.artifact))
    except CsiOrasError as error:  # what the node says about the hosts cannot be read
        return None, Finding(checks=(Check.of_error("hosts", error),))
    finally:
        transport.close()
    return way.digest if way and way.artifact else None, found


def _ask_hosts(
    inquiry: Inquiry, registries: Registries, directories: HostsDirectories, credential: Credential | None
) -> tuple[Route | None, Finding]:
    reference = inquiry.reference
    repository, limits = reference.repository, inquiry.policy.limits

    def open_host(host: RegistryHost) -> RepositoryClient:
        return registries.at(host, repository, credential)

    listed, source = registries.hosts(repository.registry), _source(directories, repository.registry)
    question = Question(
        reference=reference,
        platform=inquiry.platform,
        limits=ManifestLimits(manifest_bytes=limits.manifest_bytes, layers=limits.layers),
        open_host=open_host,
    )
    answers = hosts.ask_all(listed, question)
    way = hosts.route(answers, reference)
    checks = tuple(hosts.check(answer, way) for answer in answers)
    document: dict[str, Any] = {
        "hostsFile": str(source) if source else None,
        "hosts": [_host(answer, check) for answer, check in zip(answers, checks, strict=True)],
    }
    if source:
        checks = (Check.ok("hosts", f"they are asked as {source} says, in this order"), *checks)
    return way, Finding(checks=checks, document=document) + _verdict(way)


def _verdict(way: Route | None) -> Finding:
    if way is None or way.serving is None:
        what = f"what {way.resolving.url} says that it is: {way.digest}" if way else "it"
        failed = Check.failed("artifact", f"no host serves {what}", "see what each of them says")
        return Finding(checks=(failed,))
    told = "" if way.serving is way.resolving else f", as {way.resolving.url} says"
    served = Check.ok("artifact", f"{way.serving.url} would serve it: {way.digest}{told}")
    document = {"digest": str(way.digest), "resolvedBy": way.resolving.url, "servedBy": way.serving.url}
    return Finding(checks=(served,), document=document)


def _source(directories: HostsDirectories, registry: str) -> Path | None:
    """Return the file that names the hosts; a directory may hold certificates alone."""
    directory = directories.directory_of(registry)
    file = directory / HOSTS_FILE if directory else None
    return file if file and file.exists() else directory


def _host(answer: HostAnswer, check: Check) -> dict[str, Any]:
    return {
        "url": answer.host.url,
        "mirror": not answer.host.is_own,
        "capabilities": list(answer.capabilities),
        "digest": str(answer.digest) if answer.digest else None,
        "state": check.state,
        "message": check.message,
        "remedy": check.remedy,
    }


def _look_for_signatures(inquiry: Inquiry, client: RepositoryClient, signable: tuple[Digest, Digest]) -> Finding:
    work = partial(signatures.look, inquiry.policy, client, signable)
    try:
        return begin(work).result(2 * SECONDS)
    except TimeoutError:
        return Finding(checks=(Check.failed("signature", f"no answer within {2 * SECONDS:.0f} s"),))
    except CsiOrasError as error:
        return Finding(checks=(Check.of_error("signature", error),))
