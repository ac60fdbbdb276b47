"""The scene: what every chapter of the tour has at hand, and what it must not pass over in silence."""

import errno
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path

from csi_oras.demo.guide import Guide
from csi_oras.demo.kubelet import Kubelet, RefusedError, Volume
from csi_oras.demo.publisher import Publisher
from csi_oras.demo.stage import Stage
from csi_oras.mount import mountinfo

_FLAGS = ("ro", "nosuid", "nodev")


class SurpriseError(Exception):
    """Something did not happen as the tour tells it: a bug, and no story goes over it."""


@dataclass(slots=True, kw_only=True)
class Scene:
    """The parts, and the volumes that are mounted until the last chapter."""

    stage: Stage
    guide: Guide
    kubelet: Kubelet
    publisher: Publisher
    mounted: list[Volume] = field(default_factory=list)

    def reference(self, name: str, tag: str = "v1") -> str:
        """Return the reference of an artifact of the tour's registry."""
        return f"{self.stage.registry.address}/demo/{name}:{tag}"

    def push(self, reference: str, files: dict[str, bytes]) -> str:
        """Push an artifact, tell of it, and return its digest."""
        self.guide.action(f"oras-py: push {reference} {' '.join(files)}")
        digest = self.publisher.push(reference, files)
        self.guide.result(digest)
        return digest

    def read(self, volume: Volume, name: str) -> str:
        """Read a file as the pod does, and show it."""
        self.guide.action(f"read {name}")
        text = (volume.target / name).read_text()
        self.guide.result(*text.splitlines())
        return text

    def refuse_to_write(self, volume: Volume, name: str) -> None:
        """Try to write, as root, and show the answer."""
        self.guide.action(f"open {name} for writing, as root")
        try:
            with (volume.target / name).open("a"):
                pass
        except OSError as error:
            expect(error.errno == errno.EROFS, f"the write was refused with {error}")
            self.guide.result(f"EROFS: {error.strerror}")
        else:
            raise SurpriseError("the write was not refused")

    def show_mount(self, volume: Volume) -> None:
        """Show what the kernel says of a volume's mount."""
        found = [mount for mount in mountinfo.read() if mount.target == str(volume.target)]
        expect(len(found) == 1, f"there are {len(found)} mounts at {volume.target}")
        options = found[0].options
        expect(options >= set(_FLAGS), f"the mount's flags are {sorted(options)}")
        flags = [*_FLAGS, *sorted(options.difference(_FLAGS))]
        self.guide.action(f"look for {volume.name}/mount in /proc/self/mountinfo")
        self.guide.result(f"1 mount: {','.join(flags)}, of {_last_parts(found[0].root, 2)}")

    def refused(self, call: Callable[[], object], code: str, volume: str) -> RefusedError:
        """Make a call that must fail with `code`, and show the event that the pod gets."""
        try:
            call()
        except RefusedError as error:
            expect(error.code == code, f"expected {code}, and the answer was: {error}")
            self.guide.event(error.event(volume))
            return error
        raise SurpriseError(f"expected {code}, and the call was answered with OK")

    def forget(self, volume: Volume) -> None:
        """Remove a refused volume's directory, as the kubelet does; the driver must have left it empty."""
        with suppress(FileNotFoundError):
            volume.target.parent.rmdir()

    def fetch(self, path: str) -> str:
        """Get a page of the driver's metrics server."""
        connection = HTTPConnection("127.0.0.1", self.stage.metrics_port, timeout=10)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()


def expect(truth: bool, surprise: str) -> None:  # noqa: FBT001 (an assertion's argument)
    """Stop the tour where something is not as it tells.

    Raises:
        SurpriseError: it is not.
    """
    if not truth:
        raise SurpriseError(surprise)


def _last_parts(path: str, count: int) -> str:
    return "/".join(Path(path).parts[-count:])
