"""Mounts: the only package that speaks to the kernel. It knows paths and flags, and nothing of volumes."""
