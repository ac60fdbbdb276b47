"""The plan's digest is the key of the tree: it changes if and only if what a pod sees changes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.glob import Glob
from csi_oras.oci.name import Name
from csi_oras.oci.plan import Compression, LeftOut, Plan, PlanArchive, PlanEntry
from csi_oras.oci.selection import Selection

CONTENTS = st.binary(max_size=3)
COMPONENTS = st.text('ab./,"[] \u00e9', min_size=1, max_size=4).map(lambda text: text.replace("/", "") or "x")


def entry(name: str, content: bytes, layer: int = 0, *, mode: int = 0o444, media_type: str = "a/b") -> PlanEntry:
    return PlanEntry(
        name=Name(tuple(name.split("/"))), blob=Descriptor.of(content, media_type), layer=layer, rule="title", mode=mode
    )


def archive(content: bytes = b"tar", layer: int = 0) -> PlanArchive:
    blob = Descriptor.of(content, "a/tar+gzip")
    return PlanArchive(blob=blob, layer=layer, rule="unpacked", compression=Compression.GZIP)


NAMES = st.lists(COMPONENTS, min_size=1, max_size=3).map("/".join)
ENTRIES = st.dictionaries(NAMES, st.tuples(CONTENTS, st.sampled_from([0o444, 0o555])), max_size=4)


def plan_of(files: dict[str, tuple[bytes, int]], *, single: bool = False) -> Plan:
    entries = (entry(name, content, number, mode=mode) for number, (name, (content, mode)) in enumerate(files.items()))
    return Plan(entries=tuple(sorted(entries, key=lambda item: item.name)), single=single)


def seen(plan: Plan) -> object:
    """What a pod can see."""
    return plan.single, [(str(item.name), item.blob.digest, item.blob.size, item.mode) for item in plan.entries]


@given(one=ENTRIES, other=ENTRIES, single=st.booleans(), other_single=st.booleans())
def test_plans_have_the_same_digest_if_and_only_if_they_look_the_same(
    *, one: dict[str, tuple[bytes, int]], other: dict[str, tuple[bytes, int]], single: bool, other_single: bool
) -> None:
    first, second = plan_of(one, single=single), plan_of(other, single=other_single)
    assert (first.digest == second.digest) == (seen(first) == seen(second))


@given(ENTRIES, st.integers(0, 5), st.sampled_from(["layer", "rule", "media type", "annotations", "left out"]))
def test_plan_digest_does_not_depend_on_what_no_pod_sees(
    files: dict[str, tuple[bytes, int]], number: int, what: str
) -> None:
    plan = plan_of(files)
    changes = {
        "layer": lambda item: replace(item, layer=number + 10),
        "rule": lambda item: replace(item, rule="digest"),
        "media type": lambda item: replace(item, blob=replace(item.blob, media_type="other/type")),
        "annotations": lambda item: replace(item, blob=replace(item.blob, annotations={"a": "b"})),
        "left out": lambda item: item,
    }
    left = (LeftOut(layer=number, reason="excluded"),) if what == "left out" else ()
    changed = Plan(entries=tuple(map(changes[what], plan.entries)), left=left)
    assert changed.digest == plan.digest


@given(ENTRIES.filter(bool), st.sampled_from(["name", "content", "mode", "removed", "added", "single"]))
def test_plan_digest_changes_with_whatever_a_pod_sees(files: dict[str, tuple[bytes, int]], what: str) -> None:
    plan = plan_of(files)
    first, *rest = plan.entries
    changed = {
        "name": (replace(first, name=Name((*first.name.components, "new"))), *rest),
        "content": (replace(first, blob=Descriptor.of(b"other content", "a/b")), *rest),
        "mode": (replace(first, mode=first.mode ^ 0o111), *rest),
        "removed": tuple(rest),
        "added": (*plan.entries, entry("zzzz/new", b"")),
        "single": plan.entries,
    }
    assert Plan(entries=changed[what], single=what == "single").digest != plan.digest


def test_plan_digest_is_the_same_in_every_release_that_lays_trees_out_alike() -> None:
    plan = plan_of({"a/b.txt": (b"alpha", 0o444), "\u00e9": (b"", 0o555)})
    # a change here means that every node lays out every tree again: raise the layout version when you mean it
    assert str(plan.digest) == "sha256:feb0dcc991a746edc203525957b38c4a2b0623383359e1ad200944faa734bc61"


ARCHIVES: dict[str, tuple[PlanArchive, ...]] = {
    "none": (),
    "content": (archive(b"other"),),
    "compression": (replace(archive(), compression=Compression.ZSTD),),
    "directory": (replace(archive(), directory=Name(("d",))),),
    "prefix": (replace(archive(), prefix=Name(("d",))),),
    "change set": (replace(archive(), is_image_layer=True),),
    "links": (replace(archive(), skips_links=True),),
    "digest to check": (replace(archive(), content=Digest.of(b"uncompressed")),),
    "twice": (archive(), archive(layer=1)),
    "another above": (archive(), archive(b"other", 1)),
    "another below": (archive(b"other"), archive(layer=1)),
}


def test_plan_digest_changes_with_each_thing_that_changes_what_an_archive_brings() -> None:
    plans = [Plan(archives=archives) for archives in (*ARCHIVES.values(), (archive(),))]
    assert len({plan.digest for plan in plans}) == len(ARCHIVES) + 1


@pytest.mark.parametrize(
    "changed",
    [
        replace(archive(), layer=7),
        replace(archive(), rule="title, unpacked"),
        replace(archive(), blob=Descriptor.of(b"tar", "another/type")),
    ],
    ids=["layer", "rule", "media type"],
)
def test_plan_digest_does_not_depend_on_what_changes_nothing_of_an_archive(changed: PlanArchive) -> None:
    assert Plan(archives=(changed,)).digest == Plan(archives=(archive(),)).digest


@pytest.mark.parametrize(
    "selection",
    [
        Selection(include=(Glob.parse("a"),)),
        Selection(exclude=(Glob.parse("a"),)),
        Selection(path=Name(("a",))),
    ],
    ids=["include", "exclude", "path"],
)
def test_selection_counts_where_there_are_archives_whose_members_it_is_for(selection: Selection) -> None:
    assert Plan(archives=(archive(),), selection=selection).digest != Plan(archives=(archive(),)).digest
    files = (entry("a", b"1"),)
    assert Plan(entries=files, selection=selection).digest == Plan(entries=files).digest


def test_plan_size_counts_files_and_blobs_come_once_in_the_order_of_layers() -> None:
    plan = Plan(entries=(entry("a", b"12", 1), entry("b", b"345", 0), entry("c", b"12", 2)))
    assert plan.size == 7
    assert [blob.size for blob in plan.blobs] == [3, 2]


def test_plan_size_and_blobs_count_archives_packed_and_leave_out_what_is_local() -> None:
    local = replace(entry("m", b"1234", 0), layer=None, is_local=True)
    config = replace(entry("c", b"12345", 0), layer=None)
    plan = Plan(entries=(config, local, entry("f", b"1", 1)), archives=(archive(b"tar tar", 0),))
    assert plan.size == 5 + 4 + 1 + 7
    assert [blob.size for blob in plan.blobs] == [5, 7, 1]
