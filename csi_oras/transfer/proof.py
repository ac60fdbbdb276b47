"""Proofs of access: a blob that is here through another repository or credential is shown only after a real read.

A HEAD proves nothing, since any registry can fake one. Some bytes at a random place are proof enough where this very
registry has served the blob before: it is not the asker's to fake. Any other registry has to show every byte, for
whoever runs it may know most of a file, or guess that the place holds zeros. Of a blob that is only coming, from the
asker's own repository, some bytes are enough, and nothing is compared: its bytes are that repository's, so that whoever
could fake the answer has them, and none of them is proven yet, so that a difference would not tell which are wrong.
"""

import os
import secrets
from collections.abc import Callable

from csi_oras.errors import AccessDeniedError, DigestMismatchError
from csi_oras.oci.descriptor import Descriptor
from csi_oras.registry.answers import BlobStream
from csi_oras.registry.client import RepositoryClient
from csi_oras.registry.retries import retried
from csi_oras.store.content import ContentStore

_WINDOW_BYTES = 4096
_BUFFER_BYTES = 256 << 10


def prove(
    client: RepositoryClient, blob: Descriptor, content: ContentStore, ask: Callable[[int], int], *, in_full: bool
) -> None:
    """Read `blob` with the client's own credential, all of it or some, and compare it with the store's.

    `ask` says how many bytes may be read next.

    Raises:
        UnobtainableError: the registry does not let it be read.
        DigestMismatchError: the repository has something else under that digest.
    """
    if in_full:
        retried(lambda: _read_all(client, blob, ask))
    elif blob.size:
        retried(lambda: _compare(client, blob, content, ask))


def read_some(client: RepositoryClient, blob: Descriptor, ask: Callable[[int], int]) -> None:
    """Read the first bytes of `blob` with the client's own credential; `ask` says how many may be read next.

    Raises:
        UnobtainableError: the registry does not let it be read.
    """
    length = min(_WINDOW_BYTES, blob.size)

    def read() -> None:
        with client.blob(blob, 0, length) as stream:
            _skip(stream, length, ask)

    if length:
        retried(read)


def _read_all(client: RepositoryClient, blob: Descriptor, ask: Callable[[int], int]) -> None:
    hasher, buffer, left = blob.digest.hasher(), memoryview(bytearray(_BUFFER_BYTES)), blob.size
    with client.blob(blob) as stream:
        while left:
            count = _some(stream, buffer[: ask(min(_BUFFER_BYTES, left))])
            hasher.update(buffer[:count])
            left -= count
    if hasher.hexdigest() != blob.digest.encoded:
        raise _other_bytes(blob)


def _other_bytes(blob: Descriptor) -> DigestMismatchError:
    return DigestMismatchError(f"blob {blob.digest}", "the repository has other bytes under this digest", "report it")


def _compare(client: RepositoryClient, blob: Descriptor, content: ContentStore, ask: Callable[[int], int]) -> None:
    length = min(_WINDOW_BYTES, blob.size)
    start = secrets.randbelow(blob.size - length + 1)
    with client.blob(blob, start, start + length) as stream:
        if not stream.partial:
            _skip(stream, start, ask)
        theirs = _read(stream, length)
    with content.open(blob.digest) as file:
        ours = os.pread(file.fileno(), length, start)
    if theirs != ours:
        raise _other_bytes(blob)


def _skip(stream: BlobStream, count: int, ask: Callable[[int], int]) -> None:
    buffer = memoryview(bytearray(64 << 10))
    while count:
        count -= _some(stream, buffer[: ask(min(len(buffer), count))])


def _read(stream: BlobStream, count: int) -> bytes:
    buffer = memoryview(bytearray(count))
    done = 0
    while done < count:
        done += _some(stream, buffer[done:])
    return bytes(buffer)


def _some(stream: BlobStream, buffer: memoryview) -> int:
    count = stream.readinto(buffer)
    if not count:
        raise AccessDeniedError("blob", "the registry does not show its bytes", "ask for access")
    return count
