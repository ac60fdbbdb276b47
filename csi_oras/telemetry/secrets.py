"""Secrets: text that only the registry package may look at, and only by asking for it."""

import re
from dataclasses import dataclass
from typing import Any, NoReturn

REDACTED = "***"


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """A password, token or key; no representation, format, comparison order or pickle of it shows the text."""

    _text: str

    def reveal(self) -> str:
        """Return the text, to be sent to the one server that it is for."""
        return self._text

    def __repr__(self) -> str:
        return REDACTED

    def __format__(self, spec: str) -> str:
        return REDACTED

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not serialised")

    def __bool__(self) -> bool:
        return bool(self._text)


def redact(value: Any) -> Any:
    """Return `value` for a log line: secrets, and whatever a request carries under a secret's name, are hidden."""
    if isinstance(value, dict):
        return {key: REDACTED if _is_sensitive(key) else redact(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact(item) for item in value]
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    return str(value)


_SENSITIVE = re.compile("secret|token|password|authorization|credential|volume_context|auth", re.IGNORECASE)


def _is_sensitive(key: object) -> bool:
    return isinstance(key, str) and _SENSITIVE.search(key) is not None
