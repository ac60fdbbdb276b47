"""`python -m csi_oras` is `csi-oras`."""

from csi_oras.cli import main

if __name__ == "__main__":
    main()
