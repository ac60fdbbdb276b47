"""Objects that two batches bring at once: the second takes the first one's place while trees link to it."""

import threading
from pathlib import Path

from csi_oras.oci.digest import Digest
from csi_oras.oci.name import Name
from csi_oras.oci.view import View
from csi_oras.store.objects import ObjectStore
from csi_oras.store.paths import StatePaths
from csi_oras.store.trees import TreeStore

_CONTENT = b"equal"
_TREES = 200


def test_layout_links_to_an_object_that_is_being_replaced_by_its_equal(tmp_path: Path) -> None:
    paths = StatePaths.create(tmp_path / "state")
    objects, trees = ObjectStore(paths), TreeStore(paths)
    with objects.batch() as batch:
        file = batch.add([memoryview(_CONTENT)], len(_CONTENT), 0o444)
        batch.commit()
    held = Path(paths.object(file.content, file.mode))
    done = threading.Event()

    def replace() -> None:
        while not done.is_set():
            other = held.with_name("other")
            other.write_bytes(_CONTENT)
            other.rename(held)

    replacer = threading.Thread(target=replace)
    replacer.start()
    try:
        for number in range(_TREES):
            view = View()
            for name in range(5):
                view.add(Name((str(name),)), file)
            tree = trees.lay_out(Digest.of(str(number).encode()), view)
            assert [path.read_bytes() for path in tree.iterdir()] == [_CONTENT] * 5
    finally:
        done.set()
        replacer.join()
