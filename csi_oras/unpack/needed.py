"""What is needed of the archives though it is not selected: the ends of hard links that are, and links above `path`.

A hard link may mean another hard link, and an image's a name of a layer below, so the archives of an artifact are
read once for their links before any of them is unpacked. Names are all that counts here: two layers that have one
name are both needed by it, and which of them a link means is for the extractor to say.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from csi_oras.oci.name import Name, UnsafeNameError
from csi_oras.oci.selection import Selection
from csi_oras.unpack.names import hard_link_target, member_name
from csi_oras.unpack.reader import Reader, Source, UnpackLimits, hostile
from csi_oras.unpack.tar import MemberKind


def needed(sources: Iterable[Source], selection: Selection, limits: UnpackLimits) -> frozenset[Name]:
    """Return the names that are needed beside those that `selection` takes.

    Raises:
        UnacceptableError: an archive is not what it should be.
    """
    if not selection.narrows:
        return frozenset()
    links = _hard_links(sources, limits)
    pending = [name for name in links if not selection.refusal(name)]
    found = set(selection.path.parents if selection.path else ())
    while pending:
        for target in links.get(pending.pop(), ()):
            if target not in found:
                found.add(target)
                pending.append(target)
    return frozenset(found)


def _hard_links(sources: Iterable[Source], limits: UnpackLimits) -> dict[Name, set[Name]]:
    links: dict[Name, set[Name]] = defaultdict(set)
    reader = Reader(limits)
    for source in sources:
        archive = replace(source.archive, content=None)  # it is checked when it is read again
        for member, _ in reader.read(replace(source, archive=archive)):
            if member.kind is MemberKind.HARDLINK and not archive.skips_links:
                try:
                    name, target = member_name(archive, member.name), hard_link_target(archive, member.target)
                except UnsafeNameError as error:
                    raise hostile(source.subject, member, str(error)) from None
                if name and target:
                    links[name].add(target)
    return links
