"""Files that a person names: the names that they get, the layers that they become, and what is refused."""

import os
import resource
import tracemalloc
from pathlib import Path

import pytest

from csi_oras.errors import ContentChangedError, InvalidRequestError
from csi_oras.oci import media_types
from csi_oras.transfer.files import NamedFiles, find_files, layers_of
from tests.support.artifacts import sha256


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where relative paths begin."""
    directory = tmp_path / "here"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def packing(tmp_path: Path) -> Path:
    """Where what is packed is put."""
    directory = tmp_path / "packing"
    directory.mkdir()
    return directory


def put(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)


def found(*names: str) -> NamedFiles:
    return find_files([Path(name) for name in names])


def titles(files: NamedFiles) -> list[str]:
    return [layer.title for layer in files.layers]


def test_relative_path_is_its_own_name_and_of_another_the_last_part_is(here: Path) -> None:
    put("d/e/x", "y", "../beside/z")
    assert titles(found("d/e", "./y")) == ["d/e/x", "y"]
    assert titles(found(".")) == ["d/e/x", "y"]
    assert titles(found(str(here / "d"), str(here / "y"), "../beside")) == ["beside/z", "d/e/x", "y"]


def test_named_path_is_followed_and_links_below_it_are_kept(packing: Path, here: Path) -> None:
    put("../far/d/x", "../far/y")
    (here / "../far/d/l").symlink_to("x")
    Path("way").symlink_to("../far")
    Path("file").symlink_to("../far/y")
    assert titles(found("way/d", "file")) == ["file", "way"]
    packed = layers_of(found("way/d", "file"), packing)
    assert packed[0].blob.digest.encoded == sha256(b"../far/y").removeprefix("sha256:")
    assert packed[1].blob.annotations[media_types.UNPACK] == "true"


def test_directories_of_one_name_are_shown_as_one(here: Path) -> None:
    put("one/d/a", "two/d/b")
    assert titles(found(str(here / "one/d"), str(here / "two/d"))) == ["d/a", "d/b"]


@pytest.mark.parametrize(
    "others", [("one/d", "three/d"), ("three/d", "one/d"), ("one/d", "one/d"), ("one/d", "four/d")]
)
def test_name_that_is_named_twice_is_refused(here: Path, others: tuple[str, str]) -> None:
    put("one/d/a", "three/d/a/c", "four/d")
    with pytest.raises(InvalidRequestError, match=r"name d(/a)?: is named twice"):
        found(*(str(here / other) for other in others))


@pytest.mark.usefixtures("here")
def test_all_that_cannot_be_carried_is_named() -> None:
    put("d/fine", "d/a:b", "d/new\nline", "d/\u00e9", "d/e\u0301")
    os.mkfifo("d/pipe")
    Path("d/out").symlink_to("/etc/passwd")
    Path("d/up").symlink_to("../../up")
    with pytest.raises(InvalidRequestError) as refusal:
        found("d")
    cause = refusal.value.cause
    assert all(text in cause for text in ('"d/a:b" has a name', '"d/new\\nline"', '"d/out" is a', '"d/pipe" is a FIFO'))
    assert cause.endswith("and 1 more")
    os.remove("d/pipe")  # noqa: PTH107 (as above)


@pytest.mark.usefixtures("here")
@pytest.mark.needs("root")
def test_whiteout_that_a_person_pushes_is_a_device_as_any_other() -> None:
    put("d/x")
    os.mknod("d/gone", 0o20000, 0)
    os.setxattr("d", "trusted.overlay.opaque", b"y")
    with pytest.raises(InvalidRequestError, match='"d/gone" is a character device'):
        found("d")


@pytest.mark.parametrize("name", ["..", "/", "a:b"])
@pytest.mark.usefixtures("here")
def test_path_without_a_name_that_a_volume_shows_is_refused(name: str) -> None:
    Path("a:b").mkdir()
    with pytest.raises(InvalidRequestError, match="has a name that"):
        found(name)


@pytest.mark.usefixtures("here")
def test_path_that_is_neither_file_nor_directory_is_refused() -> None:
    os.mkfifo("pipe")
    with pytest.raises(InvalidRequestError, match="neither a file nor a directory"):
        found("pipe")


def test_nothing_is_a_layer_without_bytes_as_oras_has_it(here: Path, packing: Path) -> None:
    assert list(here.iterdir()) == []
    (layer,) = layers_of(found("."), packing)
    assert (layer.blob.media_type, layer.blob.size) == (media_types.EMPTY, 2)


def test_file_that_changes_before_it_is_read_is_an_error(here: Path, packing: Path) -> None:
    put("d/x", "y")
    for name in ("d/x", "y"):
        files = found("d", "y")
        (here / name).write_text("another")
        with pytest.raises(ContentChangedError, match=name.rpartition("/")[2]):
            layers_of(files, packing)


@pytest.mark.usefixtures("here")
def test_many_files_are_packed_in_bounded_memory_and_few_descriptors(packing: Path) -> None:
    content = os.urandom(1 << 20)
    for number in range(48):
        put(f"large/{number}")
        Path(f"large/{number}").write_bytes(content)
    Path("large/link").symlink_to("0")
    for number in range(3000):
        put(f"small/{number % 7}/{number}")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = len(list(Path("/proc/self/fd").iterdir()))  # by whatever ran before in this process
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(opened + 150, hard), hard))
    tracemalloc.start()
    try:
        files = find_files([Path("large"), *sorted(Path("small").glob("*/*"))])
        made = layers_of(files, packing)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [layer.blob.annotations[media_types.TITLE] for layer in made] == ["large", "small"]
    assert len(files.places) == 3049
    assert peak < 24 << 20
