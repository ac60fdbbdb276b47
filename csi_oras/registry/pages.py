"""Lists that come in pages (RFC 8288): of a Link to the next, nothing is followed but its query, on the same host."""

import re
from urllib.parse import urljoin

from csi_oras.errors import BadResponseError
from csi_oras.registry.origin import Origin, target_of
from csi_oras.registry.transport import Response

_NEXT = re.compile(r'<([^<>]*)>\s*;\s*rel="?next"?', re.IGNORECASE)


def next_query(response: Response, subject: str) -> str:
    """Return the query that gets the next page, or an empty text; nothing else of a Link is followed.

    Raises:
        BadResponseError: it leads to another host.
    """
    match = _NEXT.search(response.header("Link"))
    if match is None:
        return ""
    try:
        url = urljoin(f"{response.origin}/", match[1])
    except ValueError:
        raise BadResponseError(subject, "goes on at a URL that is none", "report it") from None
    if Origin.of(url, subject) != response.origin:
        raise BadResponseError(subject, "goes on at another host", "report it")
    return f"?{target_of(url).partition('?')[2]}"
