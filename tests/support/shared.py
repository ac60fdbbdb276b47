"""One driver for all tests that leave a driver as they found it: starting one costs more than most tests.

A test module names this one in `pytest_plugins`, and imports nothing of it.
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.driver import Driver
from tests.support.volume import Volume


@pytest.fixture(scope="session")
def shared_driver() -> Iterator[Driver]:
    """A running driver; a test gives its volumes targets of their own and unpublishes them."""
    directory = Path(tempfile.mkdtemp(prefix="co-"))
    with Driver(directory) as running:
        yield running
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def volume(shared_driver: Driver) -> Iterator[Volume]:
    """A volume of the shared driver, taken away at the end."""
    volume = Volume(shared_driver)
    yield volume
    volume.unpublish()
    assert volume.is_gone()


@pytest.fixture
def other(shared_driver: Driver) -> Iterator[Volume]:
    """Another pod's volume on the same node."""
    volume = Volume(shared_driver)
    yield volume
    volume.unpublish()
    assert volume.is_gone()
