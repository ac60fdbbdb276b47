"""A repository as one credential sees it: manifests, blobs, uploads (distribution-spec 1.1).

Requests carry a credential only to the registry's own origin; a redirect elsewhere is followed without.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TypeVar
from urllib.parse import urlencode, urljoin

import tenacity

from csi_oras.errors import (
    ArtifactNotFoundError,
    BadResponseError,
    DigestMismatchError,
    RegistryUnavailableError,
    SizeMismatchError,
    UnacceptableError,
    printable,
)
from csi_oras.oci import media_types
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.reference import Repository
from csi_oras.registry import hosts, referrers
from csi_oras.registry.credentials import Credential
from csi_oras.registry.failures import LARGEST_ERROR, failure
from csi_oras.registry.tokens import Access, Tokens
from csi_oras.registry.transport import Origin, Response, Transport
from csi_oras.telemetry.secrets import Secret

_OK, _CREATED, _ACCEPTED, _PARTIAL = 200, 201, 202, 206
_UNAUTHORIZED, _NOT_FOUND, _RANGE_NOT_SATISFIABLE = 401, 404, 416
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 5
_ATTEMPTS = 4

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedManifest:
    """The bytes of a manifest, their own digest, and the media type that the registry gave."""

    content: bytes
    digest: Digest
    media_type: str

    @property
    def descriptor(self) -> Descriptor:
        """Describe the bytes themselves."""
        return Descriptor(media_type=self.media_type, digest=self.digest, size=len(self.content))


class BlobStream:
    """Bytes of a blob from `start` on, as far as the response goes."""

    def __init__(self, response: Response, start: int, *, partial: bool) -> None:
        self._response = response
        self.start = start
        self.partial = partial

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer` as far as the stream goes and return the count; 0 is the end.

        Raises:
            RegistryUnavailableError: the connection broke or stalled.
        """
        return self._response.readinto(buffer)


def retried(action: Callable[[], _Result], attempts: int = _ATTEMPTS) -> _Result:
    """Run `action` again after a failure that may pass, with growing, jittered pauses (under 3 s in all)."""
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(RegistryUnavailableError),
        wait=tenacity.wait_exponential(multiplier=0.1, max=1.5) + tenacity.wait_random(0, 0.2),
        stop=tenacity.stop_after_attempt(attempts),
        reraise=True,
    )
    return retrying(action)


