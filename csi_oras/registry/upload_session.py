"""An upload session: the place where a registry takes the bytes of one blob (distribution-spec, Pushing blobs).

The place moves with each answer. The invariant: it is at the host's own origin, or nothing is sent there
(CVE-2026-50151); of its query nothing is read and nothing is changed.
"""

import re
from contextlib import suppress
from typing import Self
from urllib.parse import urlencode

from csi_oras.errors import BadResponseError, CsiOrasError, RegistryUnavailableError
from csi_oras.oci.digest import Digest
from csi_oras.oci.reference import Repository
from csi_oras.registry import answers
from csi_oras.registry.failures import LARGEST_ERROR, may_pass
from csi_oras.registry.origin import Origin
from csi_oras.registry.session import Session, joined
from csi_oras.registry.sources import Body
from csi_oras.registry.transport import Response

PUSH = "pull,push"
_CANCEL = "pull,push,delete"
"""What registries with tokens of their own want of who ends an upload; who may not leaves that to them."""
_CREATED, _ACCEPTED, _NO_CONTENT = 201, 202, 204
_BAD_REQUEST, _UNAUTHORIZED, _NOT_FOUND, _RANGE_NOT_SATISFIABLE, _NOT_IMPLEMENTED = 400, 401, 404, 416, 501
_NO_BODY = {"Content-Length": "0"}
_RANGE = re.compile(r"(?:bytes=)?[0-9]{1,20}-([0-9]{1,20})")
_LENGTH = re.compile(r"[0-9]{1,20}")
_FORWARDED = "have the proxy before it set X-Forwarded-Proto and Host, or give the registry its external URL"
_SLOWEST_COMMIT = 20 << 20
"""Bytes per second at which a registry moves at least what it was sent; until then it does not answer."""


