"""Reading the policy file again when it, or a key file that it names, changes."""

import threading
from collections.abc import Callable
from pathlib import Path

from csi_oras.config import keys
from csi_oras.config.policy import Policy, parse, read_file
from csi_oras.errors import InvalidConfigError
from csi_oras.telemetry.logs import logger

RELOAD_SECONDS = 5.0


class PolicyWatcher:
    """Reads the file again when it changes; a wrong one is refused, loudly, and the old one stays."""

    def __init__(self, path: Path, changed: Callable[[Policy], None], in_force: Policy | None = None) -> None:
        """Tell `changed` of every policy that is read after `in_force`."""
        self._path = path
        self._text = read_file(path)
        self._policy = in_force or Policy()
        self._refusal = ""
        self._changed = changed
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="policy", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(RELOAD_SECONDS):
            self.look()

    def look(self) -> None:
        """Read the file once and take it over if it has changed, or what it names."""
        try:
            text = read_file(self._path)
            if text != self._text or self._keys_have_changed():
                self._policy = parse(text, f"policy file {self._path}")
                self._text = text
                self._changed(self._policy)
                logger.info("the policy file has changed and is in force", path=str(self._path))
            self._refusal = ""
        except InvalidConfigError as error:
            if error.message != self._refusal:  # said once, and tried again: a key file may come after the policy
                logger.error("the new policy file is refused, the old one stays in force", cause=error.message)
            self._refusal = error.message

    def _keys_have_changed(self) -> bool:
        named = [key for rule in self._policy.verification for key in rule.cosign_keys]
        return any(keys.content_of(key.path) != key.content for key in named)
