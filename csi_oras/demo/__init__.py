"""The tour: everything that the driver does, on real parts, in one command."""
