"""Build hook: generates the gRPC stubs of `csi_oras.csi.pb` from `proto/csi.proto`.

Runs for wheels and for editable installs alike, so that nothing generated is ever committed.
"""

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class StubBuildHook(BuildHookInterface):  # type: ignore[misc]
    """Run protoc once per build."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 (hatchling's signature)
        """Generate `csi_pb2.py`, `csi_pb2_grpc.py` and their type stubs.

        Raises:
            RuntimeError: protoc refused the proto file.
        """
        generate(Path(self.root))


def generate(root: Path) -> None:
    """Write the stubs below `root`; the proto file gets a package path, so that its imports are absolute."""
    import grpc_tools  # noqa: PLC0415 (only the build environment has it)
    from grpc_tools import protoc  # noqa: PLC0415

    out = root / "csi_oras" / "csi" / "pb"
    out.mkdir(exist_ok=True)
    (out / "__init__.py").write_text('"""Generated from proto/csi.proto; do not edit."""\n')
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    arguments = [
        "protoc",
        f"--proto_path=csi_oras/csi/pb={root / 'proto'}",
        f"--proto_path={well_known}",
        f"--python_out={root}",
        f"--grpc_python_out={root}",
        *([f"--mypy_out={root}", f"--mypy_grpc_out={root}"] if _on_path("protoc-gen-mypy") else []),
        "csi_oras/csi/pb/csi.proto",
    ]
    if protoc.main(arguments) != 0:
        raise RuntimeError("protoc could not compile proto/csi.proto")


def _on_path(program: str) -> bool:
    import shutil  # noqa: PLC0415

    return shutil.which(program) is not None


if __name__ == "__main__":
    generate(Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve())
