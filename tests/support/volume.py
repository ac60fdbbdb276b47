"""One volume of a driver that several tests share."""

from itertools import count

from csi_oras.mount import mountinfo
from tests.support.driver import Driver

_numbers = count(1)


class Volume:
    """A volume id and a target that no other test uses."""

    def __init__(self, driver: Driver) -> None:
        number = next(_numbers)
        self.driver = driver
        self.volume_id = f"volume-{number}"
        self.target = driver.target("volume", pod=f"pod-{number}")

    def publish(self, **options: object) -> None:
        """NodePublishVolume with attributes, and with what `Driver.publish` takes."""
        self.driver.publish(self.target, volume_id=self.volume_id, **options)  # type: ignore[arg-type]

    def unpublish(self) -> None:
        """NodeUnpublishVolume."""
        self.driver.unpublish(self.target, volume_id=self.volume_id)

    @property
    def mounts(self) -> int:
        """How often something is mounted at the target."""
        return self.driver.mounts().count(str(self.target))

    @property
    def options(self) -> frozenset[str]:
        """The options of the mount at the target."""
        (mount,) = (mount for mount in mountinfo.read() if mount.target == str(self.target))
        return mount.options

    def names(self) -> list[str]:
        """Every file below the target, by its relative name."""
        return sorted(str(path.relative_to(self.target)) for path in self.target.rglob("*") if path.is_file())

    def is_gone(self) -> bool:
        """Say whether nothing of it is left on the node."""
        return not self.mounts and not self.target.exists()
