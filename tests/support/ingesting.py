"""Another process that works on an ingest, to be waited for or to be killed."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from csi_oras.oci.descriptor import Descriptor

_PROGRAM = """
import sys
from pathlib import Path
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.store.paths import StatePaths
from tests.support.stores import content_store

root, digest, size, data = sys.argv[1:]
blob = Descriptor(media_type="application/octet-stream", digest=Digest.parse(digest), size=int(size))
content = content_store(StatePaths.create(Path(root)))
ingest = content.ingest(blob)
ingest.write(memoryview(data.encode()), 0)
ingest.keep(0, len(data))
print("ready", flush=True)
if sys.stdin.readline() == "commit\\n":
    content.commit(ingest, blob.digest)
"""


class OtherProcess:
    """A process that holds an ingest; it commits when told so."""

    def __init__(self, process: "subprocess.Popen[str]", commands: IO[str]) -> None:
        self._process = process
        self._commands = commands

    def commit(self) -> None:
        """Let it commit, and wait until it ended."""
        self._commands.write("commit\n")
        self._commands.flush()
        assert self._process.wait(30) == 0

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._process.wait(30)


@contextmanager
def other_process(root: Path, blob: Descriptor, data: bytes) -> Iterator[OtherProcess]:
    """Run a process that has opened the ingest of `blob` below the state directory `root` and put `data` into it."""
    command = [sys.executable, "-c", _PROGRAM, str(root), str(blob.digest), str(blob.size), data.decode()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield OtherProcess(process, process.stdin)
        finally:
            process.kill()
