"""Which GPUs a process may use and what memory they have, from an nvidia-smi made for it and from device files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from glimpse.server.machine import gpus
from tests.conftest import ROOT

TWO = "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-5d2d-a)\nGPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-9a01-b)"
DIVIDED = (
    "GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d2d-a)\n"
    "  MIG 3g.20gb     Device  0: (UUID: MIG-11-c)\n"
    "  MIG 3g.20gb     Device  1: (UUID: MIG-22-d)\n"
    "GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-9a01-b)"
)


@pytest.fixture
def devices(tmp_path: Path) -> Path:
    """Device files of two GPUs, as a container has them that was given the fourth and the tenth."""
    folder = tmp_path / "dev"
    folder.mkdir()
    for name in ("nvidia3", "nvidia9", "nvidiactl", "nvidia-uvm", "nvidia-modeset", "null"):
        (folder / name).touch()
    return folder


def program(folder: Path, says: str, code: int = 0) -> str:
    """An nvidia-smi that says this, whatever it is asked."""
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{says}\nEND\nexit {code}\n")
    path.chmod(0o755)
    return str(path)


def test_without_nvidia_smi_there_are_as_many_as_device_files(devices: Path, tmp_path: Path) -> None:
    assert gpus.visible({}, devices, str(tmp_path / "missing")) == ("0", "1")
    assert gpus.visible({}, tmp_path / "nowhere", str(tmp_path / "missing")) == ()


def test_nvidia_smi_tells_them_by_uuid(devices: Path, tmp_path: Path) -> None:
    assert gpus.visible({}, devices, program(tmp_path, TWO)) == ("GPU-5d2d-a", "GPU-9a01-b")


def test_of_a_divided_gpu_its_parts_are_told(devices: Path, tmp_path: Path) -> None:
    assert gpus.visible({}, devices, program(tmp_path, DIVIDED)) == ("MIG-11-c", "MIG-22-d", "GPU-9a01-b")


def test_an_nvidia_smi_that_fails_is_not_believed(devices: Path, tmp_path: Path) -> None:
    assert gpus.visible({}, devices, program(tmp_path, TWO, code=9)) == ("0", "1")


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ("1", ("1",)),
        ("1, 0", ("1", "0")),
        ("GPU-9a01", ("GPU-9a01",)),
        ("", ()),
        ("-1", ()),
        ("0,-1,1", ("0",)),
        ("0,2,1", ("0",)),
        ("1,1", ()),
        ("GPU-ffff,0", ()),
        ("none", ()),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(
    chosen: str, expected: tuple[str, ...], devices: Path, tmp_path: Path
) -> None:
    environment = {"CUDA_VISIBLE_DEVICES": chosen}
    assert gpus.visible(environment, devices, program(tmp_path, TWO)) == expected


def test_a_variable_alone_makes_no_gpu(tmp_path: Path) -> None:
    assert gpus.visible({"CUDA_VISIBLE_DEVICES": "0,1"}, tmp_path, str(tmp_path / "missing")) == ()


def test_the_memory_of_a_gpu_is_told_in_bytes_and_for_people(tmp_path: Path) -> None:
    found = gpus.memory("0", program=program(tmp_path, "81559, 61000, 20073"))
    assert found == (81559 << 20, 61000 << 20, 20073 << 20)
    assert "81559 MiB" in str(found)
    assert "20073 MiB are free" in str(found)


@pytest.mark.parametrize("says", ["[N/A], [N/A], [N/A]", "No devices were found", "1, 2"])
def test_memory_that_is_not_told_is_not_known(says: str, tmp_path: Path) -> None:
    assert gpus.memory("0", program=program(tmp_path, says)) is None


def test_a_part_of_a_divided_gpu_has_no_memory_that_is_told(tmp_path: Path) -> None:
    assert gpus.memory("MIG-11-c", program=program(tmp_path, "1, 2, 3")) is None


def test_no_framework_is_imported_to_find_them() -> None:
    script = (
        "import sys; from glimpse.server.machine import gpus; gpus.visible(); "
        "print(sorted({'keras', 'numpy', 'jax', 'torch', 'tensorflow'} & sys.modules.keys()))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env={"PYTHONPATH": "src"}, capture_output=True, text=True, check=True
    )
    assert ended.stdout == "[]\n"
