"""Pods that come and go at a driver that dies under them, each with one volume and what the kubelet knows of it."""

import random
import threading
from enum import Enum
from typing import Any

import grpc

from csi_oras.csi.pb import csi_pb2
from tests.soak.shelf import Shelf
from tests.support.driver import Driver
from tests.support.outside import contents, is_read_only

_STAYS = 0.3
"""How likely a pod outlives the driver that has published its volume."""
_GIVES_UP = 0.2
"""How likely a pod is deleted before its volume was ever published."""
_CALL_SECONDS = 60


class Told(Enum):
    """What the kubelet was last told of a volume."""

    GONE = 0
    THERE = 1
    NOTHING = 2


class Pod:
    """One pod after the other, under one name."""

    def __init__(self, driver: Driver, shelf: Shelf, name: str, chance: random.Random) -> None:
        self._driver = driver
        self._shelf = shelf
        self._name = name
        self._chance = chance
        self._lives = 0
        self.published = 0
        self._renew()

    def _renew(self) -> None:
        self._lives += 1
        self.volume_id = f"{self._name}-{self._lives}"
        self.target = self._driver.target(pod=self.volume_id)
        self._item = self._chance.choice(self._shelf.items)
        self._shown: dict[str, bytes] | None = None
        self.told = Told.GONE
        self._is_wanted = True

    def live(self, ended: threading.Event) -> None:
        """Come and go until the round has `ended`, the driver dies, or this pod is to stay for the next round."""
        if self.told is Told.NOTHING and not self._shown and self._chance.random() < _GIVES_UP:
            self._is_wanted = False
        try:
            while not ended.is_set():
                if not self._is_wanted:
                    self.unpublish()
                    continue
                self.publish()
                if self._chance.random() < _STAYS:
                    return
                self._is_wanted = False
        except grpc.RpcError as error:
            self._judge(error)

    def _judge(self, error: grpc.RpcError) -> None:
        """Let only that pass which a dead driver's socket says, or a store in which everything is in use."""
        code, message = error.code(), error.details()
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return
        assert self._driver.process
        assert code is grpc.StatusCode.UNAVAILABLE, f"{self.volume_id}: {code}: {message}"
        self._driver.process.wait(20)  # it is dead, or the call should not have failed

    def publish(self) -> None:
        """Have the volume shown."""
        self.told = Told.NOTHING
        attributes: dict[str, Any] = {"reference": self._item.reference, **self._item.attributes}
        self._driver.publish(self.target, volume_id=self.volume_id, timeout=_CALL_SECONDS, **attributes)
        self.told = Told.THERE
        self.published += 1
        self.check()

    def unpublish(self) -> None:
        """Have it taken away; the next pod is another one."""
        self.told = Told.NOTHING
        self._driver.unpublish(self.target, volume_id=self.volume_id)
        self.told = Told.GONE
        self.check()
        self._renew()

    @property
    def is_mounted(self) -> bool:
        """Whether the kernel shows the volume, once."""
        mounts = self._driver.mounts().count(str(self.target))
        assert mounts <= 1, f"{self.volume_id} is mounted {mounts} times"
        return bool(mounts)

    def check(self) -> None:
        """Hold what the kernel shows against what the kubelet was told, and against what was pushed."""
        if self.told is not Told.NOTHING:
            assert self.is_mounted == (self.told is Told.THERE), f"{self.volume_id} is told to be {self.told}"
        if self.is_mounted:
            shown = contents(self.target)
            assert shown in self._item.versions, f"{self.volume_id} shows what was never pushed: {sorted(shown)}"
            assert self._shown in (None, shown), f"{self.volume_id} shows something else than before"
            assert is_read_only(self.target)
            self._shown = shown
        elif self.told is Told.GONE:
            assert not self.target.exists(), f"{self.volume_id} has left its target behind"

    def check_statistics(self) -> None:
        """See to it that the driver knows the volume if it is mounted, and only then."""
        request = csi_pb2.NodeGetVolumeStatsRequest(volume_id=self.volume_id, volume_path=str(self.target))
        code = self._driver.node.NodeGetVolumeStats.future(request, timeout=_CALL_SECONDS).code()
        assert code is (grpc.StatusCode.OK if self.is_mounted else grpc.StatusCode.NOT_FOUND), self.volume_id
