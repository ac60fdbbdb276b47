"""`python -m csi_oras.fuse`: started by the mounter, with a descriptor of `/dev/fuse` to inherit."""

import argparse
import os
import re
import sys
from pathlib import Path

from csi_oras.errors import CsiOrasError
from csi_oras.fuse.program import Settings, run
from csi_oras.telemetry import logs
from csi_oras.telemetry.logs import logger

_TREE = re.compile("[0-9a-f]{64}")


def main() -> int:
    """Serve one lazy tree; the answer is the exit code."""
    parser = argparse.ArgumentParser(prog="csi_oras.fuse", description=main.__doc__, allow_abbrev=False)
    parser.add_argument("--device", type=int, required=True, help="a descriptor of /dev/fuse whose connection stands")
    parser.add_argument("--tree", type=_tree, required=True, help="the name of the tree")
    parser.add_argument("--plan", type=Path, required=True, help="its plan file")
    parser.add_argument("--driver", type=Path, required=True, help="the socket of the driver")
    parser.add_argument("--log-format", choices=["json", "text"], default="json")
    settings = vars(parser.parse_args())
    logs.configure(settings.pop("log_format"))
    os.chdir("/")  # whoever stands in a file system that he serves cannot be ended
    try:
        return run(Settings(**settings))
    except CsiOrasError as error:
        logger.error("cannot serve a lazy volume", tree=settings["tree"], cause=error.message)
        return 1


def _tree(text: str) -> str:
    if not _TREE.fullmatch(text):
        raise argparse.ArgumentTypeError("64 hexadecimal digits are wanted")
    return text


if __name__ == "__main__":
    sys.exit(main())
