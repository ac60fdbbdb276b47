"""Packing: what a pod wrote, above the tree that it was given, becomes the layers of an artifact."""
