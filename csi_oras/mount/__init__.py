"""Mounts: what a target shows and how it gets there. It knows paths and flags, and nothing of volumes."""
