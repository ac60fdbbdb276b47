"""A repository as one credential sees it: manifests, blobs, lists (distribution-spec 1.1, Pull).

A registry may have several hosts, mirrors among them: the first that answers well serves, and what it serves by
digest is checked like everything else. The credential goes to the registry itself; a mirror has its own or none.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeVar
from urllib.parse import urlencode

from csi_oras.errors import (
    ArtifactNotFoundError,
    DigestMismatchError,
    SizeMismatchError,
    UnacceptableError,
)
from csi_oras.oci import media_types
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.reference import Repository
from csi_oras.registry import answers, pages, referrers
from csi_oras.registry import tags as lists
from csi_oras.registry.answers import BlobStream, FetchedManifest
from csi_oras.registry.credentials import Credential
from csi_oras.registry.host import lenders
from csi_oras.registry.hosts_file import Capability
from csi_oras.registry.pushes import PushClient
from csi_oras.registry.retries import ATTEMPTS, retried
from csi_oras.registry.rota import DOUBT_SECONDS, Rota
from csi_oras.registry.session import Session
from csi_oras.registry.tags import TagList
from csi_oras.registry.uploads import CHUNK_BYTES

_OK, _PARTIAL = 200, 206
_NOT_FOUND, _NO_SUCH_METHOD, _RANGE_NOT_SATISFIABLE = 404, 405, 416
_ACCEPT = {"Accept": ", ".join(media_types.ACCEPTED)}

_Result = TypeVar("_Result")


class RepositoryClient:
    """One repository, with one credential or none."""

    def __init__(
        self,
        repository: Repository,
        credential: Credential | None,
        sessions: Sequence[Session],
        rota: Rota,
        attempts: int = ATTEMPTS,
    ) -> None:
        self.repository = repository
        self.credential = credential
        self._sessions = sessions
        self._rota = rota
        self._attempts = attempts

    @property
    def lenders(self) -> str:
        """Return what stands in grants for the mirrors that this client may have read from."""
        return lenders(session.host for session in self._sessions)

    @property
    def source(self) -> str:
        """Return what tells apart where bytes come from: the repository, and the mirrors that may answer for it."""
        return f"{self.repository}@{self.lenders}" if self.lenders else str(self.repository)

    def doubt_mirrors(self) -> bool:
        """Ask mirrors last for a while, since one may have sent wrong bytes; say whether that leaves another host."""
        mirrors = [session.host for session in self._sessions if not session.host.is_own]
        for mirror in mirrors:
            self._rota.rest(mirror, DOUBT_SECONDS)
        return 0 < len(mirrors) < len(self._sessions)

    def manifest(self, identifier: str, *, limit: int, expected: Digest | None = None) -> FetchedManifest:
        """Fetch a manifest or an index by tag or digest; at most `limit` bytes.

        Raises:
            UnobtainableError: it cannot be got.
            BadResponseError: the answer is too large, or is no answer of a registry.
            DigestMismatchError: the bytes do not have the `expected` digest.
        """
        return self._asked(
            lambda session: self._manifest(session, identifier, limit, expected), *_needed_for(identifier)
        )

    def _manifest(self, session: Session, identifier: str, limit: int, expected: Digest | None) -> FetchedManifest:
        subject = self.repository.at(identifier)
        with session.get("GET", f"/manifests/{identifier}", subject, _ACCEPT) as response:
            session.expect(response, subject, _OK)
            answers.refuse_encoded(response, subject)
            content = response.read(limit)
            media_type = response.header("Content-Type").partition(";")[0].strip().lower()
        digest = Digest.of(content) if expected is None else answers.digest_like(expected, content)
        if expected is not None and digest != expected:
            raise DigestMismatchError(subject, f"{session.host.name} sent a manifest with digest {digest}", "report it")
        if expected is None and not session.host.is_own:
            answers.refuse_other_than_json(content, subject, session.host.name)
        return FetchedManifest(content=content, digest=digest, media_type=media_type)

    def digest_hint(self, tag: str) -> Digest | None:
        """Ask what digest the registry says a tag has: a hint, good only to find what this credential may read.

        Raises:
            UnobtainableError: it cannot be got.
        """
        return self._asked(lambda session: self._digest_hint(session, tag), *_needed_for(tag))

    def _digest_hint(self, session: Session, tag: str) -> Digest | None:
        subject = self.repository.at(tag)
        with session.get("HEAD", f"/manifests/{tag}", subject, _ACCEPT) as response:
            if response.status == _NO_SUCH_METHOD:  # as containerd, we ask such a registry by GET
                return None
            session.expect(response, subject, _OK)
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
        stream = self._first(lambda session: self._open(session, blob, start, end), Capability.PULL)
        with stream:
            yield stream

    def _open(self, session: Session, blob: Descriptor, start: int, end: int | None) -> BlobStream:
        subject = self.repository.at(str(blob.digest))
        ranged = start > 0 or end is not None
        last = (blob.size if end is None else end) - 1
        headers = {"Range": f"bytes={start}-{last}"} if ranged else {}
        response = session.get("GET", f"/blobs/{blob.digest}", subject, headers)
        with ExitStack() as closing:
            closing.push(response)
            session.expect(response, subject, _OK, _PARTIAL, _RANGE_NOT_SATISFIABLE)
            if response.status == _RANGE_NOT_SATISFIABLE:
                raise SizeMismatchError(subject, f"has fewer than the {blob.size} bytes it should have", "report it")
            answers.refuse_encoded(response, subject)
            partial = response.status == _PARTIAL
            if partial:
                answers.check_range(response.header("Content-Range"), start, last, blob.size, subject)
            else:
                answers.check_length(response.header("Content-Length"), blob.size, subject)
            closing.pop_all()
        span = (start, last + 1) if partial else (0, blob.size)
        return BlobStream(response, span, partial=partial, broken=lambda: self._rota.rest(session.host))

    def small_blob(self, blob: Descriptor) -> bytes:
        """Fetch a blob whole; the caller has looked at its size.

        Raises:
            UnobtainableError: it cannot be got.
            DigestMismatchError, SizeMismatchError: it is not what `blob` says.
        """
        return retried(lambda: self._small_blob(blob), self._attempts)

    def _small_blob(self, blob: Descriptor) -> bytes:
        buffer = memoryview(bytearray(blob.size + 1))
        done = 0
        with self.blob(blob) as stream:
            while count := stream.readinto(buffer[done:]):
                done += count
        content = bytes(buffer[:done])
        if done != blob.size:
            cause = f"has {'more than ' if done > blob.size else ''}{min(done, blob.size)} bytes, not {blob.size}"
            raise SizeMismatchError(self.repository.at(str(blob.digest)), cause, "push it again, or report it")
        if (digest := answers.digest_like(blob.digest, content)) != blob.digest:
            raise DigestMismatchError(
                self.repository.at(str(blob.digest)), f"the registry sent bytes with digest {digest}", "report it"
            )
        return content

    def unsized_blob(self, digest: Digest, limit: int) -> bytes:
        """Fetch a blob whole of which only the digest is known; at most `limit` bytes.

        Raises:
            UnobtainableError: it cannot be got.
            BadResponseError: it is larger, or encoded.
            DigestMismatchError: it has another digest.
        """
        return self._asked(lambda session: self._unsized_blob(session, digest, limit), Capability.PULL)

    def _unsized_blob(self, session: Session, digest: Digest, limit: int) -> bytes:
        subject = self.repository.at(str(digest))
        with session.get("GET", f"/blobs/{digest}", subject, {}) as response:
            session.expect(response, subject, _OK)
            answers.refuse_encoded(response, subject)
            content = response.read(limit)
        if (found := answers.digest_like(digest, content)) != digest:
            raise DigestMismatchError(subject, f"{session.host.name} sent bytes with digest {found}", "report it")
        return content

    def pushes(self, chunk_bytes: int = CHUNK_BYTES) -> PushClient:
        """Return what pushes here: to one host, as containerd the first that may.

        Raises:
            ArtifactNotFoundError: there is none.
        """
        return PushClient(self.repository, self._able(Capability.PUSH)[0], self._attempts, chunk_bytes)

    def _asked(self, action: Callable[[Session], _Result], *needed: Capability) -> _Result:
        return retried(lambda: self._first(action, *needed), self._attempts)

    def _first(self, action: Callable[[Session], _Result], *needed: Capability) -> _Result:
        """Return the first good answer of the hosts that may be asked for what is needed."""
        return self._rota.ask(self._able(*needed), action)

    def _able(self, *needed: Capability) -> list[Session]:
        able = [session for session in self._sessions if session.host.can(*needed)]
        if not able:
            cause = f"the node's hosts.toml for it names no host that may {' and '.join(needed)}"
            raise ArtifactNotFoundError(str(self.repository), cause, "ask the cluster's administrator")
        return able

    def referrers(self, digest: Digest, artifact_type: str = "") -> list[Descriptor]:
        """List what refers to a manifest, of one artifact type or of all (distribution-spec, Listing Referrers).

        A registry without that interface keeps the list under a tag. A list without end is cut off.

        Raises:
            UnobtainableError: the list cannot be got.
            UnacceptableError: it is too large, or is no list of a registry.
        """
        found = self._asked(
            lambda session: self._referrers(session, digest, artifact_type), Capability.PULL, Capability.REFERRERS
        )
        if found is None:
            found = self._tagged_referrers(digest)
        return [entry for entry in found if artifact_type in ("", entry.artifact_type)]

    def _referrers(self, session: Session, digest: Digest, artifact_type: str) -> list[Descriptor] | None:
        subject = f"referrers of {self.repository.at(str(digest))}"
        query = f"?{urlencode({'artifactType': artifact_type})}" if artifact_type else ""
        found: list[Descriptor] = []
        for _ in range(referrers.MOST_PAGES):
            path = f"/referrers/{digest}{query}"
            with session.get("GET", path, subject, {"Accept": media_types.OCI_INDEX}) as response:
                if referrers.are_not_served(response):
                    return None
                session.expect(response, subject, _OK)
                answers.refuse_encoded(response, subject)
                found += referrers.entries(response.read(referrers.LARGEST_PAGE), subject)
                query = pages.next_query(response, subject)
            if not query:
                break
        return found

    def tags(self) -> TagList:
        """List the tags of the repository, in pages that bring something new (distribution-spec, Listing Tags).

        Raises:
            UnobtainableError: the list cannot be got.
            UnacceptableError: it is too large, or is no list of a registry.
        """
        return self._asked(lambda session: lists.read(session, f"tags of {self.repository}"), *_needed_for("tag"))

    def _tagged_referrers(self, digest: Digest) -> list[Descriptor]:
        tag = referrers.tag_of(digest)
        try:
            return referrers.entries(self.manifest(tag, limit=referrers.LARGEST_PAGE).content, self.repository.at(tag))
        except ArtifactNotFoundError:
            return []


def _needed_for(identifier: str) -> tuple[Capability, ...]:
    """Say what a host must be trusted with: only some are to tell what a tag means."""
    return (Capability.PULL,) if ":" in identifier else (Capability.PULL, Capability.RESOLVE)
