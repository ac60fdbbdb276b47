"""The uploads of a fake registry, as distribution 3 keeps them: whatever arrived of a request that broke stays."""

import re
from dataclasses import dataclass, field
from itertools import count

from tests.support.artifacts import sha256
from tests.support.fake_server import Answer, Request

_PLACE = re.compile(r"uploads/(\d+)-(\d+)")
_RANGE = re.compile(r"(\d+)-(\d+)")


@dataclass
class FakeUploads:
    """Open uploads by number; their places move with every answer, and only the last one is good."""

    least_chunk: int = 0
    """Named in the answer to POST, if it is anything."""
    largest: int = 1 << 40
    """Bytes of a request that are taken; more is 413."""
    open: dict[int, bytearray] = field(default_factory=dict)
    _moves: dict[int, int] = field(default_factory=dict)
    _numbers: "count[int]" = field(default_factory=lambda: count(1))

    def begin(self, name: str) -> Answer:
        """Answer a POST."""
        number = next(self._numbers)
        self.open[number], self._moves[number] = bytearray(), 0
        answer = self._moved(202, name, number)
        return answer.having(OCI_Chunk_Min_Length=str(self.least_chunk)) if self.least_chunk else answer

    def answer(self, request: Request, name: str, rest: str) -> Answer | bytes:
        """Answer anything else; what is whole is returned as it is."""
        match = _PLACE.fullmatch(rest)
        number = int(match[1]) if match else 0
        if number not in self.open or (match and int(match[2]) != self._moves[number]):
            return Answer(status=404, body=b'{"errors": [{"code": "BLOB_UPLOAD_UNKNOWN"}]}')
        if request.query.get("state") != "opaque=":
            return Answer(status=400, body=b'{"errors": [{"code": "BLOB_UPLOAD_INVALID"}]}')
        if request.method == "DELETE":
            del self.open[number]
            return Answer(status=204)
        if request.method == "GET":
            return self._moved(204, name, number)
        return self._take(request, name, number)

    def _take(self, request: Request, name: str, number: int) -> Answer | bytes:
        held = self.open[number]
        if int(request.headers["Content-Length"]) > self.largest:
            return Answer(status=413, body=b'{"errors": [{"code": "SIZE_INVALID"}]}')
        span = _RANGE.fullmatch(request.headers.get("Content-Range", ""))
        if span and int(span[1]) != len(held):
            return Answer(status=416, body=b'{"errors": [{"code": "RANGE_INVALID"}]}')
        held += request.body
        if request.method == "PATCH":
            return self._moved(202 if request.is_whole else 0, name, number)
        if sha256(bytes(held)) != request.query.get("digest"):
            return Answer(status=400, body=b'{"errors": [{"code": "DIGEST_INVALID", "message": "digest invalid"}]}')
        del self.open[number]
        return bytes(held)

    def _moved(self, status: int, name: str, number: int) -> Answer:
        self._moves[number] += status == 202
        place = f"/v2/{name}/blobs/uploads/{number}-{self._moves[number]}?state=opaque%3D"
        return Answer(status=status).having(Location=place, Range=f"0-{max(len(self.open[number]) - 1, 0)}")
