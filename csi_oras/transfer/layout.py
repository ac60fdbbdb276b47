"""Layout: from a plan whose blobs are all here to the tree that shows it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest

from csi_oras.errors import HostileContentError, InvalidRequestError, LimitExceededError, UnacceptableError, printable
from csi_oras.oci.name import METADATA, Name
from csi_oras.oci.plan import Plan, PlanArchive, PlanEntry
from csi_oras.oci.view import ConflictError, File, Link, View
from csi_oras.store.catalogue import LaidOut
from csi_oras.store.content import ContentStore
from csi_oras.store.objects import ObjectBatch, ObjectStore
from csi_oras.store.trees import TreeStore
from csi_oras.telemetry.progress import Progress, human_size
from csi_oras.unpack.extract import Extractor
from csi_oras.unpack.needed import needed
from csi_oras.unpack.reader import Source, UnpackLimits

_BLOB_MODE = 0o444


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactLimits:
    """Bytes and files of one artifact, packed and unpacked, and the ratio between the two; 0 bytes means no limit."""

    artifact_bytes: int
    files: int
    unpack_ratio: int

    def check(self, plan: Plan, subject: str) -> None:
        """Let `plan` pass.

        Raises:
            LimitExceededError: it is larger than node policy allows.
        """
        if len(plan.entries) > self.files:
            raise LimitExceededError(
                subject,
                f"has {len(plan.entries)} files, node policy allows {self.files}",
                "select fewer with include",
            )
        if self.artifact_bytes and plan.size > self.artifact_bytes:
            raise LimitExceededError(
                subject,
                f"has {human_size(plan.size)}, node policy allows {human_size(self.artifact_bytes)}",
                "select less with include",
            )


class Layouter:
    """Makes trees of plans."""

    def __init__(
        self, content: ContentStore, objects: ObjectStore, trees: TreeStore, limits: Callable[[], ArtifactLimits]
    ) -> None:
        self._content = content
        self._objects = objects
        self._trees = trees
        self._limits = limits

    def lay_out(self, plan: Plan, progress: Progress, subject: str) -> LaidOut:
        """Make the tree of `plan`, and say what it shows.

        Raises:
            UnacceptableError: an archive is not what it should be.
            InvalidRequestError: nothing of an archive is selected, or `path` names no directory and no file.
            NoSpaceError, StoreBrokenError: the store cannot take it, or an archive has rotted in it.
        """
        with self._objects.batch() as batch:
            try:
                view = self._unpacked(plan, batch, progress, subject)
            except UnacceptableError:
                for archive in plan.archives:  # or is it our disk that has changed one?
                    self._content.check(archive.blob)
                raise
            single = plan.single or view.is_file
            if plan.archives:
                _check_selected(plan, view, subject)
            for entry in plan.entries:
                self._add(view, entry, batch, subject)
            if plan.archives:
                _check_whole(plan, view, subject, single=single)
            with batch.committed():
                self._trees.lay_out(plan.digest, view)
        name = next(iter(view.root.children)) if single else ""
        return LaidOut(plan=plan.digest, size=view.size, files=view.files, single=name)

    def _unpacked(self, plan: Plan, batch: ObjectBatch, progress: Progress, subject: str) -> View:
        limits = self._limits()
        caps = UnpackLimits(members=limits.files, size=limits.artifact_bytes, ratio=limits.unpack_ratio)
        sources = [self._source(archive, subject) for archive in plan.archives]
        if sources and plan.selection.narrows:
            progress.activity = "looking for what hard links mean"
        extractor = Extractor(plan.selection, batch, caps, needed(sources, plan.selection, caps))
        for number, source in enumerate(sources, 1):
            progress.activity = f"unpacking archive {number} of {len(sources)}"
            extractor.extract(source)
        if path := plan.selection.path:
            _refuse_links(path, extractor, subject)
            return extractor.view.rooted(path)
        return extractor.view

    def _source(self, archive: PlanArchive, subject: str) -> Source:
        blob = archive.blob.digest
        where = f"{subject}, layer {archive.layer} ({blob.short})"
        return Source(archive=archive, open_blob=partial(self._content.open, blob), subject=where)

    def _add(self, view: View, entry: PlanEntry, batch: ObjectBatch, subject: str) -> None:
        blob = entry.blob
        if entry.mode == _BLOB_MODE:
            file = File(blob.digest, blob.size, entry.mode, is_blob=True)
        else:  # a blob is 0444 for everybody who shares it
            file = batch.add_blob(blob, entry.mode)
        try:
            view.add(entry.name, file)
        except ConflictError as error:
            raise HostileContentError(
                f"{subject}, layer {entry.layer} ({printable(str(entry.name), 80)})",
                str(error),
                "push the artifact again under distinct names",
            ) from None


def _check_selected(plan: Plan, view: View, subject: str) -> None:
    """See to it that the archives leave room for what is the artifact's own, and leave anything at all."""
    if plan.selection.metadata and METADATA in view.root.children:
        raise HostileContentError(subject, f"brings a {METADATA} of its own, and metadata is asked for")
    files = [entry for entry in plan.entries if entry.name.components[0] != METADATA]
    if plan.selection.narrows and not view.root.children and not files:
        raise InvalidRequestError(
            subject, "path, include and exclude leave nothing of it", "compare with: csi-oras inspect"
        )


def _check_whole(plan: Plan, view: View, subject: str, *, single: bool) -> None:
    if pair := view.look_alikes():
        one, other = _told_apart(pair)
        raise HostileContentError(subject, f"{one} and {other} look the same", "push it again under distinct names")
    if single and plan.selection.metadata:
        raise InvalidRequestError(subject, "metadata needs a directory, and path names a file", "leave one of them out")
    if single and len(view.root.children) > 1:
        cause = "what path names is a file of an archive and a directory of other layers"
        raise HostileContentError(subject, cause, "push the artifact again under distinct names")


def _refuse_links(path: Name, extractor: Extractor, subject: str) -> None:
    """See to it that `path` is no symbolic link and leads over none; links are never followed by us."""
    for name in (*path.parents, path):
        if isinstance(node := extractor.find(name), Link):
            link, target = (printable(text, 80) for text in (str(name), node.written))
            cause = f'path leads over "{link}", which is a symbolic link to "{target}"'
            raise InvalidRequestError(subject, cause, "name what it points to")


def _told_apart(names: tuple[Name, Name]) -> list[str]:
    """Return what a person can see to differ: everything but ASCII escaped, from shortly before the difference."""
    texts = [str(name).encode("unicode_escape").decode() for name in names]
    same = next(place for place, pair in enumerate(zip_longest(*texts)) if len(set(pair)) > 1)
    start = max(same - 40, 0)
    return [f'"{"…" if start else ""}{printable(text[start:], 80)}"' for text in texts]
