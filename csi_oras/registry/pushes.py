"""Pushes to a repository with one credential (distribution-spec 1.1, Push).

All of it goes to one host, and what a tag means before it is moved is asked of that host, too: another one, such as a
mirror, may still know what it meant before. Whatever may pass is tried again here.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

from csi_oras.errors import (
    AccessDeniedError,
    ArtifactNotFoundError,
    BadResponseError,
    PushRefusedError,
    RegistryUnavailableError,
    UnacceptableError,
    UnauthenticatedError,
)
from csi_oras.oci import media_types
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.reference import Repository
from csi_oras.registry import answers, referrers
from csi_oras.registry.failures import LARGEST_ERROR
from csi_oras.registry.retries import retried
from csi_oras.registry.session import Session
from csi_oras.registry.sources import Source
from csi_oras.registry.upload_session import PUSH, UploadSession
from csi_oras.registry.uploads import Upload
from csi_oras.telemetry.progress import Counter

_OK, _CREATED = 200, 201
_BAD_REQUEST, _NOT_FOUND, _NO_SUCH_METHOD, _SERVER_FAILED, _NOT_IMPLEMENTED = 400, 404, 405, 500, 501
_ACCEPT: Mapping[str, str] = {"Accept": ", ".join(media_types.ACCEPTED)}
_LARGEST_MANIFEST = 8 << 20
"""Twice what registries must take (distribution-spec, Pushing Manifests)."""
_NOT_MOUNTED = (UnauthenticatedError, AccessDeniedError, ArtifactNotFoundError, BadResponseError, PushRefusedError)
"""What registries answer to who may not read the other repository; an upload has to be allowed for itself."""

_ROUNDS = 5
"""Writes of a list of referrers, where somebody else's are put over it."""

_Result = TypeVar("_Result")


