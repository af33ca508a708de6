"""Makes the stubs from the .proto: `python proto/generate.py FOLDER` writes them under FOLDER/glimpse/v1.

Generated code refuses to load on a protobuf runtime older than the one it was made for. grpcio-tools 1.76 makes it
for 6.31.1, the oldest that TensorFlow takes, and protobuf promises that the next major version, 7, loads it as
well. Newer grpcio-tools would make stubs for 7 alone, so its version is pinned in pyproject.toml.
"""

from __future__ import annotations

import shutil
import sys
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parent
CONTRACT = "glimpse/v1/classifier.proto"


def generate(folder: Path) -> None:
    """Write the stubs and their types under `folder`.

    Raises:
        RuntimeError: protoc refused the .proto; it has said why on standard error.
        FileNotFoundError: mypy-protobuf, which writes the service's types, is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plugin = shutil.which("protoc-gen-mypy_grpc", path=str(Path(sys.executable).parent))
    if plugin is None:
        raise FileNotFoundError("protoc-gen-mypy_grpc is missing beside this Python; `make proto` installs it.")
    code = protoc.main(
        [
            "protoc",
            f"--proto_path={ROOT}",
            f"--proto_path={files('grpc_tools') / '_proto'}",  # google/protobuf/*.proto
            f"--plugin={plugin}",
            f"--python_out={folder}",
            f"--pyi_out={folder}",
            f"--grpc_python_out={folder}",
            f"--mypy_grpc_out={folder}",
            CONTRACT,
        ]
    )
    if code != 0:
        raise RuntimeError(f"protoc ended with exit status {code}.")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python proto/generate.py FOLDER")
    generate(Path(sys.argv[1]))
