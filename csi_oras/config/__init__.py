"""Settings: the node policy file, checked at the start and read again when it changes."""

from csi_oras.config.policy import Policy, load, parse
from csi_oras.config.watcher import RELOAD_SECONDS, PolicyWatcher

__all__ = ["RELOAD_SECONDS", "Policy", "PolicyWatcher", "load", "parse"]