class RepositoryClient:
    """One repository, with one credential or none."""

    def __init__(
        self, transport: Transport, tokens: Tokens, repository: Repository, credential: Credential | None
    ) -> None:
        self._transport = transport
        self._tokens = tokens
        self.repository = repository
        self.credential = credential
        self._base = f"{hosts.base_url(repository.registry)}/v2/{repository.name}"
        self._origin = Origin.of(self._base)

    def manifest(self, identifier: str, *, limit: int, expected: Digest | None = None) -> FetchedManifest:
        """Fetch a manifest or an index by tag or digest; at most `limit` bytes.

        Raises:
            UnobtainableError: it cannot be got.
            BadResponseError: the answer is too large, or is no answer of a registry.
            DigestMismatchError: the bytes do not have the `expected` digest.
        """
        return retried(lambda: self._manifest(identifier, limit, expected))

    def _manifest(self, identifier: str, limit: int, expected: Digest | None) -> FetchedManifest:
        subject = self._named(identifier)
        with self._get(
            "GET", f"/manifests/{identifier}", subject, {"Accept": ", ".join(media_types.ACCEPTED)}
        ) as response:
            self._expect(response, subject, _OK)
            _refuse_encoded(response, subject)
            content = response.read(limit)
            media_type = response.header("Content-Type").partition(";")[0].strip().lower()
        digest = Digest.of(content) if expected is None else _digest_like(expected, content)
        if expected is not None and digest != expected:
            raise DigestMismatchError(subject, f"the registry sent a manifest with digest {digest}", "report it")
        return FetchedManifest(content=content, digest=digest, media_type=media_type)

    def digest_hint(self, tag: str) -> Digest | None:
        """Ask what digest the registry says a tag has: a hint, good only to find what this credential may read.

        Raises:
            UnobtainableError: it cannot be got.
        """
        return retried(lambda: self._digest_hint(tag))

    def _digest_hint(self, tag: str) -> Digest | None:
        subject = self._named(tag)
        with self._get("HEAD", f"/manifests/{tag}", subject, {"Accept": ", ".join(media_types.ACCEPTED)}) as response:
            self._expect(response, subject, _OK)
            response.read(0)
            try:
                return Digest.parse(response.header("Docker-Content-Digest"))
            except UnacceptableError:
                return None

    @contextmanager
    def blob(self, blob: Descriptor, start: int = 0, end: int | None = None) -> Iterator[BlobStream]:
        """Open the bytes of `blob` from `start` up to `end` (not included), or all of them where neither is given.

        A registry that ignores ranges answers with the whole blob; `partial` and `start` of the stream say so.

        Raises:
            UnobtainableError: it cannot be got.
            BadResponseError: the answer is encoded, or is another range than the one asked for.
        """
        subject = self._named(str(blob.digest))
        ranged = start > 0 or end is not None
        last = (blob.size if end is None else end) - 1
        headers = {"Range": f"bytes={start}-{last}"} if ranged else {}
        with self._get("GET", f"/blobs/{blob.digest}", subject, headers) as response:
            if response.status == _RANGE_NOT_SATISFIABLE:
                raise SizeMismatchError(subject, f"has fewer than the {blob.size} bytes it should have", "report it")
            self._expect(response, subject, _OK, _PARTIAL)
            _refuse_encoded(response, subject)
            partial = response.status == _PARTIAL
            if partial:
                _check_range(response.header("Content-Range"), start, last, blob.size, subject)
            elif (length := response.header("Content-Length")) and length != str(blob.size):
                raise SizeMismatchError(
                    subject,
                    f"has {printable(length, 20)} bytes instead of {blob.size}",
                    "push it again, or report it",
                )
            yield BlobStream(response, start if partial else 0, partial=partial)

    def small_blob(self, blob: Descriptor) -> bytes:
        """Fetch a blob whole; the caller has looked at its size.

        Raises:
            UnobtainableError: it cannot be got.
            DigestMismatchError, SizeMismatchError: it is not what `blob` says.
        """
        return retried(lambda: self._small_blob(blob))

    def _small_blob(self, blob: Descriptor) -> bytes:
        buffer = memoryview(bytearray(blob.size + 1))
        done = 0
        with self.blob(blob) as stream:
            while count := stream.readinto(buffer[done:]):
                done += count
        content = bytes(buffer[:done])
        if done != blob.size:
            cause = f"has {'more than ' if done > blob.size else ''}{min(done, blob.size)} bytes, not {blob.size}"
            raise SizeMismatchError(self._named(str(blob.digest)), cause, "push it again, or report it")
        if (digest := _digest_like(blob.digest, content)) != blob.digest:
            raise DigestMismatchError(
                self._named(str(blob.digest)), f"the registry sent bytes with digest {digest}", "report it"
            )
        return content

    def has_blob(self, digest: Digest) -> bool:
        """Say whether the repository has a blob, before it is uploaded for nothing.

        Raises:
            UnobtainableError: the registry does not say.
        """
        with self._get("HEAD", f"/blobs/{digest}", self._named(str(digest)), {}, actions="pull,push") as response:
            response.read(0)
            if response.status == _NOT_FOUND:
                return False
            self._expect(response, self._named(str(digest)), _OK)
            return True

    def upload(self, blob: Descriptor, source: bytes | IO[bytes]) -> None:
        """Upload `blob` in one piece (distribution-spec, POST then PUT); `source` is read once.

        Raises:
            UnobtainableError: the registry does not take it.
            BadResponseError: the upload is sent to another origin.
        """
        subject = self._named(str(blob.digest))
        with self._get("POST", "/blobs/uploads/", subject, {"Content-Length": "0"}, actions="pull,push") as response:
            response.read(LARGEST_ERROR)
            self._expect(response, subject, _ACCEPTED)
            location = _joined(f"{self._base}/blobs/uploads/", response.header("Location"))
        if Origin.of(location) != self._origin:
            raise BadResponseError(subject, "the registry wants the upload sent to another host")  # CVE-2026-50151
        url = f"{location}{'&' if '?' in location else '?'}digest={blob.digest}"
        headers = {"Content-Length": str(blob.size), "Content-Type": "application/octet-stream"}
        with self._send("PUT", url, headers, "pull,push", source) as response:
            self._expect(response, subject, _CREATED)
            response.read(LARGEST_ERROR)

    def put_manifest(self, identifier: str, content: bytes, media_type: str) -> Digest:
        """Put a manifest under a tag or its digest, and return its digest.

        Raises:
            UnobtainableError: the registry does not take it.
        """
        subject = self._named(identifier)
        headers = {"Content-Type": media_type, "Content-Length": str(len(content))}
        url = f"{self._base}/manifests/{identifier}"
        with self._send("PUT", url, headers, "pull,push", content) as response:
            self._expect(response, subject, _CREATED)
            response.read(LARGEST_ERROR)
        return Digest.of(content)

    def _named(self, identifier: str) -> str:
        return f"{self.repository}{'@' if ':' in identifier else ':'}{identifier}"

    @contextmanager
    def _get(
        self, method: str, path: str, subject: str, headers: Mapping[str, str], actions: str = "pull"
    ) -> Iterator[Response]:
        """Send a request without a body, and follow where the registry sends us as far as that is safe."""
        response = self._send(method, self._base + path, headers, actions)
        url = self._base + path
        for _ in range(_MOST_REDIRECTS):
            if response.status not in _REDIRECTS:
                break
            location = response.header("Location")
            response.close()  # unread: what a redirect's body holds is of no use, and may be a bomb
            if not location:
                raise BadResponseError(subject, "the registry redirects to nowhere")
            url = _joined(url, location)
            hosts.check_destination(Origin.of(url), self._origin, "blob")
            response = self._send(method, url, headers, actions)
        with response:
            yield response

    def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        actions: str,
        body: bytes | IO[bytes] | None = None,
    ) -> Response:
        if Origin.of(url) != self._origin:
            return self._transport.request(method, url, headers)
        access = Access(self._origin, self.repository, actions, self.credential)
        authorization = self._tokens.header(access)
        if authorization is None and body is not None:  # a body is sent once: ask for the token first
            authorization = self._ask(access)
        sent = {**headers, "Authorization": authorization.reveal()} if authorization else headers
        response = self._transport.request(method, url, sent, body)
        if response.status != _UNAUTHORIZED:
            return response
        if authorization:
            self._tokens.forget(access, authorization)
        if body is not None and not isinstance(body, bytes):  # sent, and cannot be sent again from here
            return response
        answer = self._answer(access, response)
        if answer is None:
            return response
        return self._transport.request(method, url, {**headers, "Authorization": answer.reveal()}, body)

    def _answer(self, access: Access, response: Response) -> Secret | None:
        """Return the header that answers a 401, which is closed unless it is the last word."""
        try:
            answer = self._tokens.answer(access, response.header("WWW-Authenticate"))
        except BaseException:
            response.close()
            raise
        if answer:
            response.close()
        return answer

    def _ask(self, access: Access) -> Secret | None:
        with self._transport.request("GET", f"{hosts.base_url(self.repository.registry)}/v2/", {}) as response:
            if response.status != _UNAUTHORIZED:
                return None
            return self._tokens.answer(access, response.header("WWW-Authenticate"))

    def _expect(self, response: Response, subject: str, *statuses: int) -> None:
        if response.status in statuses:
            return
        raise failure(response, subject, self.credential)

    def referrers(self, digest: Digest, artifact_type: str = "") -> list[Descriptor]:
        """List what refers to a manifest, of one artifact type or of all (distribution-spec, Listing Referrers).

        A registry without that interface keeps the list under a tag. A list without end is cut off.

        Raises:
            UnobtainableError: the list cannot be got.
            UnacceptableError: it is too large, or is no list of a registry.
        """
        found = retried(lambda: self._referrers(digest, artifact_type))
        if found is None:
            found = self._tagged_referrers(digest)
        return [entry for entry in found if artifact_type in ("", entry.artifact_type)]

    def _referrers(self, digest: Digest, artifact_type: str) -> list[Descriptor] | None:
        subject = f"referrers of {self._named(str(digest))}"
        query = f"?{urlencode({'artifactType': artifact_type})}" if artifact_type else ""
        found: list[Descriptor] = []
        for _ in range(referrers.MOST_PAGES):
            path = f"/referrers/{digest}{query}"
            with self._get("GET", path, subject, {"Accept": media_types.OCI_INDEX}) as response:
                if referrers.are_not_served(response):
                    return None
                self._expect(response, subject, _OK)
                _refuse_encoded(response, subject)
                found += referrers.entries(response.read(referrers.LARGEST_PAGE), subject)
                query = referrers.next_query(response, subject)
            if not query:
                break
        return found

    def _tagged_referrers(self, digest: Digest) -> list[Descriptor]:
        tag = referrers.tag_of(digest)
        try:
            return referrers.entries(self.manifest(tag, limit=referrers.LARGEST_PAGE).content, self._named(tag))
        except ArtifactNotFoundError:
            return []


