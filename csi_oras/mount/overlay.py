"""Overlays: what a pod writes goes into a directory of its own, above a tree that stays as it is.

Directories are copied up and never redirected, and files whole, so that the upper directory says by itself what was
written: regular files, directories, links, and the whiteouts and opaque directories of overlayfs (Linux,
Documentation/filesystems/overlayfs.rst).
"""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from csi_oras import kernel
from csi_oras.errors import StoreBrokenError, VolumeBusyError, printable
from csi_oras.mount import mountinfo
from csi_oras.mount.target import Target

_OPTIONS = {"redirect_dir": "off", "metacopy": "off", "index": "off", "xino": "off"}
_MOST_STACKED = 100
_MOST_NAMED = 3


def attach(lower: Sequence[Path], upper: Path, work: Path, target: Target, *, noexec: bool) -> None:
    """Show the directories `lower`, the topmost first, at `target`, writable into `upper`, without set-id bits.

    Raises:
        StoreBrokenError: the kernel refuses.
    """
    options = [
        ("source", "csi-oras"),
        *_lower(lower),
        ("upperdir", _escaped(upper)),
        ("workdir", _escaped(work)),
        *_OPTIONS.items(),
    ]
    attributes = kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV | (kernel.MOUNT_ATTR_NOEXEC if noexec else 0)
    try:
        detached = kernel.new_mount("overlay", options, attributes)
        try:
            kernel.mount_setattr(detached, 0, propagation=kernel.MS_PRIVATE)
            kernel.move_mount(detached, target.parent, target.name)
        finally:
            os.close(detached)
    except OSError as error:
        raise StoreBrokenError(
            f"target {printable(target.path, 300)}",
            f"the kernel refuses the overlay ({error.strerror})",
            "writable volumes need Linux 5.12, and a state directory of a short path (40 bytes before Linux 6.8) "
            "on ext4, xfs or btrfs",
        ) from error


def detach(target: Target) -> None:
    """Take away what is mounted at `target`; never while somebody may still write.

    Raises:
        VolumeBusyError: it is in use.
    """
    for _ in range(_MOST_STACKED):
        if not target.is_mounted():
            return
        try:
            kernel.unmount(target.link, kernel.UMOUNT_NOFOLLOW)
        except OSError as error:
            raise _busy(target, error) from error


def _busy(target: Target, error: OSError) -> VolumeBusyError:
    """Say what keeps a volume mounted: what is mounted below it, or else who has files open."""
    subject = f"target {printable(target.path, 300)}"
    if error.errno != errno.EBUSY:
        return VolumeBusyError(subject, f"cannot be unmounted ({error.strerror})", "it is tried again")
    above = str(Path(f"/proc/self/fd/{target.parent}").readlink() / target.name)
    below = [printable(mount.target, 200) for mount in mountinfo.read() if mount.target.startswith(f"{above}/")]
    if below:
        more = f" and {len(below) - _MOST_NAMED} more" if len(below) > _MOST_NAMED else ""
        cause = f"has something mounted below it: {', '.join(below[:_MOST_NAMED])}{more}"
        return VolumeBusyError(subject, cause, "unmount that, and it is tried again")
    remedy = f"it is tried again; these are told by: fuser -vm {printable(target.path, 300)}"
    return VolumeBusyError(subject, "is still in use by processes that have files open there", remedy)


def _lower(layers: Sequence[Path]) -> list[tuple[str, str]]:
    together = ":".join(map(_escaped, layers))
    if len(os.fsencode(together)) <= kernel.LONGEST_OPTION:
        return [("lowerdir", together)]
    return [("lowerdir+", str(layer)) for layer in layers]  # Linux 6.8; not escaped there


def _escaped(path: Path) -> str:
    """Return a path as an option of overlayfs, which takes colons and commas for separators."""
    return str(path).replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")
