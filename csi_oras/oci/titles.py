"""Titled layers: what the annotations of ORAS, and one of ours, say of the file or the directory that a layer is."""

import re

from csi_oras.oci import media_types
from csi_oras.oci.descriptor import Descriptor

ROOT = "."
"""The title of a directory that is the artifact itself, as `oras push .` makes it."""
_ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar")
_MODE = re.compile("0?[0-7]{3}")


def is_directory(layer: Descriptor) -> bool:
    """Say whether a titled layer is a packed directory: ORAS marks it with an annotation.

    oras-py does not mark it at all: there it shows by the media type that oras-py gives nothing else, unless the
    title says that it is an archive.
    """
    return is_marked(layer) or (
        layer.media_type == media_types.LAYER_TAR_GZIP
        and not layer.annotations.get(media_types.TITLE, "").endswith(_ARCHIVE_SUFFIXES)
    )


def is_marked(layer: Descriptor) -> bool:
    """Say whether a layer has ORAS's annotation of packed directories."""
    return layer.annotations.get(media_types.UNPACK) == "true"


def is_executable(layer: Descriptor) -> bool:
    """Say whether the file that a layer is may be executed; what is no mode says nothing."""
    mode = layer.annotations.get(media_types.MODE, "")
    return bool(_MODE.fullmatch(mode)) and bool(int(mode, 8) & 0o111)
