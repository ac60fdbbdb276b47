"""From a manifest to a plan: which layers become which files, without any I/O."""
