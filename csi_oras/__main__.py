"""`python -m csi_oras` is `csi-oras`."""

import sys


def main() -> None:
    """Run a command; Ctrl-C ends it quietly, also before it is loaded."""
    try:
        from csi_oras.cli import main as command  # noqa: PLC0415 (loading takes long enough to be interrupted)

        command()
    except KeyboardInterrupt:
        sys.exit(130)  # as in `csi_oras.cli.commands`, which may not be there


if __name__ == "__main__":
    main()
