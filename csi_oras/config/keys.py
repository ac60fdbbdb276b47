"""Key files that the policy file names: read with it, so that a missing or wrong one refuses it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import yaml

from csi_oras.config.reader import WrongValueError, list_of, read_text
from csi_oras.errors import InvalidConfigError
from csi_oras.registry import named_files

if TYPE_CHECKING:
    from csi_oras.policy.keys import PublicKey

_LARGEST = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class CosignKey:
    """A public key, and the file that it came from."""

    path: str
    content: bytes = field(repr=False)
    key: "PublicKey" = field(compare=False)


def read_cosign_keys(node: yaml.Node) -> tuple[CosignKey, ...]:
    """Read a list of key files.

    Raises:
        WrongValueError: it is empty, or a file is missing or holds no key that can be used.
    """
    keys: tuple[CosignKey, ...] = list_of(_read_cosign_key)(node)
    if not keys:
        raise WrongValueError(node, "is empty, and no artifact could ever be verified")
    return keys


def content_of(path: str) -> bytes:
    """Return what a key file holds.

    Raises:
        InvalidConfigError: it cannot be read.
    """
    try:
        return named_files.read(path, _LARGEST)
    except OSError as error:
        raise InvalidConfigError(f"key file {path}", f"cannot be read ({error.strerror})") from error


def _read_cosign_key(node: yaml.Node) -> CosignKey:
    from csi_oras.policy.keys import PublicKey  # noqa: PLC0415 (12 MB that only those have who use it)

    path = read_text(node)
    try:
        content = content_of(path)
        return CosignKey(path=path, content=content, key=PublicKey.parse(content, f"key file {path}"))
    except InvalidConfigError as error:
        raise WrongValueError(node, error.message) from error
