"""`index`: a chunk index for an artifact that was pushed without one."""

import json
from dataclasses import dataclass
from typing import Any

import click
from rich.filesize import decimal

from csi_oras.app import Application
from csi_oras.cli.artifacts import client_of, pull_held, request_of
from csi_oras.cli.bars import bars
from csi_oras.cli.options import REFERENCE, application, registry_options, reports_errors, store_options
from csi_oras.errors import StoreBrokenError
from csi_oras.oci.chunk_index import CHUNK_BYTES, ChunkIndex, indexed
from csi_oras.oci.descriptor import Descriptor
from csi_oras.telemetry.progress import Progress
from csi_oras.transfer.index_push import push_index
from csi_oras.transfer.indexing import Indexer
from csi_oras.transfer.request import Planned, PullRequest

_EVERYTHING = {"include": "", "exclude": "", "media_types": "", "path": "", "unpack": "never"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """What came of it: no index, where nothing is large."""

    index: ChunkIndex | None
    is_new: bool = False
    fetched: int = 0


@click.command(short_help="Make a chunk index for an artifact without one.")
@click.argument("reference", type=REFERENCE, metavar="REF")
@click.option("--platform", default="", help="os/arch[/variant] of an index; the node's own by default.")
@registry_options
@store_options
@reports_errors
def index(reference: str, as_json: bool, **options: Any) -> None:  # noqa: FBT001 (click's call)
    """Make a chunk index for an artifact that was pushed without one, and push it beside it as a referrer.

    By it, a lazy volume proves each piece of a file before it shows it. All of the artifact is pulled for that, as far
    as it is not here; what `csi-oras push` made has an index already.
    """
    with application(options) as app:
        request = request_of(app, reference, {**options, **_EVERYTHING})
        planned = app.puller.plan(request)
        outcome = _index(app, request, planned)
    pinned = planned.artifact.reference.pinned(planned.artifact.root)
    made = outcome.index
    document = {
        "reference": str(pinned),
        "digest": str(planned.artifact.digest),
        "index": str(made.descriptor.digest) if made else None,
        "blobs": len(made.blobs) if made else 0,
        "chunks": made.chunks if made else 0,
        "fetchedBytes": outcome.fetched,
    }
    click.echo(json.dumps(document) if as_json else f"{pinned}\n{_said(outcome)}")


def _index(app: Application, request: PullRequest, planned: Planned) -> _Outcome:
    """Return the index that there is, or see to it that there is one.

    Raises:
        UnauthenticatedError, AccessDeniedError: this credential may not push there.
        UnobtainableError, UnacceptableError: as for a pull and a push.
    """
    manifest, digest = planned.artifact.manifest, planned.artifact.digest
    shown = {entry.blob.digest for entry in planned.plan.entries}
    blobs = [blob for blob in indexed(manifest.layers) if blob.digest in shown]
    if not blobs:
        return _Outcome(index=None)
    client = client_of(app, request)
    found = app.chunk_indexes.published(client, manifest, digest)
    if found and all(found.index.find(blob) for blob in blobs):
        return _Outcome(index=found.index)
    client.pushes().may_push()
    made, fetched = _make(app, request, blobs)
    push_index(
        client.pushes(), made, Descriptor(media_type=manifest.media_type, digest=digest, size=planned.artifact.size)
    )
    return _Outcome(index=made, is_new=True, fetched=fetched)


def _make(app: Application, request: PullRequest, blobs: list[Descriptor]) -> tuple[ChunkIndex, int]:
    indexer, progress, fetched = Indexer(app.content, app.own_indexes), Progress(), 0
    with app.leases.of_pull() as lease:
        if indexer.lacks(blobs):
            fetched = pull_held(app, request, lease).fetched
            lease.add(blob.digest for blob in blobs)
        with bars(progress, f"indexing {request.reference}"):
            made = indexer.make(blobs, progress)
    if made is None:
        raise StoreBrokenError(str(request.reference), "has changed while it was indexed", "try it again")
    return made, fetched


def _said(outcome: _Outcome) -> str:
    if outcome.index is None:
        return f"nothing in it is larger than {decimal(CHUNK_BYTES)}: it needs no chunk index"
    made, count = outcome.index, len(outcome.index.blobs)
    what = f"chunk index {made.descriptor.digest}: {made.chunks} chunks of {count} blob{'s' if count != 1 else ''}"
    return f"{what} ({decimal(outcome.fetched)} fetched)" if outcome.is_new else f"{what}, which was there already"
