"""csi-oras: a CSI driver that makes any OCI artifact a volume."""

__version__ = "0.1.0"
