"""The mounter: holds the processes of lazy volumes and their `/dev/fuse` descriptors, so that both outlive the driver.

It knows nothing of registries, artifacts or pods, and can do nothing that takes a privilege: the driver mounts.
"""
