"""Objects that two batches bring at once: the first to commit keeps its place, for trees link to it."""

from pathlib import Path

from csi_oras.store.objects import ObjectStore
from csi_oras.store.paths import StatePaths

_CONTENT = b"equal"


def test_object_that_two_batches_bring_at_once_is_the_first_ones(tmp_path: Path) -> None:
    paths = StatePaths.create(tmp_path / "state")
    objects = ObjectStore(paths)
    with objects.batch() as first, objects.batch() as second:
        (file,) = {batch.add([memoryview(_CONTENT)], len(_CONTENT), 0o444) for batch in (first, second)}
        place = Path(paths.object(file.content, file.mode))
        with first.committed():
            inode = place.stat().st_ino
        with second.committed():
            pass
        assert place.stat().st_ino == inode
    assert place.read_bytes() == _CONTENT
    assert place.stat().st_nlink == 1
    assert list(paths.staging.iterdir()) == []
