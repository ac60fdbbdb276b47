"""Scale: how much work each row is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much work each row is; sizes in bytes."""

    blob_bytes: int = 2 << 30
    blobs: int = 4
    files: int = 1000
    file_bytes: int = 64 << 10
    warm_calls: int = 500
    pods: int = 100
    herd_blobs: int = 4
    herd_blob_bytes: int = 256 << 20
    image_files: int = 20_000
    image_bytes: int = 1 << 30
    versions: int = 5
    version_files: int = 5000
    version_bytes: int = 256 << 20
    version_plain_files: int = 1000
    grown_artifacts: tuple[int, ...] = (10, 1000, 10_000)
    grown_volumes: tuple[int, ...] = (1, 1000)
    grown_calls: int = 1000
    link_rate: int = 100_000_000
    reset_every: int = 100
    written_bytes: int = 1 << 30
    written_few: int = 1000
    written_files: int = 10_000
    written_file_bytes: int = 4 << 10
    hang_seconds: float = 120
    lazy_bytes: int = 10 << 30
    lazy_read_bytes: int = 1 << 30
    lazy_random_reads: int = 20_000
    lazy_files: int = 40
    lazy_file_bytes: int = 32 << 20
    lazy_trees: int = 20


SMALL = Scale(
    blob_bytes=20 << 20,
    blobs=2,
    files=20,
    file_bytes=4 << 10,
    warm_calls=5,
    pods=5,
    herd_blobs=2,
    herd_blob_bytes=1 << 20,
    image_files=60,
    image_bytes=1 << 20,
    versions=2,
    version_files=40,
    version_bytes=1 << 20,
    version_plain_files=20,
    grown_artifacts=(2, 20),
    grown_volumes=(1, 10),
    grown_calls=5,
    link_rate=20_000_000,
    reset_every=10,
    written_bytes=20 << 20,
    written_few=20,
    written_files=200,
    written_file_bytes=1 << 10,
    hang_seconds=5,
    lazy_bytes=40 << 20,
    lazy_read_bytes=20 << 20,
    lazy_random_reads=100,
    lazy_files=10,
    lazy_file_bytes=2 << 20,
    lazy_trees=2,
)
