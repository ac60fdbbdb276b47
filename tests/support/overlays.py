"""Writable volumes without a driver: overlays that the kernel has made, and what becomes of them once unmounted."""

import io
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from csi_oras.oci.digest import Digest
from csi_oras.oci.plan import Plan
from csi_oras.oci.selection import Selection
from csi_oras.oci.view import Directory, File, Link
from csi_oras.pack.layers import PackedDirectory, Reused
from csi_oras.pack.survey import Survey, Volume, survey
from csi_oras.pack.tarball import pack
from csi_oras.pack.walk import WalkLimits
from tests.support.artifacts import FILE_TYPE, Layer
from tests.support.planning import artifact, planned
from tests.support.unpacking import Contents, extract, source

SUBJECT = "reg.example/t/x:v1"
LIMITS = WalkLimits(entries=1000, size=1 << 30)
EVERYTHING = Selection()
_OPTIONS = "redirect_dir=off,metacopy=off,index=off,xino=off"


@dataclass(kw_only=True)
class Base:
    """An artifact: its layers, the plan of it, and the tree that shows it."""

    layers: list[Layer] = field(default_factory=list)
    selected: Mapping[str, Any] = field(default_factory=dict)

    def plan(self) -> Plan:
        return planned(artifact(self.layers), **self.selected)

    def lay_out(self, root: Path) -> None:
        """Make the tree as the store has it."""
        plan, sink = self.plan(), Contents()
        blobs = {Digest.of(layer.content): layer.content for layer in self.layers}
        sources = [
            source(blobs[one.blob.digest], one.compression, layer=one.layer, directory=one.directory, prefix=one.prefix,
                   content=one.content)
            for one in plan.archives
        ]  # fmt: skip
        view = extract(sources, sink, plan.selection).view
        for entry in plan.entries:
            view.add(entry.name, File(entry.blob.digest, entry.blob.size, entry.mode))
        assert view.look_alikes() is None
        for path, node in view.walk():
            place = root.joinpath(*path)
            match node:
                case Directory():
                    place.mkdir(parents=True, exist_ok=True)
                case Link():
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.symlink_to(node.target)
                case File():
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_bytes({**sink.kept, **blobs}[node.content])
                    place.chmod(node.mode)
        for directory, _, _ in os.walk(root):
            Path(directory).chmod(0o555)


class Overlay:
    """A base, what is written above it, and both together while it is mounted."""

    def __init__(self, directory: Path, base: Base | None = None) -> None:
        self.base = base or Base()
        self.tree, self.upper, self.work, self.root = (directory / name for name in ("tree", "upper", "work", "root"))
        for path in (self.tree, self.upper, self.work, self.root):
            path.mkdir(parents=True)
        self.base.lay_out(self.tree)

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        """Show it, writable, in a with statement."""
        where = f"lowerdir={self.tree},upperdir={self.upper},workdir={self.work}"
        subprocess.run(
            ["mount", "-t", "overlay", "-o", f"nosuid,{where},{_OPTIONS}", "test", str(self.root)], check=True
        )
        try:
            yield self.root
        finally:
            subprocess.run(["umount", str(self.root)], check=True)

    @contextmanager
    def opened(self) -> Iterator[Volume]:
        """Open its directories in a with statement."""
        upper, tree = (os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (self.upper, self.tree))
        try:
            yield Volume(upper=upper, tree=tree, plan=self.base.plan(), subject=SUBJECT)
        finally:
            os.close(upper)
            os.close(tree)

    def survey(self, selection: Selection = EVERYTHING, limits: WalkLimits = LIMITS, most_files: int = 100) -> Survey:
        """Survey it."""
        with self.opened() as volume:
            return survey(volume, selection, limits, most_files)

    def pushed(self, selection: Selection = EVERYTHING, most_files: int = 100) -> Base:
        """Return the artifact that it becomes; what it reuses has to be of the base."""
        blobs = {Digest.of(layer.content): layer.content for layer in self.base.layers}
        layers = []
        with self.opened() as volume:
            found = survey(volume, selection, LIMITS, most_files)
            assert found.uncarriable == ()
            for layer in found.layers:
                if isinstance(layer, Reused):
                    media_type, annotations = layer.descriptor.media_type, layer.descriptor.annotations
                    content = blobs[layer.descriptor.digest]
                elif isinstance(layer, PackedDirectory):
                    packed = io.BytesIO()
                    descriptor = pack(layer, volume.open, packed)
                    media_type, annotations, content = descriptor.media_type, descriptor.annotations, packed.getvalue()
                    assert (descriptor.digest, descriptor.size) == (Digest.of(content), len(content))
                else:
                    with volume.open(layer.name, layer.file) as file:
                        media_type, annotations, content = FILE_TYPE, layer.annotations, file.read()
                layers.append(Layer(content=content, media_type=media_type, annotations=annotations))
        return Base(layers=layers)
