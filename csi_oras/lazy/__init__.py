"""Volumes that are read before they are local: bytes fetched when they are read, and shown once they are proven."""
