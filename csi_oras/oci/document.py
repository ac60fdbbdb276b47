"""JSON from outside, read with limits, and typed access to its members.

Whatever is not exactly what the specification asks for is refused with the place where it stands.
"""

import json
from collections.abc import Callable
from typing import Any, NoReturn

from csi_oras.errors import BadResponseError, HostileContentError, printable

LARGEST_INTEGER = 2**53
"""The largest integer that every JSON implementation reads alike."""


def parse_object(content: bytes, subject: str, *, is_secret: bool = False) -> dict[str, Any]:
    """Parse a JSON object; the caller has limited its size, and says whether none of it may be quoted.

    Raises:
        BadResponseError: no JSON at all (a login page, say).
        HostileContentError: JSON that no honest tool writes, or no object.
    """
    try:
        text = content.decode()  # RFC 8259, 8.1: UTF-8 and nothing else, which json.loads would guess from bytes
        document = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_members)
    except RecursionError:
        raise HostileContentError(subject, "is nested too deeply") from None
    except _RefusedError as error:
        raise HostileContentError(subject, str(error)) from None
    except ValueError:
        start = printable(content[:40].decode("utf-8", "replace"))
        but = "" if is_secret else f' but begins with "{start}"'
        raise BadResponseError(subject, f"is not JSON{but}", "check the address") from None
    if not isinstance(document, dict):
        raise HostileContentError(subject, "is not a JSON object")
    return document


class _RefusedError(ValueError):
    pass


def _refuse_constant(constant: str) -> NoReturn:
    raise _RefusedError(f"holds {constant}, which is not JSON")


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):  # two readers would see two documents
        raise _RefusedError("names a member twice")
    return members


def text(document: dict[str, Any], key: str, subject: str, default: str | None = None) -> str:
    """Return a string member; absent or null is `default`, if there is one."""
    found: str = _member(document, key, subject, default, (_is_text, "a string"))
    return found


def integer(document: dict[str, Any], key: str, subject: str) -> int:
    """Return an integer member between 0 and `LARGEST_INTEGER`."""
    found: int = _member(document, key, subject, None, (_is_size, "a size"))
    return found


def objects(document: dict[str, Any], key: str, subject: str) -> list[dict[str, Any]]:
    """Return a required member that is a list of objects."""
    found: list[dict[str, Any]] = _member(document, key, subject, None, (_is_list_of_objects, "a list of objects"))
    return found


def optional_object(document: dict[str, Any], key: str, subject: str) -> dict[str, Any] | None:
    """Return a member that is an object, or None where it is absent or null."""
    if document.get(key) is None:
        return None
    found: dict[str, Any] = _member(document, key, subject, None, (_is_object, "an object"))
    return found


def texts(document: dict[str, Any], key: str, subject: str) -> dict[str, str]:
    """Return a member that maps strings to strings; absent or null is empty."""
    found: dict[str, str] = _member(document, key, subject, {}, (_is_map_of_texts, "a map of strings"))
    return found


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value <= LARGEST_INTEGER  # neither true nor 1.0 is a size


def _is_list_of_objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _is_map_of_texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


def _member(
    document: dict[str, Any], key: str, subject: str, default: object, check: tuple[Callable[[Any], bool], str]
) -> Any:
    value, (accepts, expected) = document.get(key), check
    if value is None and default is not None:
        return default
    if not accepts(value):
        raise HostileContentError(subject, f'"{key}" is not {expected}')
    return value