class PushClient:
    """One repository at the host that takes its pushes."""

    def __init__(self, repository: Repository, session: Session, attempts: int, chunk_bytes: int) -> None:
        self.repository = repository
        self._session = session
        self._attempts = attempts
        self._chunk_bytes = chunk_bytes

    def may_push(self) -> None:
        """Find out whether this credential may push here, by opening an upload and cancelling it.

        Raises:
            UnauthenticatedError, AccessDeniedError: it may not.
            UnobtainableError: the registry does not say, or has no such repository and makes none.
            BadResponseError: uploads are to be sent to another origin.
        """
        self._tried(lambda: UploadSession.open(self._session, str(self.repository))).cancel()

    def has_blob(self, digest: Digest) -> bool:
        """Say whether the repository has a blob, before it is uploaded for nothing.

        A registry that was killed may have a torn record of it, for which it fails until the blob is uploaded again
        (distribution/distribution 2.8 and its links).

        Raises:
            UnobtainableError: the registry does not say.
        """
        try:
            return self._tried(lambda: self._has_blob(digest))
        except RegistryUnavailableError as error:
            if error.status != _SERVER_FAILED:
                raise
            return False

    def _has_blob(self, digest: Digest) -> bool:
        subject = self.repository.at(str(digest))
        with self._session.get("HEAD", f"/blobs/{digest}", subject, {}, actions=PUSH) as response:
            response.read(0)
            if response.status == _NOT_FOUND:
                return False
            self._session.expect(response, subject, _OK)
            return True

    def upload(
        self, blob: Descriptor, source: Source, counter: Counter | None = None, mount_from: Repository | None = None
    ) -> bool:
        """Upload `blob`, or mount it from a repository that may have it; say whether its bytes had to be sent.

        Raises:
            UnobtainableError: the registry does not take it.
            BadResponseError: the upload is to be sent to another origin.
            DigestMismatchError: the registry says that it has taken something else.
            ContentChangedError: the source has other bytes than `blob` says.
        """
        subject = self.repository.at(str(blob.digest))
        counter = counter or Counter(blob.size)
        session = None
        if mount_from and mount_from.registry == self.repository.registry:
            is_mounted, session = self._mount(blob.digest, mount_from, subject)
            if is_mounted:
                counter.finish()
                return False
        upload = Upload(
            self._session,
            subject,
            blob,
            source,
            counter=counter,
            chunk_bytes=self._chunk_bytes,
            attempts=self._attempts,
        )
        upload.send(session, lambda: self._has_blob(blob.digest))
        return True

    def _mount(self, digest: Digest, source: Repository, subject: str) -> tuple[bool, UploadSession | None]:
        """Say whether a blob was mounted; if not, the registry may have opened an upload instead."""
        try:
            session = self._tried(lambda: UploadSession.mount(self._session, subject, digest, source))
        except _NOT_MOUNTED:
            return False, None
        return session is None, session

    def put_manifest(self, identifier: str, content: bytes, media_type: str) -> Digest:
        """Put a manifest under a tag or its digest, and return its digest.

        Raises:
            UnobtainableError: the registry does not take it.
            DigestMismatchError: the registry says that it has taken something else.
        """
        self._tried(lambda: self._put_manifest(identifier, content, media_type))
        return Digest.of(content)

    def _put_manifest(self, identifier: str, content: bytes, media_type: str) -> str:
        """Put a manifest, and return the subject that the registry says it has seen to."""
        subject, digest = self.repository.at(identifier), Digest.of(content)
        headers = {"Content-Type": media_type, "Content-Length": str(len(content))}
        url = self._session.url(f"/manifests/{identifier}")
        with self._session.send("PUT", url, headers, PUSH, content) as response:
            self._session.expect(response, subject, _CREATED)
            answers.check_digest(response.header("Docker-Content-Digest"), digest, subject)
            response.read(LARGEST_ERROR)
            return response.header("OCI-Subject")

    def put_referrer(self, content: bytes, entry: Descriptor, referred: Digest) -> None:
        """Put a manifest by digest that refers to another, and list it where the registry does not do that itself.

        Such a list is an index under a tag (distribution-spec, Pushing Manifests with Subject), which nobody locks:
        it is read again after it was written, and written again if somebody's who wrote at that moment is there.

        Raises:
            UnobtainableError: the registry does not take it, or does not say what refers to a manifest.
            UnacceptableError: what is under that tag is no list, or the registry does not behave.
        """
        answered = self._tried(lambda: self._put_manifest(str(entry.digest), content, entry.media_type))
        if answered == str(referred) or self._tried(lambda: self._lists_referrers(referred)):
            return
        tag = referrers.tag_of(referred)
        for _ in range(_ROUNDS):
            changed = self._tried(lambda: referrers.with_entry(self._list(tag), entry, self.repository.at(tag)))
            if changed is None:
                return
            self.put_manifest(tag, changed, media_types.OCI_INDEX)
        raise PushRefusedError(self.repository.at(tag), "is written by others again and again", "try again")

    def _lists_referrers(self, referred: Digest) -> bool:
        """Ask a registry that did not say so whether it lists them itself."""
        subject, accept = f"referrers of {self.repository.at(str(referred))}", {"Accept": media_types.OCI_INDEX}
        with self._session.get("GET", f"/referrers/{referred}", subject, accept, actions=PUSH) as response:
            if referrers.are_not_served(response):
                return False
            self._session.expect(response, subject, _OK)
            return True

    def _list(self, tag: str) -> bytes | None:
        subject, accept = self.repository.at(tag), {"Accept": media_types.OCI_INDEX}
        with self._session.get("GET", f"/manifests/{tag}", subject, accept, actions=PUSH) as response:
            if response.status == _NOT_FOUND:
                return None
            self._session.expect(response, subject, _OK)
            answers.refuse_encoded(response, subject)
            return response.read(referrers.LARGEST_PAGE)

    def tag_digest(self, tag: str) -> Digest | None:
        """Ask what a tag means now; None where there is no such tag.

        Raises:
            UnobtainableError: the registry does not say.
            BadResponseError: the answer is none of a registry.
        """
        return self._tried(lambda: self._tag_digest(tag))

    def _tag_digest(self, tag: str) -> Digest | None:
        subject = self.repository.at(tag)
        with self._session.get("HEAD", f"/manifests/{tag}", subject, _ACCEPT, actions=PUSH) as response:
            if response.status == _NOT_FOUND:
                return None
            if response.status not in (_BAD_REQUEST, _NO_SUCH_METHOD, _NOT_IMPLEMENTED):
                self._session.expect(response, subject, _OK)
            response.read(0)
            try:
                return Digest.parse(response.header("Docker-Content-Digest"))
            except UnacceptableError:
                return self._digest_by_get(tag, subject)

    def _digest_by_get(self, tag: str, subject: str) -> Digest | None:
        with self._session.get("GET", f"/manifests/{tag}", subject, _ACCEPT, actions=PUSH) as response:
            if response.status == _NOT_FOUND:
                return None
            self._session.expect(response, subject, _OK)
            answers.refuse_encoded(response, subject)
            return Digest.of(response.read(_LARGEST_MANIFEST))

    def move_tag(self, tag: str, content: bytes, media_type: str, expected: Digest | None) -> bool:
        """Put a manifest under a tag that still means what is `expected` (None: nothing), and say whether it did.

        A tag that means this very manifest is moved already. Registries know no conditional PUT: distribution-spec
        speaks of ETags for lists of referrers alone, and that a client may try them. So nobody sees who moves the
        tag between our look and our PUT; whoever calls this has those of his own process take turns for a tag.

        Raises:
            UnobtainableError, BadResponseError, DigestMismatchError: as for `tag_digest` and `put_manifest`.
        """
        found = self.tag_digest(tag)
        if found == Digest.of(content):
            return True
        if found != expected:
            return False
        self.put_manifest(tag, content, media_type)
        return True

    def _tried(self, action: Callable[[], _Result]) -> _Result:
        return retried(action, self._attempts)
