"""The node policy file: what the cluster's administrator allows and how much.

Every key has its place, its type and its default here; whatever else a file says stops the driver with the
line that it stands on. Settings go no further than `app.py`: below, a function is handed the values it needs.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from csi_oras.config.keys import CosignKey, read_cosign_keys
from csi_oras.config.reader import (
    WrongValueError,
    choice,
    duration_from,
    key,
    line_of,
    list_of,
    needed,
    number,
    read_boolean,
    read_document,
    read_duration,
    read_namespaces,
    read_repositories,
    read_size,
    read_text,
    read_wish,
    section,
    size_between,
)
from csi_oras.errors import InvalidConfigError, printable
from csi_oras.oci.glob import Glob
from csi_oras.oci.wish import Wish
from csi_oras.registry import named_files

_LARGEST_FILE = 1 << 20
_MOST_PERCENT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistriesPolicy:
    """Where registries are reached, and which repositories may be pulled from."""

    hosts_dirs: tuple[str, ...] = key("hostsDirs", list_of(read_text), ("/etc/containerd/certs.d",))
    allow: tuple[Glob, ...] = key("allow", list_of(read_repositories), (Glob.parse("**"),))
    deny: tuple[Glob, ...] = key("deny", list_of(read_repositories), ())


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvidersPolicy:
    """The kubelet's credential provider plugins."""

    config_file: str = key("configFile", read_text, "")
    bin_dir: str = key("binDir", read_text, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPolicy:
    """Registries that are sent the pod's service-account token."""

    match: Glob = needed("match", read_repositories)
    audience: str = needed("audience", read_text)


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialsPolicy:
    """Credentials beside the volume's secret."""

    docker_config: tuple[str, ...] = key("dockerConfig", list_of(read_text), ())
    providers: ProvidersPolicy = key("providers", section(ProvidersPolicy), ProvidersPolicy())
    service_account_tokens: tuple[TokenPolicy, ...] = key("serviceAccountTokens", list_of(section(TokenPolicy)), ())


@dataclass(frozen=True, slots=True, kw_only=True)
class PullsPolicy:
    """How much is fetched at once: large blobs of a registry, ranges of one, bytes of a range, and the node's rate.

    Sizes are bytes, and a rate of 0 is no limit. Registries together have a few times the blobs of one.
    """

    parallel_blobs: int = key("parallelBlobs", number(1, 64), 4)
    parallel_ranges: int = key("parallelRanges", number(1, 64), 8)
    range_bytes: int = key("rangeBytes", size_between(1 << 20, 1 << 30), 16 << 20)
    max_bytes_per_second: int = key("maxBytesPerSecond", read_size, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsPolicy:
    """What an artifact may be at most; 0 bytes for no limit."""

    artifact_bytes: int = key("artifactBytes", read_size, 0)
    files: int = key("files", number(1, 100_000_000), 1_000_000)
    manifest_bytes: int = key("manifestBytes", size_between(1 << 10, 64 << 20), 4 << 20)
    layers: int = key("layers", number(1, 1_000_000), 10_000)
    unpack_ratio: int = key("unpackRatio", number(1, 1_000_000), 200)


@dataclass(frozen=True, slots=True, kw_only=True)
class StorePolicy:
    """How large the store may grow, and when it is tidied; bytes, percent and seconds."""

    max_bytes: int = key("maxBytes", read_size, 0)
    high_watermark: int = key("highWatermark", number(1, _MOST_PERCENT), 85)
    low_watermark: int = key("lowWatermark", number(1, _MOST_PERCENT), 70)
    min_age: int = key("minAge", read_duration, 600)
    fs_verity: str = key("fsVerity", choice("auto", "on", "off"), "auto")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefetchPolicy:
    """One wish: a reference, or a glob over tags, kept fresh every so many seconds."""

    wish: Wish = needed("reference", read_wish)
    every: int = key("every", duration_from(1), 900)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationPolicy:
    """Whose signature an artifact must carry: one by one of the keys."""

    match: Glob = needed("match", read_repositories)
    mode: str = key("mode", choice("enforce", "warn"), "enforce")
    cosign_keys: tuple[CosignKey, ...] = needed("cosignKeys", read_cosign_keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteBackRule:
    """Which namespaces may push where."""

    namespaces: tuple[Glob, ...] = needed("namespaces", list_of(read_namespaces))
    references: tuple[Glob, ...] = needed("references", list_of(read_repositories))


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteBackPolicy:
    """Whether and where pods may push; 0 bytes for no limit. A push holds about 1 kB of memory for each file."""

    enabled: bool = key("enabled", read_boolean, default=False)
    allow: tuple[WriteBackRule, ...] = key("allow", list_of(section(WriteBackRule)), ())
    max_bytes: int = key("maxBytes", read_size, 0)
    max_files: int = key("maxFiles", number(1, 1_000_000), 100_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class LazyPolicy:
    """Whether volumes may be mounted before they are local."""

    enabled: bool = key("enabled", read_boolean, default=True)
    require_index: bool = key("requireIndex", read_boolean, default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The whole file."""

    registries: RegistriesPolicy = key("registries", section(RegistriesPolicy), RegistriesPolicy())
    credentials: CredentialsPolicy = key("credentials", section(CredentialsPolicy), CredentialsPolicy())
    pulls: PullsPolicy = key("pulls", section(PullsPolicy), PullsPolicy())
    limits: LimitsPolicy = key("limits", section(LimitsPolicy), LimitsPolicy())
    store: StorePolicy = key("store", section(StorePolicy), StorePolicy())
    prefetch: tuple[PrefetchPolicy, ...] = key("prefetch", list_of(section(PrefetchPolicy)), ())
    verification: tuple[VerificationPolicy, ...] = key("verification", list_of(section(VerificationPolicy)), ())
    write_back: WriteBackPolicy = key("writeBack", section(WriteBackPolicy), WriteBackPolicy())
    lazy: LazyPolicy = key("lazy", section(LazyPolicy), LazyPolicy())


def parse(text: str, source: str) -> Policy:
    """Read a policy file's text; `source` names it in errors.

    Raises:
        InvalidConfigError: with the line of what is wrong.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        policy = read_document(Policy, node)
    except WrongValueError as error:
        raise InvalidConfigError(f"{source}, line {error.line}", printable(str(error), 500), "correct it") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise InvalidConfigError(f"{source}, line {line}", f"is not YAML ({error.problem})", "correct it") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise InvalidConfigError(source, f"is not YAML ({printable(str(error), 200)})", "correct it") from None
    for path, cause in _contradictions(policy):
        raise InvalidConfigError(f"{source}, line {line_of(node, path)}", f"{path} {cause}", "correct it")
    return policy


def _contradictions(policy: Policy) -> Iterator[tuple[str, str]]:
    """Yield where the file asks for what cannot be."""
    if policy.store.low_watermark > policy.store.high_watermark:
        yield "store.lowWatermark", "is above store.highWatermark"
    if bool(policy.credentials.providers.config_file) != bool(policy.credentials.providers.bin_dir):
        yield "credentials.providers", "needs both configFile and binDir"
    for wish, count in Counter(str(prefetch.wish) for prefetch in policy.prefetch).items():
        if count > 1:
            yield "prefetch", f'names "{wish}" twice'


def load(path: Path | None) -> Policy:
    """Read the policy file, or return the defaults where none is named.

    Raises:
        InvalidConfigError: it cannot be read, or is wrong.
    """
    return parse(read_file(path), f"policy file {path}") if path else Policy()


def read_file(path: Path) -> str:
    """Return the text of a policy file.

    Raises:
        InvalidConfigError: it cannot be read.
    """
    try:
        return named_files.read(path, _LARGEST_FILE).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise InvalidConfigError(f"policy file {path}", f"cannot be read ({reason})", "check --config") from error
