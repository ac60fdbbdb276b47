"""Unpacking: hostile archives read as a stream of members, without a file system in sight."""
