"""Manifests and configs by mutation: an honest artifact of some kind, of which some members are turned into others."""

import json
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from csi_oras.artifact.kind import Artifact
from csi_oras.artifact.kinds import kind_of
from csi_oras.artifact.planner import plan
from csi_oras.errors import CsiOrasError
from csi_oras.oci import manifest as manifests
from csi_oras.oci.digest import Digest
from csi_oras.oci.glob import Glob
from csi_oras.oci.manifest import Index
from csi_oras.oci.name import Name
from csi_oras.oci.plan import Plan
from csi_oras.oci.platform import Platform
from csi_oras.oci.reference import Reference
from csi_oras.oci.selection import Selection
from tests.fuzz.archives import paths
from tests.fuzz.judge import assert_refusal
from tests.support import corpus_artifacts as shapes
from tests.support.artifacts import manifest

SUBJECT = "reg.example/a/b:v1"
_KEYS = [
    "mediaType", "digest", "size", "annotations", "config", "layers", "manifests", "platform", "artifactType", "name",
    "schemaVersion", "org.opencontainers.image.title", "org.cncf.model.filepath", "org.cnai.model.filepath",
    "org.cncf.model.file.metadata+json", "io.deis.oras.content.unpack", "io.deis.oras.content.digest", "rootfs",
    "diff_ids",
    "modelfs", "diffIds", "model", "path", "parts", "code", "datasets", "docs", "diffId", "version", "subject",
    "urls", "data",
]  # fmt: skip
_TYPES = [
    "application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json",
    "application/vnd.cncf.model.weight.v1.tar+zstd", "application/vnd.cncf.model.config.v1+json",
    "application/vnd.cnai.model.doc.v1.tar", "application/vnd.docker.ai.gguf.v3", "application/vnd.docker.ai.dir.tar",
    "application/vnd.docker.ai.model.config.v0.1+json", "application/vnd.docker.ai.model.config.v0.2+json",
    "application/vnd.kitops.modelkit.config.v1+json", "application/vnd.kitops.modelkit.model.v1.tar",
    "application/vnd.kitops.modelkit.dataset.v1.tar+gzip", "application/vnd.ollama.image.model",
    "application/vnd.ollama.image.tensor", "application/vnd.ollama.image.license",
    "application/vnd.cncf.helm.config.v1+json",
    "application/vnd.cncf.helm.chart.content.v1.tar+gzip", "application/vnd.helm.plugin.v1+json",
    "application/vnd.sylabs.sif.layer.v1.sif", "application/vnd.cncf.flux.config.v1+json",
    "application/vnd.cncf.flux.content.v1.tar+gzip", "application/wasm", "application/vnd.wasm.config.v0+json",
    "application/vnd.oci.empty.v1+json", "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json", "application/vnd.erofs.layer.v1", "a/b", "",
]  # fmt: skip
_VALUES: st.SearchStrategy[Any] = (
    paths
    | st.sampled_from(_TYPES)
    | st.sampled_from(
        ["true", "sha256:" + "a" * 64, "sha256:" + "b" * 64, "sha512:" + "c" * 128, "md5:0", "sha256:..", "{}"]
    )
    | st.sampled_from(
        [None, True, False, 0, 1, -1, 2**53, 2**64, 1.5, [], {}, [None], {"": ""}, '{"mode": 493}', '{"mode": -1}']
    )
)
_PARTS = st.fixed_dictionaries(
    {"text": st.sampled_from(["x", "y", "zz"]), "type": st.sampled_from(_TYPES)},
    optional={
        "title": paths,
        "name": paths,
        "annotations": st.dictionaries(st.sampled_from(_KEYS[11:17]), paths | st.just("true"), max_size=3),
    },
)
_CONFIGS: list[Any] = [
    {},
    {"model": {"path": "a/b"}},
    {"model": {"path": "a", "parts": [{"path": "p"}]}, "datasets": [{"path": "./d/"}], "code": [{"path": "."}]},
    {"rootfs": {"type": "layers", "diff_ids": ["sha256:" + "a" * 64]}},
    {"modelfs": {"type": "layers", "diffIds": ["sha256:" + "a" * 64]}},
    {"name": "chart", "version": "1.0.0"},
]


