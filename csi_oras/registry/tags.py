"""Lists of tags (distribution-spec, Listing Tags), bounded in tags, bytes and pages.

Whoever may push to a repository makes its tags, and a registry may say anything: what is no tag refuses the list.
"""

from dataclasses import dataclass
from urllib.parse import urlencode

from csi_oras.errors import HostileContentError, printable
from csi_oras.oci import document as json
from csi_oras.oci.reference import is_tag
from csi_oras.registry import answers, pages
from csi_oras.registry.session import Session

MOST_PAGES, MOST_TAGS = 50, 50_000
PAGE = 1000
"""Tags that are asked for at once; some registries send all of them nevertheless."""
_LARGEST_PAGE = 4 << 20
_OK = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class TagList:
    """The tags of a repository; not `complete` where there are more than anybody may list."""

    tags: tuple[str, ...]
    complete: bool = True


def read(session: Session, subject: str) -> TagList:
    """List all tags, page after page as long as one brings something new.

    Raises:
        UnobtainableError: the list cannot be got.
        UnacceptableError: it is too large, or is no list of a registry.
    """
    found: dict[str, None] = {}
    query = f"?n={PAGE}"
    for _ in range(MOST_PAGES):
        known = len(found)
        page, query = _read_page(session, query, subject)
        found.update(dict.fromkeys(page))
        if not query or len(found) == known:
            return TagList(tags=tuple(found)[:MOST_TAGS], complete=len(found) <= MOST_TAGS)
        if len(found) > MOST_TAGS:
            break
    return TagList(tags=tuple(found)[:MOST_TAGS], complete=False)


def _read_page(session: Session, query: str, subject: str) -> tuple[list[str], str]:
    """Return a page, and the query that gets the next one; some registries give no Link to it."""
    with session.get("GET", f"/tags/list{query}", subject, {"Accept": "application/json"}) as response:
        session.expect(response, subject, _OK)
        answers.refuse_encoded(response, subject)
        page = _entries(response.read(_LARGEST_PAGE), subject)
        linked = pages.next_query(response, subject)
    if linked or len(page) != PAGE:
        return page, linked
    return page, f"?{urlencode({'n': PAGE, 'last': page[-1]})}"


def _entries(content: bytes, subject: str) -> list[str]:
    """Read the tags of a page; a registry may say null where there is none."""
    tags = json.parse_object(content, subject).get("tags") or []
    if not isinstance(tags, list):
        raise HostileContentError(subject, '"tags" is not a list')
    for tag in tags:
        if not isinstance(tag, str) or not is_tag(tag):
            raise HostileContentError(subject, f'lists "{printable(str(tag), 80)}", which is not a tag')
    return tags
