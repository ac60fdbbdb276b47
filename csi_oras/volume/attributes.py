"""Volume attributes: what a pod, a StorageClass or a PersistentVolume says of a volume, parsed once.

Whatever weakens security is node policy and never an attribute, because any pod's author writes attributes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from csi_oras.errors import InvalidRequestError, printable
from csi_oras.oci.glob import Glob
from csi_oras.oci.name import Name, UnsafeNameError
from csi_oras.oci.platform import Platform
from csi_oras.oci.reference import Reference
from csi_oras.oci.selection import Selection
from csi_oras.telemetry.logs import logger
from csi_oras.transfer.request import PullPolicy
from csi_oras.volume.templates import expand

KEYS = (
    "reference", "pullPolicy", "platform", "include", "exclude", "mediaTypes", "unpack", "path", "mode", "noexec",
    "metadata", "writeBackReference", "writeBackInclude", "writeBackExclude",
)  # fmt: skip
_ALIASES = {"oras.artifact.reference": "reference", "oras.artifact.layers.mediatype": "mediaTypes"}
_PULL_ALWAYS = "oras.options.pullalways"
_WITHOUT_EFFECT = frozenset({"oras.options.plainhttp", "oras.options.insecure", "oras.options.concurrency"})
_FROM_KUBERNETES = ("csi.storage.k8s.io/", "storage.kubernetes.io/")
_MOST_GLOBS = 100
_LONGEST_VALUE = 4096
_IN_NO_NAME = frozenset({"", ".", ".."})
_MEDIA_TYPE = re.compile(r"[\w.+!#$&^-]+/[\w.+!#$&^-]+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteBack:
    """Where to push what a pod writes, the tag spelled out, and globs over what of it."""

    reference: Reference
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    starts_empty: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """The attributes of one volume; `platform` is None for the node's own.

    `reference` is that of the artifact that is shown, or, where the volume starts empty, of the one that it will be.
    """

    reference: Reference
    pull_policy: PullPolicy
    platform: Platform | None
    selection: Selection
    noexec: bool
    lazy: bool = False
    write_back: WriteBack | None = None

    @property
    def starts_empty(self) -> bool:
        """Whether there is no artifact to pull."""
        return self.write_back is not None and self.write_back.starts_empty

    def read_only(self) -> Self:
        """Return the same for a volume that is asked for read-only: it shows the artifact, and pushes nothing.

        Raises:
            InvalidRequestError: there is none.
        """
        if self.starts_empty:
            raise _invalid("reference", "is missing, and a read-only volume has nothing else to show", "name one")
        return replace(self, write_back=None)


def is_from_kubernetes(key: str) -> bool:
    """Say whether the cluster, and no user, sets this key."""
    return key.startswith(_FROM_KUBERNETES)


def parse(context: Mapping[str, str], variables: Mapping[str, str]) -> Attributes:
    """Read a volume context (or StorageClass parameters); keys of the cluster's own are passed over.

    `variables` are what templates in `reference` and `writeBackReference` may name here.

    Raises:
        InvalidRequestError: an unknown key, or a value that is not one of its kind.
    """
    values = _canonical({key: value for key, value in context.items() if not is_from_kubernetes(key)})
    base = _reference("reference", values, variables)
    write_back = _write_back(values, variables, starts_empty=base is None)
    reference = base or (write_back.reference if write_back else None)
    if reference is None:
        raise InvalidRequestError("attribute reference", "is missing", "name an artifact: registry/repository:tag")
    return Attributes(
        reference=reference,
        pull_policy=_pull_policy(values.get("pullPolicy", ""), reference),
        platform=Platform.parse(values["platform"]) if values.get("platform") else None,
        selection=_selection(values),
        noexec=_boolean("noexec", values.get("noexec", "")),
        lazy=_is_lazy(values, write_back),
        write_back=write_back,
    )


def _reference(key: str, values: Mapping[str, str], variables: Mapping[str, str]) -> Reference | None:
    text = values.get(key, "").removeprefix("oras://")
    return Reference.parse(expand(text, variables)) if text else None


def _write_back(values: Mapping[str, str], variables: Mapping[str, str], *, starts_empty: bool) -> WriteBack | None:
    include, exclude = (_list(key, values) for key in ("writeBackInclude", "writeBackExclude"))
    reference = _reference("writeBackReference", values, variables)
    if reference is None:
        if include or exclude:
            raise _invalid("writeBackReference", "is missing", "say where to push, or leave out what to push")
        return None
    if reference.digest:
        raise _invalid("writeBackReference", "names a digest, which nobody knows before", "name a tag, or none")
    if _boolean("metadata", values.get("metadata", "")):
        raise _invalid("metadata", "would be pushed with what the pod writes", "leave it out")
    for key, patterns in (("writeBackInclude", include), ("writeBackExclude", exclude)):
        _globs(key, patterns)
    return WriteBack(
        reference=reference,
        include=tuple(include),
        exclude=tuple(exclude),
        starts_empty=starts_empty,
    )


def _canonical(context: Mapping[str, str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for key, value in context.items():
        if len(value) > _LONGEST_VALUE:
            raise _invalid(key, f"is longer than {_LONGEST_VALUE} characters")
        if key in _WITHOUT_EFFECT:
            logger.warning("an attribute of the old driver has no effect: node policy decides", attribute=key)
        elif key != _PULL_ALWAYS:
            _put(values, _ALIASES.get(key, key), value)
        elif _boolean(key, value):
            _put(values, "pullPolicy", PullPolicy.ALWAYS)
    return values


def _put(values: dict[str, str], name: str, value: str) -> None:
    if name not in KEYS:
        remedy = f"the attributes are {', '.join(KEYS)}"
        raise InvalidRequestError(f'attribute "{printable(name, 80)}"', "is not known", remedy)
    if value and values.setdefault(name, value) != value:
        raise _invalid(name, "is given twice, in its old and its new spelling")


def _is_lazy(values: Mapping[str, str], write_back: WriteBack | None) -> bool:
    mode = values.get("mode") or "eager"
    if mode not in ("eager", "lazy"):
        raise _invalid("mode", f'is "{printable(mode, 80)}"', "set eager or lazy")
    if mode == "lazy" and write_back:
        raise _invalid("mode", "cannot be lazy below what a pod writes", "leave it out")
    return mode == "lazy"


def _pull_policy(value: str, reference: Reference) -> PullPolicy:
    if not value:  # as Kubernetes: a tag that moves is asked for again each time
        moving = reference.digest is None and reference.tag == "latest"
        return PullPolicy.ALWAYS if moving else PullPolicy.IF_NOT_PRESENT
    try:
        return PullPolicy(value)
    except ValueError:
        raise _invalid("pullPolicy", f'is "{printable(value, 80)}"', "set Always, IfNotPresent or Never") from None


def _selection(values: Mapping[str, str]) -> Selection:
    unpack = values.get("unpack", "auto")
    if unpack not in ("", "auto", "never"):
        raise _invalid("unpack", f'is "{printable(unpack, 80)}"', "set auto or never")
    media_types = _list("mediaTypes", values)
    for media_type in media_types:
        if not _MEDIA_TYPE.fullmatch(media_type):
            raise _invalid("mediaTypes", f'"{printable(media_type, 80)}" is not a media type')
    return Selection(
        media_types=frozenset(media_types),
        include=_globs("include", _list("include", values)),
        exclude=_globs("exclude", _list("exclude", values)),
        path=_path(values.get("path", "")),
        unpack=unpack != "never",
        metadata=_boolean("metadata", values.get("metadata", "")),
    )


def _globs(key: str, patterns: list[str]) -> tuple[Glob, ...]:
    """Read globs; one that no name matches would leave out nothing of what it is meant to leave out."""
    trimmed = [pattern.removeprefix("./").rstrip("/") for pattern in patterns]
    for pattern in trimmed:
        if not _IN_NO_NAME.isdisjoint(pattern.split("/")):
            cause = f'"{printable(pattern, 80)}" matches no name'
            raise _invalid(key, cause, "write it as names are: no / at the beginning, no // and no . or .. between")
    return tuple(map(Glob.parse, trimmed))


def _list(key: str, values: Mapping[str, str]) -> list[str]:
    items = [item.strip() for item in values.get(key, "").split(",")]
    found = [item for item in items if item]
    if len(found) > _MOST_GLOBS:
        raise _invalid(key, f"has more than {_MOST_GLOBS} items")
    return found


def _path(value: str) -> Name | None:
    trimmed = value.removeprefix("./").rstrip("/") if value not in (".", "/") else ""
    if not trimmed:
        return None
    try:
        return Name.parse(trimmed, portable=False)  # an image's files may have colons and backslashes
    except UnsafeNameError as error:
        raise _invalid(
            "path", f'"{printable(value, 80)}" {error}', "name a directory or file of the artifact"
        ) from None


def _boolean(key: str, value: str) -> bool:
    if value.lower() in ("true", "false", ""):
        return value.lower() == "true"
    raise _invalid(key, f'is "{printable(value, 80)}"', 'set "true" or "false"')


def _invalid(key: str, cause: str, remedy: str = "") -> InvalidRequestError:
    return InvalidRequestError(f"attribute {printable(key, 80)}", cause, remedy)
