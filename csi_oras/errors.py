"""The error taxonomy: what can go wrong, in two families that never mix.

*Could not get it* (`UnobtainableError`: registry, network, credentials, space) may get better by itself;
*what we got is wrong* (`UnacceptableError`: digests, hostile names, policy) never does. A request that makes no
sense is neither (`RequestError`). Every error says what it is about, what happened and what to do, in one
sentence without secrets or control characters, because the kubelet shows it to the user. gRPC codes are not
known here: `csi/status.py` maps each leaf.
"""

import re
from typing import Self

MESSAGE_LIMIT = 1000
"""Longest message in bytes; an event on a pod holds 1,024."""

INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0"
    "\ufff0-\ufffb\ufffe\uffff\U000e0000-\U000e0fff"
)
"""Ranges of characters that show nothing, or turn the text beside them around."""
_UNPRINTABLE = re.compile(f"[\x00-\x1f\x7f-\x9f\ud800-\udfff{INVISIBLE}]")


def printable(text: str, limit: int = MESSAGE_LIMIT) -> str:
    """Return `text` cut to `limit` characters, with control, bidirectional and invisible characters escaped."""
    clean = _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def fitting(text: str) -> str:
    """Return a message cut to MESSAGE_LIMIT: its names may take four bytes for a character."""
    encoded = text.encode()
    return text if len(encoded) <= MESSAGE_LIMIT else encoded[: MESSAGE_LIMIT - 3].decode(errors="ignore") + "…"


class CsiOrasError(Exception):
    """Anything this driver refuses or fails at, other than a bug.

    `subject` names what it happened to (a reference, a layer, a path), `cause` what happened, `remedy` what
    the reader can do.
    """

    def __init__(self, subject: str, cause: str, remedy: str = "") -> None:
        self.subject = subject
        self.cause = cause
        self.remedy = remedy
        super().__init__(fitting(printable(f"{subject}: {cause}" + (f"; {remedy}" if remedy else ""))))

    def about(self, subject: str) -> Self:
        """Return the same error about something that says more to the reader, such as the layer's place."""
        return type(self)(subject, self.cause, self.remedy)

    @property
    def message(self) -> str:
        """The one sentence for people."""
        return str(self.args[0])


class RequestError(CsiOrasError):
    """The caller asked for something that cannot be done as asked."""


class InvalidRequestError(RequestError):
    """A bad attribute, reference, capability or path."""


class InvalidConfigError(RequestError):
    """The node policy file or a flag is wrong; the driver does not start on it."""


class VolumeConflictError(RequestError):
    """The target already holds a volume that was asked for in another way."""


class VolumeInUseError(RequestError):
    """The volume is for one pod alone, and another one has it."""


class VolumeBusyError(RequestError):
    """Other work on this volume is still running; the caller should ask again."""


class PullPendingError(VolumeBusyError):
    """The artifact is still being pulled; the message tells how far it is, and a retry joins the pull."""


class UnwantedError(RequestError):
    """Nobody wants it any more; whoever asks again begins anew."""


class VolumeNotFoundError(RequestError):
    """No such volume, or not at that path."""


class UnobtainableError(CsiOrasError):
    """Could not get it."""


class ArtifactNotFoundError(UnobtainableError):
    """The registry has no such artifact, tag or blob."""


class UnauthenticatedError(UnobtainableError):
    """No credential was given, or a wrong one."""


class AccessDeniedError(UnobtainableError):
    """The credential is known and may not read this, or node policy forbids it."""


class RegistryUnavailableError(UnobtainableError):
    """The registry cannot be reached, fails, or limits our rate."""

    retry_after = 0.0
    """Seconds for which the registry wants to be left alone; 0 where it does not say."""
    status = 0
    """What it answered with; 0 where it did not."""


class PushRefusedError(UnobtainableError):
    """The registry does not take what is pushed: too large, over a quota, a tag that never moves."""


class ContentChangedError(UnobtainableError):
    """What is pushed is no longer what it was when the push began."""


class NoSpaceError(UnobtainableError):
    """The store has no room for the artifact."""


class StoreBrokenError(UnobtainableError):
    """The store cannot be read or written."""


class UnhealthyError(UnobtainableError):
    """The driver cannot work as it stands; a probe says so."""


class UnacceptableError(CsiOrasError):
    """What we got is wrong."""


class DigestMismatchError(UnacceptableError):
    """The bytes have another digest than the descriptor says."""


class SizeMismatchError(UnacceptableError):
    """There are more or fewer bytes than the descriptor says."""


class HostileContentError(UnacceptableError):
    """A manifest, name or archive that no honest tool makes."""


class UnsupportedContentError(UnacceptableError):
    """Well-formed content that this driver cannot show as a volume."""


class LimitExceededError(UnacceptableError):
    """The artifact is larger than node policy allows."""


class SignatureError(UnacceptableError):
    """Node policy wants a signature on it, and none is known to be valid."""


class BadResponseError(UnacceptableError):
    """The server answered, but not as a registry does."""