def _joined(base: str, location: str) -> str:
    try:
        return urljoin(base, location)
    except ValueError:
        raise BadResponseError("registry", "sends us on to a URL that is none", "check that it is a registry") from None


def _refuse_encoded(response: Response, subject: str) -> None:
    if response.header("Content-Encoding").lower() not in ("", "identity"):
        raise BadResponseError(subject, "comes encoded, though that was not asked for", "check that it is a registry")


def _digest_like(expected: Digest, content: bytes) -> Digest:
    hasher = expected.hasher()
    hasher.update(content)
    return Digest(expected.algorithm, hasher.hexdigest())


def _check_range(content_range: str, start: int, last: int, size: int, subject: str) -> None:
    total = content_range.rpartition("/")[2]
    if total.isdigit() and total != str(size):
        raise SizeMismatchError(
            subject, f"has {printable(total, 20)} bytes instead of {size}", "push it again, or report it"
        )
    if content_range.replace(" ", "") not in (f"bytes{start}-{last}/{size}", f"bytes{start}-{last}/*"):
        raise BadResponseError(
            subject,
            f'asked for bytes {start}-{last} of {size}, the registry sends "{printable(content_range, 60)}"',
        )


class Registries:
    """Every registry there is, behind one transport and one store of tokens."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._tokens = Tokens(transport)

    def repository(self, repository: Repository, credential: Credential | None) -> RepositoryClient:
        """Return a repository as `credential` sees it."""
        return RepositoryClient(self._transport, self._tokens, repository, credential)
