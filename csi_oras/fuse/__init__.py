"""The program that serves one lazy volume: names from a plan, bytes from descriptors that the driver hands out.

It knows no registry, no credential and no path of the store. Nothing of it is kept: whoever takes its place, with the
same plan and the same `/dev/fuse` descriptor, goes on where it was.
"""
