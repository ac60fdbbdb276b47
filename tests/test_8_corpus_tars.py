"""The builder of hostile archives makes honest ones too: independent readers take them for what they are."""

import gzip
import io
import subprocess
import tarfile
from pathlib import Path

import zstandard

from tests.support import corpus_bytes, tars

MEMBERS: list[tars.Description] = [
    {"name": "d", "type": "directory", "mode": "755"},
    {"name": "d/a", "content": "x" * 600, "mode": "6755", "uid": 1000, "mtime": 1234567890},
    {"name": "l", "type": "symlink", "link": "d/a"},
    {"name": "h", "type": "hardlink", "link": "d/a"},
    {"name": "x", "content": "pax", "pax": {"path": "d/" + "p" * 150}},
    {"name": "x", "content": "gnu", "longname": "d/" + "g" * 150},
    {"name": "big", "content": "", "uid": 2**31},
]


def test_tar_is_what_tarfile_reads() -> None:
    with tarfile.open(fileobj=io.BytesIO(tars.tar(MEMBERS))) as archive:
        found = {member.name: member for member in archive}
        assert list(found) == ["d", "d/a", "l", "h", "d/" + "p" * 150, "d/" + "g" * 150, "big"]
        assert (found["d/a"].size, found["d/a"].mode, found["d/a"].uid) == (600, 0o6755, 1000)
        assert (found["l"].issym(), found["l"].linkname, found["h"].islnk()) == (True, "d/a", True)
        assert found["big"].uid == 2**31
        content = archive.extractfile("d/" + "p" * 150)
        assert content is not None
        with content:
            assert content.read() == b"pax"


def test_tar_is_what_tar_lists(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tars.tar(MEMBERS))
    listed = subprocess.run(["tar", "-tf", path], check=True, capture_output=True, text=True)
    assert listed.stdout.split() == ["d", "d/a", "l", "h", "d/" + "p" * 150, "d/" + "g" * 150, "big"]
    assert listed.stderr == ""


def test_fields_and_sizes_lie_where_they_are_told_to() -> None:
    header = tars.tar([{"name": "a", "content": "", "size": -1, "fields": {"checksum": "zzzzzzzz"}}])[:512]
    assert header[124:136] == b"\xff" * 12
    assert header[148:156] == b"zzzzzzzz"


def test_frames_and_repetitions_unpack_to_what_they_say() -> None:
    frame = corpus_bytes.content([{"zstd frame": [{"hex": "616263"}], "runs": 3}])
    unpacked = zstandard.ZstdDecompressor().decompress(frame, max_output_size=1 << 20)
    assert unpacked == b"abc" + bytes(3 * 128 << 10)
    members = corpus_bytes.content([{"times": 3, "of": [{"gzip": [{"zeros": 5}]}]}])
    assert gzip.decompress(members) == bytes(15)
    assert corpus_bytes.content([{"hex": "0102", "flip": 1, "cut": 2}]) == b"\x01\xfd"
