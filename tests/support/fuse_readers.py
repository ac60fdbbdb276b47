"""Processes that read lazy volumes: they would take ours with them if they hung."""

import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support import fuse_reading

_ROOT = Path(__file__).parents[2]
_READ = """
import select, sys
from pathlib import Path
from tests.support import fuse_reading
kind, path, truth = sys.argv[1:]
content = Path(truth).read_bytes()
while not select.select([sys.stdin], [], [], 0.02)[0]:
    for _ in fuse_reading._WAYS[kind](path, content):
        pass
    print(kind, flush=True)
"""


class Readers:
    """Read files in every way, again and again, until the with statement ends, and hold each byte against the truth."""

    def __init__(self, files: Mapping[Path, Path]) -> None:
        """Read `files`: the truth, by path."""
        self._ways = [(kind, str(path), str(truth)) for path, truth in files.items() for kind in fuse_reading.KINDS]
        self.failures: list[str] = []
        self.passes = 0

    def __enter__(self) -> Self:
        pipe = subprocess.PIPE
        self._processes = [
            subprocess.Popen([sys.executable, "-c", _READ, *way], cwd=_ROOT, stdin=pipe, stdout=pipe, stderr=pipe)
            for way in self._ways
        ]
        self._threads = [threading.Thread(target=self._count, args=(process,)) for process in self._processes]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            assert process.stdin
            process.stdin.close()
        for process, thread, way in zip(self._processes, self._threads, self._ways, strict=True):
            try:
                process.wait(90)
            except subprocess.TimeoutExpired:
                self.failures.append(f"{way} hangs")
                process.kill()
            thread.join()

    def _count(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout
        assert process.stderr
        with process.stdout, process.stderr:
            for _ in process.stdout:
                self.passes += 1
            if said := process.stderr.read():
                self.failures.append(said.decode()[-300:])
