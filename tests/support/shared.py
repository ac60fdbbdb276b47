"""One driver for all tests that leave a driver as they found it: starting one costs more than most tests."""

import shutil
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.support.driver import Driver


@pytest.fixture(scope="session")
def shared_driver() -> Iterator[Driver]:
    """A running driver; a test gives its volumes targets of their own and unpublishes them."""
    directory = Path(tempfile.mkdtemp(prefix="co-"))
    with Driver(directory) as running:
        yield running
    shutil.rmtree(directory, ignore_errors=True)


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

    def names(self) -> list[str]:
        """Every file below the target, by its relative name."""
        return sorted(str(path.relative_to(self.target)) for path in self.target.rglob("*") if path.is_file())

    def is_gone(self) -> bool:
        """Say whether nothing of it is left on the node."""
        return not self.mounts and not self.target.exists()


@pytest.fixture
def volume(shared_driver: Driver) -> Iterator[Volume]:
    """A volume of the shared driver, taken away at the end."""
    volume = Volume(shared_driver)
    yield volume
    volume.unpublish()
    assert volume.is_gone()
