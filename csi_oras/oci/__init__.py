"""Values of the OCI specifications: they parse and check themselves and do no I/O."""
