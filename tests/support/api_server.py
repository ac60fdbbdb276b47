"""A Kubernetes API server that takes events and a node's labels, over real TLS, and the account of a pod of its own."""

import json
import re
from pathlib import Path
from typing import Any

from tests.support import outputs
from tests.support.certificates import Authority, server_context
from tests.support.driver import Driver
from tests.support.fake_server import Answer, FakeServer, Request
from tests.support.planted import planted
from tests.support.pods import wait_for

_EVENTS = re.compile(r"/api/v1/namespaces/([^/]+)/events")
_NODE = "/api/v1/nodes/node-1"
TOKEN = planted("token-of-the-driver")


def refusal(code: int, reason: str, **details: object) -> Answer:
    """A Status as the API server writes it."""
    document = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code}
    document |= {"message": f"events is forbidden: {reason}", "details": details}
    return Answer(status=code, body=json.dumps(document).encode()).having(Content_Type="application/json")


class ApiServer(FakeServer):
    """Keeps the events of whoever comes with its token."""

    def __init__(self, directory: Path) -> None:
        authority = Authority(directory / "authority")
        super().__init__(server_context(authority.pair("api")))
        self.token = TOKEN
        self.account = directory / "account"
        self.account.mkdir()
        (self.account / "ca.crt").write_bytes(authority.ca.read_bytes())
        (self.account / "namespace").write_text("csi-oras")
        self.rotate(TOKEN)
        self.events: list[dict[str, Any]] = []
        self.labels: dict[str, str] = {"kubernetes.io/hostname": "node-1"}

    def rotate(self, token: str) -> None:
        """Take another token from now on, as the kubelet has put it into the driver's pod."""
        self.token = token
        (self.account / "token").write_text(token)

    def answer(self, request: Request) -> Answer:
        """The honest answer."""
        if request.authorization != f"Bearer {self.token}":
            return refusal(401, "Unauthorized")
        if (request.method, request.path) == ("PATCH", _NODE):
            return self._patched(request)
        match = _EVENTS.fullmatch(request.path)
        if match is None or request.method != "POST":
            return refusal(404, "NotFound")
        event = json.loads(request.body)
        assert event["metadata"]["namespace"] == match[1]
        return Answer(status=201, body=request.body).having(Content_Type="application/json")

    def _patched(self, request: Request) -> Answer:
        """Merge labels into the node's as RFC 7396 has it: null takes one away."""
        assert request.headers["Content-Type"] == "application/merge-patch+json"
        patch = json.loads(request.body)
        assert list(patch) == ["metadata"]
        assert list(patch["metadata"]) == ["labels"]
        merged = {**self.labels, **patch["metadata"]["labels"]}
        self.labels = {key: value for key, value in merged.items() if value is not None}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1", "labels": self.labels}}
        return Answer(body=json.dumps(node).encode()).having(Content_Type="application/json")

    def respond(self, request: Request) -> Answer:
        """Keep the event if it is taken."""
        answer = super().respond(request)
        if answer.status == 201:
            outputs.KEPT.keep("events", request.body)
            self.events.append(json.loads(request.body))
        return answer

    def told(self, pod: str = "") -> list[tuple[str, str]]:
        """Reason and message of each event, of one pod or of all."""
        return [(e["reason"], e["message"]) for e in self.events if pod in ("", e["involvedObject"]["name"])]

    def wait(self, *reasons: str, pod: str = "") -> list[tuple[str, str]]:
        """Return what was told when these reasons were, and no others."""
        wait_for(lambda: len(self.told(pod)) >= len(reasons))
        told = self.told(pod)
        assert [reason for reason, _ in told] == list(reasons), told
        return told

    def environment(self) -> dict[str, str]:
        """What the kubelet says to every container."""
        host, _, port = self.address.rpartition(":")
        return {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}

    def driver(self, directory: Path, *flags: str) -> Driver:
        """A driver in a pod of this cluster."""
        account = ("--service-account-dir", str(self.account))
        return Driver(directory, *account, *flags, environment=self.environment())
