"""The node policy file: what the cluster's administrator allows and how much; read again when it changes.

Every key has its place, its type and its default here; whatever else a file says stops the driver with the
line that it stands on. Settings go no further than `app.py`: below, a function is handed the values it needs.
"""

import dataclasses
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from csi_oras.errors import InvalidConfigError, printable
from csi_oras.oci.glob import Glob
from csi_oras.telemetry.logs import logger

RELOAD_SECONDS = 5.0
_LARGEST_FILE = 1 << 20
_UNITS = {
    "": 1,
    "Ki": 1 << 10,
    "Mi": 1 << 20,
    "Gi": 1 << 30,
    "Ti": 1 << 40,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
}
_SIZE = re.compile(r"(\d+)(Ki|Mi|Gi|Ti|k|M|G|T)?")
_DURATION = re.compile(r"(?=\d)(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_MOST_PERCENT = 100

_Section = TypeVar("_Section")
_Reader = Callable[[yaml.Node], Any]


class _WrongValueError(Exception):
    def __init__(self, node: yaml.Node, cause: str) -> None:
        self.line = node.start_mark.line + 1
        super().__init__(cause)


def _scalar(node: yaml.Node, expected: str) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise _WrongValueError(node, f"is not {expected}")
    return str(node.value)


def _size(node: yaml.Node) -> int:
    match = _SIZE.fullmatch(_scalar(node, "a size"))
    if match is None:
        raise _WrongValueError(node, f'"{node.value}" is not a size such as 16Mi')
    return int(match[1]) * _UNITS[match[2] or ""]


def _duration(node: yaml.Node) -> int:
    match = _DURATION.fullmatch(_scalar(node, "a duration"))
    if match is None:
        raise _WrongValueError(node, f'"{node.value}" is not a duration such as 1h30m')
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds


def _number(least: int, most: int) -> _Reader:
    def read(node: yaml.Node) -> int:
        text = _scalar(node, "a number")
        if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
            raise _WrongValueError(node, f'"{text}" is not a number from {least} to {most}')
        return int(text)

    return read


def _boolean(node: yaml.Node) -> bool:
    text = _scalar(node, "true or false")
    if text not in ("true", "false"):
        raise _WrongValueError(node, f'"{text}" is not true or false')
    return text == "true"


def _choice(*choices: str) -> _Reader:
    def read(node: yaml.Node) -> str:
        text = _scalar(node, "a text")
        if text not in choices:
            raise _WrongValueError(node, f'"{text}" is not one of {", ".join(choices)}')
        return text

    return read


def _text(node: yaml.Node) -> str:
    return _scalar(node, "a text")


def _glob(node: yaml.Node) -> Glob:
    return Glob.parse(_text(node))


def _list_of(read: _Reader) -> _Reader:
    def read_all(node: yaml.Node) -> tuple[Any, ...]:
        if not isinstance(node, yaml.SequenceNode):
            raise _WrongValueError(node, "is not a list")
        return tuple(read(item) for item in node.value)

    return read_all


def _section(section: type[_Section]) -> Callable[[yaml.Node], _Section]:
    return lambda node: _read_section(section, node)


def _key(key: str, read: _Reader, default: Any) -> Any:
    return field(default=default, metadata={"key": key, "read": read})


def _needed(key: str, read: _Reader) -> Any:
    return field(metadata={"key": key, "read": read})


def _read_section(section: type[_Section], node: yaml.Node) -> _Section:
    if not isinstance(node, yaml.MappingNode):
        raise _WrongValueError(node, "is not a mapping")
    fields = {item.metadata["key"]: item for item in dataclasses.fields(section)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        known = fields.get(key_node.value) if isinstance(key_node, yaml.ScalarNode) else None
        if known is None:
            raise _WrongValueError(
                key_node, f'key "{key_node.value}" is not known (there are: {", ".join(fields)})'
            )
        if known.name in values:
            raise _WrongValueError(key_node, f'key "{key_node.value}" is given twice')
        try:
            values[known.name] = known.metadata["read"](value_node)
        except _WrongValueError as error:
            if str(error).startswith(("is not", '"')):
                raise _WrongValueError(value_node, f"{key_node.value}: {error}") from None
            raise
    for key, item in fields.items():
        if item.name not in values and item.default is dataclasses.MISSING:
            raise _WrongValueError(node, f'key "{key}" is missing')
    return section(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistriesPolicy:
    """Where registries are reached, and which repositories may be pulled from."""

    hosts_dirs: tuple[str, ...] = _key("hostsDirs", _list_of(_text), ("/etc/containerd/certs.d",))
    allow: tuple[Glob, ...] = _key("allow", _list_of(_glob), (Glob.parse("**"),))
    deny: tuple[Glob, ...] = _key("deny", _list_of(_glob), ())


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvidersPolicy:
    """The kubelet's credential provider plugins."""

    config_file: str = _key("configFile", _text, "")
    bin_dir: str = _key("binDir", _text, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPolicy:
    """Registries that are sent the pod's service-account token."""

    match: Glob = _needed("match", _glob)
    audience: str = _needed("audience", _text)


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialsPolicy:
    """Credentials beside the volume's secret."""

    docker_config: tuple[str, ...] = _key("dockerConfig", _list_of(_text), ())
    providers: ProvidersPolicy = _key("providers", _section(ProvidersPolicy), ProvidersPolicy())
    service_account_tokens: tuple[TokenPolicy, ...] = _key(
        "serviceAccountTokens", _list_of(_section(TokenPolicy)), ()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PullsPolicy:
    """How much is fetched at once; sizes in bytes, 0 for no limit of the rate."""

    parallel_blobs: int = _key("parallelBlobs", _number(1, 64), 4)
    parallel_ranges: int = _key("parallelRanges", _number(1, 64), 8)
    range_bytes: int = _key("rangeBytes", _size, 16 << 20)
    max_bytes_per_second: int = _key("maxBytesPerSecond", _size, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsPolicy:
    """What an artifact may be at most; 0 bytes for no limit."""

    artifact_bytes: int = _key("artifactBytes", _size, 0)
    files: int = _key("files", _number(1, 100_000_000), 1_000_000)
    manifest_bytes: int = _key("manifestBytes", _size, 4 << 20)
    layers: int = _key("layers", _number(1, 1_000_000), 10_000)
    unpack_ratio: int = _key("unpackRatio", _number(1, 1_000_000), 200)


@dataclass(frozen=True, slots=True, kw_only=True)
class StorePolicy:
    """How large the store may grow, and when it is tidied; bytes, percent and seconds."""

    max_bytes: int = _key("maxBytes", _size, 0)
    high_watermark: int = _key("highWatermark", _number(1, _MOST_PERCENT), 85)
    low_watermark: int = _key("lowWatermark", _number(1, _MOST_PERCENT), 70)
    min_age: int = _key("minAge", _duration, 600)
    fs_verity: str = _key("fsVerity", _choice("auto", "on", "off"), "auto")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefetchPolicy:
    """One wish: a reference, or a glob over tags, kept fresh every so many seconds."""

    reference: str = _needed("reference", _text)
    every: int = _key("every", _duration, 900)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationPolicy:
    """Whose signature an artifact must carry."""

    match: Glob = _needed("match", _glob)
    mode: str = _key("mode", _choice("enforce", "warn"), "enforce")
    cosign_keys: tuple[str, ...] = _needed("cosignKeys", _list_of(_text))


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteBackRule:
    """Which namespaces may push where."""

    namespaces: tuple[str, ...] = _needed("namespaces", _list_of(_text))
    references: tuple[Glob, ...] = _needed("references", _list_of(_glob))


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteBackPolicy:
    """Whether and where pods may push; 0 bytes for no limit."""

    enabled: bool = _key("enabled", _boolean, default=False)
    allow: tuple[WriteBackRule, ...] = _key("allow", _list_of(_section(WriteBackRule)), ())
    max_bytes: int = _key("maxBytes", _size, 0)
    max_files: int = _key("maxFiles", _number(1, 100_000_000), 100_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class LazyPolicy:
    """Whether volumes may be mounted before they are local."""

    enabled: bool = _key("enabled", _boolean, default=True)
    require_index: bool = _key("requireIndex", _boolean, default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The whole file."""

    registries: RegistriesPolicy = _key("registries", _section(RegistriesPolicy), RegistriesPolicy())
    credentials: CredentialsPolicy = _key("credentials", _section(CredentialsPolicy), CredentialsPolicy())
    pulls: PullsPolicy = _key("pulls", _section(PullsPolicy), PullsPolicy())
    limits: LimitsPolicy = _key("limits", _section(LimitsPolicy), LimitsPolicy())
    store: StorePolicy = _key("store", _section(StorePolicy), StorePolicy())
    prefetch: tuple[PrefetchPolicy, ...] = _key("prefetch", _list_of(_section(PrefetchPolicy)), ())
    verification: tuple[VerificationPolicy, ...] = _key(
        "verification", _list_of(_section(VerificationPolicy)), ()
    )
    write_back: WriteBackPolicy = _key("writeBack", _section(WriteBackPolicy), WriteBackPolicy())
    lazy: LazyPolicy = _key("lazy", _section(LazyPolicy), LazyPolicy())


def parse(text: str, source: str) -> Policy:
    """Read a policy file's text; `source` names it in errors.

    Raises:
        InvalidConfigError: with the line of what is wrong.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        policy = _read_section(Policy, node) if node is not None else Policy()
    except _WrongValueError as error:
        raise InvalidConfigError(
            f"{source}, line {error.line}", printable(str(error), 500), "correct it"
        ) from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise InvalidConfigError(
            f"{source}, line {line}", f"is not YAML ({error.problem})", "correct it"
        ) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise InvalidConfigError(
            source, f"is not YAML ({printable(str(error), 200)})", "correct it"
        ) from None
    _check_release(policy, source)
    return policy


def _check_release(policy: Policy, source: str) -> None:
    """Refuse what protects and is not there yet, and say what else has no effect yet."""
    if policy.store.low_watermark > policy.store.high_watermark:
        raise InvalidConfigError(source, "store.lowWatermark is above store.highWatermark", "correct it")
    protecting = {
        "verification": policy.verification,
        "credentials.serviceAccountTokens": policy.credentials.service_account_tokens,
        "writeBack.enabled": policy.write_back.enabled,
    }
    for key, value in protecting.items():
        if value:
            raise InvalidConfigError(source, f"{key} is not available in this release", "leave it out")
    defaults = Policy()
    without_effect = {
        "registries.hostsDirs": policy.registries.hosts_dirs != defaults.registries.hosts_dirs,
        "credentials": policy.credentials != defaults.credentials,
        "pulls.maxBytesPerSecond": policy.pulls.max_bytes_per_second != 0,
        "store": policy.store != defaults.store,
        "prefetch": bool(policy.prefetch),
    }
    for key in (key for key, given in without_effect.items() if given):
        logger.warning("a setting of the policy file has no effect in this release", source=source, key=key)


def load(path: Path | None) -> Policy:
    """Read the policy file, or return the defaults where none is named.

    Raises:
        InvalidConfigError: it cannot be read, or is wrong.
    """
    return parse(_read(path), f"policy file {path}") if path else Policy()


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
        if len(content) > _LARGEST_FILE:
            raise InvalidConfigError(f"policy file {path}", f"is larger than {_LARGEST_FILE} bytes")
        return content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfigError(
            f"policy file {path}", f"cannot be read ({error})", "check --config"
        ) from error


class PolicyWatcher:
    """Reads the file again when it changes; a wrong one is refused, loudly, and the old one stays."""

    def __init__(self, path: Path, changed: Callable[[Policy], None]) -> None:
        self._path = path
        self._text = _read(path)
        self._changed = changed
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="policy", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(RELOAD_SECONDS):
            self.look()

    def look(self) -> None:
        """Read the file once and take it over if it has changed."""
        try:
            text = _read(self._path)
            if text == self._text:
                return
            self._text = text
            self._changed(parse(text, f"policy file {self._path}"))
        except InvalidConfigError as error:
            logger.error("the new policy file is refused, the old one stays in force", cause=error.message)
        else:
            logger.info("the policy file has changed and is in force", path=str(self._path))
