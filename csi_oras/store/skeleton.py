"""Skeletons: the directories of a tree without what is in them, open to whoever writes above it.

A tree is root's, and so are its directories. Between it and what a pod writes, a skeleton lends each of them the mode
of an emptyDir: overlayfs shows a directory as the topmost layer has it, and merges what is in it from all of them.
"""

import os
from pathlib import Path

MODE = 0o777
"""As an emptyDir: whoever the pod runs as may write."""


def lay_skeleton(tree: Path, skeleton: Path) -> None:
    """Make the directories of `tree` below `skeleton`, which is there and empty.

    Raises:
        OSError: one cannot be made.
    """
    pending = [""]
    while pending:
        above = pending.pop()
        with os.scandir(tree / above) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        for path in (os.path.join(above, name) for name in names):  # noqa: PTH118 (text)
            os.mkdir(skeleton / path)  # noqa: PTH102 (of many)
            os.chmod(skeleton / path, MODE)  # noqa: PTH101 (whatever the umask)
            pending.append(path)
