"""csi-oras: a CSI driver that makes any OCI artifact a volume."""

from importlib.metadata import version

__version__ = version("csi-oras")