@dataclass(frozen=True, kw_only=True)
class Case:
    """What one example is: the documents, and what a volume asks for."""

    manifest: bytes
    config: bytes
    selection: Selection
    reference: str = SUBJECT


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """An artifact of up to four layers with some members turned, under some selection."""
    shape = {
        "parts": draw(st.lists(_PARTS, max_size=4)),
        "config": draw(st.sampled_from(_CONFIGS)),
        "config_type": draw(st.sampled_from(_TYPES)),
    }
    made = shapes.of_parts(shape)
    document = json.loads(manifest(made["layers"], made["config"]))
    config = json.loads(made["config"].content)
    for _ in range(draw(st.integers(0, 3))):
        _turn(draw, document)
    for _ in range(draw(st.integers(0, 2))):
        _turn(draw, config)
    return Case(
        manifest=_spoilt(draw, json.dumps(document).encode()),
        config=_spoilt(draw, json.dumps(config).encode()),
        selection=draw(_SELECTIONS),
        reference=draw(st.sampled_from([SUBJECT, "reg.example:5000/a/b_c:v1_2", "reg.example/b@sha256:" + "a" * 64])),
    )


_SELECTIONS = st.builds(
    Selection,
    path=st.sampled_from([None, None, None, Name(("a",)), Name(("a", "b"))]),
    include=st.sampled_from([(), (), (Glob.parse("a/**"),), (Glob.parse("*"),)]),
    exclude=st.sampled_from([(), (), (Glob.parse("b"),)]),
    media_types=st.sampled_from([frozenset[str](), frozenset({_TYPES[0]})]),
    unpack=st.booleans(),
    metadata=st.booleans(),
)


def _turn(draw: st.DrawFn, document: Any) -> None:
    """Set, remove or add one member somewhere in a document."""
    holder = document
    while True:
        inner = [
            item for item in (holder.values() if isinstance(holder, dict) else holder) if isinstance(item, (dict, list))
        ]
        if not inner or draw(st.integers(0, 2)) == 0:
            break
        holder = draw(st.sampled_from(inner))
    value = deepcopy(draw(_VALUES))  # it may be turned itself
    if isinstance(holder, list):
        holder.insert(draw(st.integers(0, len(holder))), value)
        return
    key = draw(st.sampled_from(sorted(holder) or _KEYS) | st.sampled_from(_KEYS))
    if draw(st.integers(0, 3)) == 0:
        holder.pop(key, None)
    else:
        holder[key] = value


def _spoilt(draw: st.DrawFn, content: bytes) -> bytes:
    if draw(st.integers(0, 15)):
        return content
    place = draw(st.integers(0, len(content)))
    return content[:place] + draw(st.binary(max_size=4)) + content[place + draw(st.integers(0, 4)) :]


def check(case: Case) -> bool:
    """Plan, hold whatever comes of it to what must be, and say whether it was taken."""
    try:
        found = manifests.parse(case.manifest, "", case.reference, most_layers=100)
        if isinstance(found, Index):
            found.select(Platform("linux", "amd64"), case.reference)
            return True
        artifact = Artifact(
            reference=Reference.parse(case.reference),
            root=Digest.of(case.manifest),
            digest=Digest.of(case.manifest),
            size=len(case.manifest),
            manifest=found,
            config=case.config,
        )
        first, second = (plan(artifact, kind_of(found), case.selection) for _ in range(2))
    except CsiOrasError as error:
        assert_refusal(error, case.reference)
        return False
    assert first.digest == second.digest
    assert_plan(first)
    return True


def assert_plan(found: Plan) -> None:
    """Hold a plan to names that are safe and do not contradict each other."""
    names = [entry.name for entry in found.entries]
    assert len(set(names)) == len(names)
    for entry in found.entries:
        text = str(entry.name)
        if entry.rule != "metadata":
            assert Name.parse(text, portable=False) == entry.name
        assert entry.mode in (0o444, 0o555)
        assert not set(entry.name.parents) & set(names), text
    for archive in found.archives:
        for above in filter(None, (archive.directory, archive.prefix)):
            assert Name.parse(str(above), portable=False) == above
