"""Bytes that change behind the store's back, as a failing disk changes them."""

import os
from pathlib import Path


def rot(path: Path, content: bytes | None = None) -> None:
    """Change a file in place: its first byte, or all of it; whoever links to it sees that."""
    descriptor = os.open(path, os.O_RDWR)  # root needs no mode for it
    try:
        if content is None:
            os.pwrite(descriptor, bytes([os.pread(descriptor, 1, 0)[0] ^ 1]), 0)
        else:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, content, 0)
    finally:
        os.close(descriptor)