class UploadSession:
    """An open upload, until it is closed or cancelled."""

    def __init__(self, session: Session, subject: str, opened: Response) -> None:
        self._session = session
        self._subject = subject
        self._location = self._joined(session.url("/blobs/uploads/"), opened.header("Location"))
        least = opened.header("OCI-Chunk-Min-Length")
        self.least_chunk = int(least) if _LENGTH.fullmatch(least) else 0
        """Bytes that each chunk but the last should have; 0 where the registry does not say."""
        self._renews = True
        self._is_resumed = self.is_lost = False

    @classmethod
    def open(cls, session: Session, subject: str, algorithm: str = "sha256") -> Self:
        """Open an upload.

        Raises:
            UnobtainableError: the registry does not let us.
            BadResponseError: the upload is to be sent to another origin, or nowhere.
        """
        query = "" if algorithm == "sha256" else f"?{urlencode({'digest-algorithm': algorithm})}"
        url = session.url(f"/blobs/uploads/{query}")
        with session.send("POST", url, _NO_BODY, PUSH) as response:
            session.expect(response, subject, _ACCEPTED)
            response.read(LARGEST_ERROR)
            return cls(session, subject, response)

    @classmethod
    def mount(cls, session: Session, subject: str, digest: Digest, source: Repository) -> Self | None:
        """Mount a blob of another repository, or return the upload that the registry opens instead.

        Raises:
            UnobtainableError, BadResponseError: as for `open`.
            DigestMismatchError: it has mounted another blob.
        """
        query = urlencode({"mount": str(digest), "from": session.host.scope_name(source.name)})
        url = session.url(f"/blobs/uploads/?{query}")
        with session.send("POST", url, _NO_BODY, PUSH, beside=source) as response:
            session.expect(response, subject, _CREATED, _ACCEPTED)
            response.read(LARGEST_ERROR)
            if response.status == _ACCEPTED:
                return cls(session, subject, response)
            answers.check_digest(response.header("Docker-Content-Digest"), digest, subject)
            return None

    def patch(self, body: Body) -> None:
        """Send a chunk.

        Raises:
            RegistryUnavailableError: it did not arrive as it was sent; `taken` tells what did.
            UnobtainableError: the registry does not take it.
            BadResponseError: the next is to be sent to another origin.
        """
        span = body.span
        headers = {"Content-Range": f"{span.start}-{span.end - 1}"}
        with self._sent("PATCH", self._location, body, headers, span.length) as response:
            self._expect(response, _ACCEPTED, _NO_CONTENT)  # the latter is go-containerregistry's
            response.read(LARGEST_ERROR)
            self._move(response)
            taken = _end(response)
        if taken not in (None, span.end):
            cause = f"the registry has {taken} bytes of it after {span.end} were sent"
            raise RegistryUnavailableError(self._subject, cause, "it is tried again")
        self._renews = True

    def close(self, digest: Digest, size: int, body: Body | None = None) -> None:
        """Send the whole of it, or end what came in chunks: the blob of `size` bytes is there then.

        Raises:
            UnobtainableError: the registry does not take it.
            DigestMismatchError: it says that it has taken something else.
        """
        joint = "&" if "?" in self._location else "?"
        url = f"{self._location}{joint}{urlencode({'digest': str(digest)}, safe=':')}"
        with self._sent("PUT", url, body, {}, size) as response:
            self._expect(response, _CREATED)
            answers.check_digest(response.header("Docker-Content-Digest"), digest, self._subject)
            response.read(LARGEST_ERROR)

    def _sent(self, method: str, url: str, body: Body | None, headers: dict[str, str], size: int) -> Response:
        length = str(body.span.length if body else 0)
        every = {"Content-Type": "application/octet-stream", "Content-Length": length, **headers}
        return self._session.send(method, url, every, PUSH, body or b"", patience=size / _SLOWEST_COMMIT)

    def taken(self) -> int | None:
        """Ask how many bytes have arrived; None where the upload cannot go on.

        Raises:
            RegistryUnavailableError: the registry cannot be asked now.
            BadResponseError: the rest is to be sent to another origin.
        """
        with self._session.send("GET", self._location, {}, PUSH) as response:
            if response.status != _NO_CONTENT:
                if may_pass(response.status) and response.status != _NOT_IMPLEMENTED:
                    self._session.expect(response, self._subject, _NO_CONTENT)
                return None
            response.read(0)
            self._move(response)
            self._is_resumed = True
            return _end(response)

    def cancel(self) -> None:
        """Tell the registry that nothing more comes; what it answers is of no interest (distribution-spec)."""
        with suppress(CsiOrasError), self._session.send("DELETE", self._location, _NO_BODY, _CANCEL) as response:
            response.read(LARGEST_ERROR)

    def _expect(self, response: Response, *statuses: int) -> None:
        if self._contradicts(response.status):
            raise RegistryUnavailableError(self._subject, "the registry has lost the upload", "it is tried again")
        if response.status == _UNAUTHORIZED and self._renews:  # the token was, too: the next try brings another
            self._renews = False
            raise RegistryUnavailableError(self._subject, "the registry wants a new token", "it is tried again")
        self._session.expect(response, self._subject, *statuses)

    def _contradicts(self, status: int) -> bool:
        """Say whether the registry does not have what was sent, or what it said that it had; then it is lost."""
        self.is_lost = status == _NOT_FOUND or (self._is_resumed and status in (_BAD_REQUEST, _RANGE_NOT_SATISFIABLE))
        return self.is_lost or status == _RANGE_NOT_SATISFIABLE

    def _move(self, response: Response) -> None:
        if location := response.header("Location"):
            self._location = self._joined(self._location, location)

    def _joined(self, base: str, location: str) -> str:
        if not location:
            raise BadResponseError(self._subject, "the registry does not say where the upload is to be sent")
        url = joined(base, location).partition("#")[0]
        if Origin.of(url, self._subject) != self._session.host.origin:
            cause = "the registry wants the upload sent to another host, or by another scheme"
            raise BadResponseError(self._subject, cause, _FORWARDED)
        return url


def _end(response: Response) -> int | None:
    """Return the first byte that a Range says is missing, or None where it says nothing."""
    match = _RANGE.fullmatch(response.header("Range"))
    return int(match[1]) + 1 if match else None
