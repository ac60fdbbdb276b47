"""Lazy volumes: mounts that are there before their bytes are, and what is held so that they live on without us.

Driver and mounter both hold the descriptor of each connection. A driver that starts takes them from the mounter; a
mounter that starts gets them from the driver, and begins the processes again; readers wait meanwhile. All volumes of a
tree are mounts of one file system. It is ended while the last of them still stands, for it might live on in a mount
namespace that we do not see.
"""

import errno
import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from csi_oras import kernel
from csi_oras.errors import CsiOrasError, StoreBrokenError
from csi_oras.lazy.server import LazyServer
from csi_oras.lazy.trees import LazyTrees, Listener
from csi_oras.mount import fuse
from csi_oras.mount.bind import unbind
from csi_oras.mount.target import Target
from csi_oras.mounter.client import Mounter
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.registry.credentials import Credential
from csi_oras.telemetry.logs import logger
from csi_oras.transfer.request import LazyArtifact
from csi_oras.volume.locks import KeyedLocks

_START_SECONDS = 20.0
"""How long a publish waits for a start to find what was mounted before."""
_AGAIN_SECONDS = 3.0
"""How soon a start that fails, for want of room say, is tried again."""
_Result = TypeVar("_Result")


class LazyVolumes:
    """The lazy volumes of this node."""

    def __init__(self, trees: LazyTrees, server: LazyServer, connect: Callable[[], Mounter]) -> None:
        """`connect` returns the mounter, which it starts if need be."""
        self._trees = trees
        self._server = server
        self._connect = connect
        self._locks = KeyedLocks()
        self._devices: dict[str, int] = {}
        self._has_started = threading.Event()
        self._is_hindered = False
        """Whether a start has failed so far."""
        self._is_missed = False
        self._has_met = False
        """Whether it is known what the mounter holds, as it is from then on."""

    def listen(self, listener: Listener) -> None:
        """Tell `listener` of blobs that are found to be wrong when pods have read some of them."""
        self._trees.listen(listener)

    def hindrance(self) -> str:
        """Return why no volume can be lazy on this node, or nothing."""
        try:
            self._wait_until_met()
            os.close(fuse.open_device())
            self._connect().processes()  # it answers, and not only its socket
        except CsiOrasError as error:
            return error.message
        return ""

    def attach(self, artifact: LazyArtifact, credential: Credential | None, target: Target, *, noexec: bool) -> None:
        """Show an artifact at `target` whose bytes come when they are read; `credential` is what the volume brought.

        Raises:
            NoSpaceError, StoreBrokenError: the store, the mounter or the mount fails; nothing is left of it.
        """
        name = artifact.tree
        with self._locks.hold(name):
            self._trees.open(artifact, credential)
            try:
                detached = self._mount(name, noexec=noexec)
                try:
                    single = artifact.plan.entries[0].name if artifact.plan.single else None
                    fuse.attach(detached, target, str(single or ""))
                finally:
                    os.close(detached)
            except BaseException:
                self._end_unless_shown(name)
                raise

    def renew(self, target: Target, credential: Credential | None) -> bool:
        """Read a volume by the credential that it brings now, and say whether it is alive.

        Raises:
            NoSpaceError, StoreBrokenError: the store fails, or nobody knows yet what the mounter holds.
        """
        artifact = self.artifact_at(target)
        if artifact is None:
            return False
        with self._locks.hold(artifact.tree):
            self._trees.open(artifact, credential)
        return True

    def is_at(self, target: Target) -> bool:
        """Say whether a lazy volume is mounted at `target`, dead or alive."""
        return fuse.mounted_at(target) is not None

    def artifact_at(self, target: Target) -> LazyArtifact | None:
        """Return what is shown at `target` by a lazy volume that is alive.

        Raises:
            StoreBrokenError: nobody knows yet what the mounter holds.
        """
        mount = fuse.mounted_at(target)
        if mount is None:
            return None
        self._wait_until_met()
        with self._locks.hold(mount.tree):
            device, tree = self._devices.get(mount.tree), self._trees.find(mount.tree)
            return tree.artifact if tree and device is not None and fuse.shows(device, mount) else None

    def detach(self, target: Target) -> None:
        """Take a lazy volume away, and its tree if it was the last; nobody is asked who might not answer.

        Raises:
            VolumeBusyError: it cannot be unmounted.
        """
        here = fuse.mounted_at(target)
        if here is None:
            return
        with self._locks.hold(here.tree):
            standing = [mount for mount in fuse.mounts() if mount.tree == here.tree]
            is_last = all(mount.target == here.target for mount in standing)
            if is_last:
                self._drop(here.tree)
                for minor in {mount.minor for mount in standing}:
                    fuse.abort(minor)
            unbind(target)
            if is_last:
                self._forget(here.tree)

    def start(self) -> None:
        """Serve on what was mounted before, and forget what is not mounted any more."""
        ours = self._insist(self._trees.kept.names)
        self._insist(self._trees.load)
        self._insist(self._server.start)
        if self._is_hindered:
            logger.info("lazy volumes are served again")
        mounted = ours & {mount.tree for mount in fuse.mounts()}
        for tree in self._trees.all():
            if tree.artifact.tree not in mounted:
                self._end_unless_shown(tree.artifact.tree)
        if mounted:
            self._meet_at_last()
        self._has_met = self._has_met or not mounted
        self._has_started.set()

    def _insist(self, action: Callable[[], _Result]) -> _Result:
        """Do what may fail until it works: pods read what is mounted, whatever the store is short of now."""
        while True:
            try:
                return action()
            except CsiOrasError as error:
                if not self._is_hindered:  # one line until it works
                    logger.error("lazy volumes are not served", cause=error.message)
                self._is_hindered = True
                time.sleep(_AGAIN_SECONDS)

    def accompany(self) -> None:
        """Agree with the mounter, and return when it has gone, so that the next one is given what it needs."""
        if not self._has_started.is_set() or (self._has_met and not self._devices):
            return
        try:
            self._connect().wait_until_gone(self.meet)
            self._is_missed = False
        except CsiOrasError as error:
            if not self._is_missed:  # one line until it is back
                logger.error("lazy volumes wait for the mounter", cause=error.message)
            self._is_missed = True

    def meet(self) -> None:
        """Agree with the mounter, which may be another one by now: what only it holds, and what only we hold.

        Whatever nobody shows any more is let go of.

        Raises:
            StoreBrokenError: there is none.
        """
        mounter = self._connect()
        held = mounter.list()
        for name, device in held.items():
            with self._locks.hold(name):
                self._take(name, device)
        for name in list(self._devices):
            with self._locks.hold(name):
                self._end_unless_shown(name)
                if name in self._devices and name not in held:
                    self._hold_on(mounter, name)
        if not self._has_met:
            self._has_met = True
            mounted = {mount.tree for mount in fuse.mounts()}
            for name in (mounted & self._trees.kept.names()) - self._devices.keys():
                logger.error("a lazy volume is dead, for nobody held it any more; its pod has to begin anew", tree=name)

    def replace(self, digest: Digest) -> set[str]:
        """Have nobody read on in a file that was a blob's, and return the names of the trees that show it."""
        return self._trees.replace(digest)

    def settle(self) -> None:
        """Hold what was shown without a proof against what is whole by now."""
        self._trees.settle()

    def index(self, make: Callable[[Descriptor], object]) -> None:
        """Have `make` make a chunk index of each blob that has come whole, and had none."""
        for blob in self._trees.whole():
            make(blob)

    def _hold(self, mounter: Mounter, name: str) -> None:
        mounter.hold(name, self._devices[name], self._trees.kept.plan(name), self._trees.kept.socket)

    def _hold_on(self, mounter: Mounter, name: str) -> None:
        if kernel.is_over(self._devices[name]):  # somebody has ended it; the others are held on
            self._release(name)
        else:
            self._hold(mounter, name)

    def _wait_until_met(self) -> None:
        if not self._has_started.wait(0 if self._is_hindered else _START_SECONDS):
            raise StoreBrokenError("lazy volumes", "are not served yet", "see the log of the driver")
        if not self._has_met:
            self.meet()

    def _meet_at_last(self) -> None:
        try:
            self.meet()
        except CsiOrasError as error:
            logger.error("lazy volumes wait for the mounter", cause=error.message)

    def _take(self, name: str, device: int) -> None:
        if name in self._devices:
            os.close(device)
        elif self._trees.find(name):
            self._devices[name] = device
        else:  # its last volume went while no driver was here
            os.close(device)
            self._drop(name)

    def _mount(self, name: str, *, noexec: bool) -> int:
        if name in self._devices:
            try:
                if not kernel.is_over(self._devices[name]):
                    return fuse.mount(self._devices[name], name, noexec=noexec)
            except StoreBrokenError as error:
                if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.ENOTCONN:
                    raise
            self._drop(name)  # somebody has ended it
            self._release(name)
        return self._begin(name, noexec=noexec)

    def _begin(self, name: str, *, noexec: bool) -> int:
        mounter, device = self._connect(), fuse.open_device()
        detached = -1
        try:
            detached = fuse.mount(device, name, noexec=noexec)
            fuse.greet(device)
            fuse.read_ahead(detached)
            self._devices[name] = device
            self._hold(mounter, name)
        except BaseException:
            self._devices.pop(name, None)
            os.close(device)
            if detached >= 0:
                os.close(detached)
            raise
        return detached

    def _end_unless_shown(self, name: str) -> None:
        if not any(mount.tree == name for mount in fuse.mounts()):
            self._drop(name)
            self._forget(name)

    def _drop(self, name: str) -> None:
        try:
            self._connect().drop(name)
        except CsiOrasError as error:  # it ends by itself, or the next mounter is told
            logger.warning("the process of a lazy volume may go on for a while", cause=error.message)

    def _forget(self, name: str) -> None:
        self._release(name)
        self._trees.close(name)

    def _release(self, name: str) -> None:
        device = self._devices.pop(name, None)
        if device is not None:
            os.close(device)
