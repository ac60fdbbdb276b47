"""Descriptors: what a blob is said to be (image-spec, descriptor.md)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self

from csi_oras.errors import CsiOrasError, HostileContentError, printable
from csi_oras.oci import document as json
from csi_oras.oci.digest import Digest
from csi_oras.oci.platform import Platform

_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")
_NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """Media type, digest and size in bytes of one blob, with its annotations.

    `urls` and `data` are left out on purpose: we fetch from the registry that was named, and hash what comes.
    """

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=lambda: _NONE, hash=False)
    platform: Platform | None = None
    artifact_type: str = ""
    name: str = ""
    """A member that only Ollama writes, and nobody has checked."""

    @classmethod
    def of(cls, content: bytes, media_type: str, annotations: Mapping[str, str] = _NONE) -> Self:
        """Describe `content`."""
        return cls(
            media_type=media_type,
            digest=Digest.of(content),
            size=len(content),
            annotations=MappingProxyType(dict(annotations)),
        )

    @classmethod
    def parse(cls, document: dict[str, Any], subject: str) -> Self:
        """Read a descriptor; `subject` says which one, in errors.

        Raises:
            HostileContentError: a member is missing or not of its type.
            UnsupportedContentError: a digest of an algorithm that we do not take.
        """
        try:
            digest = Digest.parse(document.get("digest"))
        except CsiOrasError as error:
            raise type(error)(subject, f"{error.subject} {error.cause}", error.remedy) from None
        name = document.get("name")  # what no specification knows may be of any type
        return cls(
            media_type=media_type(document, "mediaType", subject),
            digest=digest,
            size=json.integer(document, "size", subject),
            annotations=MappingProxyType(json.texts(document, "annotations", subject)),
            platform=_platform(json.optional_object(document, "platform", subject), subject),
            artifact_type=media_type(document, "artifactType", subject, default=""),
            name=name if isinstance(name, str) else "",
        )

    def to_json(self) -> dict[str, Any]:
        """Return the members that a manifest holds."""
        document: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": str(self.digest),
            "size": self.size,
        }
        if self.name:
            document["name"] = self.name
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        return document


def media_type(document: dict[str, Any], key: str, subject: str, default: str | None = None) -> str:
    """Return a member that is a media type by RFC 6838."""
    value = json.text(document, key, subject, default)
    if value and not _MEDIA_TYPE.fullmatch(value):
        raise HostileContentError(subject, f'"{key}" is "{printable(value, 80)}", which is not a media type')
    if not value and default is None:
        raise HostileContentError(subject, f'"{key}" is empty')
    return value


def _platform(document: dict[str, Any] | None, subject: str) -> Platform | None:
    if document is None:
        return None
    return Platform(
        json.text(document, "os", subject, ""),
        json.text(document, "architecture", subject, ""),
        json.text(document, "variant", subject, ""),
    )
