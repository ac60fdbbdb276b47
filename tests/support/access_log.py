"""What a distribution registry says that it was asked for: counters are read there, not in the driver."""

import re
import time
from dataclasses import dataclass

from csi_oras.demo.distribution import Distribution

_LINE = re.compile(r'"(?P<method>[A-Z]+) (?P<path>\S+) HTTP/1\.1" (?P<status>\d+) (?P<sent>\d+)')


@dataclass(frozen=True)
class Request:
    """One answered request; `sent` in bytes."""

    method: str
    path: str
    status: int
    sent: int


class AccessLog:
    """The requests for one repository."""

    def __init__(self, registry: Distribution, repository: str) -> None:
        self._log = registry.log
        self._prefix = f"/v2/{repository}/"

    def requests(self) -> list[Request]:
        """Everything so far."""
        found = (_LINE.search(line) for line in self._log.read_text().splitlines())
        requests = [
            Request(match["method"], match["path"].removeprefix(self._prefix), int(match["status"]), int(match["sent"]))
            for match in found
            if match and match["path"].startswith(self._prefix)
        ]
        return [request for request in requests if request.method in ("GET", "HEAD")]

    def gets(self, identifier: str, count: int = 1) -> list[Request]:
        """Successful GETs of one blob or manifest, once the log, which lags behind, has at least `count`."""
        deadline = time.monotonic() + 5
        while True:
            found = [
                request
                for request in self.requests()
                if request.method == "GET" and request.status in (200, 206) and request.path.endswith(f"/{identifier}")
            ]
            if len(found) >= count or time.monotonic() > deadline:
                return found
            time.sleep(0.05)
