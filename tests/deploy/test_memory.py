"""What the server's settings allow at once fits the memory that its pod may have, and the runbook says how."""

from __future__ import annotations

import re

import pytest

from glimpse.server.settings import Settings
from tests.deploy.tools import DEPLOY

MIB = 1 << 20
RUNBOOK = (DEPLOY / "README.md").read_text()
_PIXEL = 16  # bytes at the most, while a picture is decoded: `models.decoding.limits`
_PICTURE = 224 * 224 * 3  # of the network's input, bytes
_CONNECTION = 64 * 1024  # bytes


def setting(name: str) -> int:
    """A setting's default."""
    return int(Settings.model_fields[name].default)


def parts(cpus: int) -> list[int]:
    """What may be in memory at once, in MiB, in the order of the runbook's table."""
    shared = int(found[1]) if (found := re.search(r"medium: Memory\n\s*sizeLimit: (\d+)Mi", base())) else 0
    return [
        512,  # the server itself
        setting("max_receiving_bytes") // MIB,
        150,  # of what is being received, beyond the budget
        setting("max_bytes_in_flight") // MIB,
        round(cpus * setting("max_image_pixels") * _PIXEL / MIB),
        round(setting("max_images_in_flight") * _PICTURE / MIB),
        round(setting("max_connections") * _CONNECTION / MIB),
        shared,
    ]


def base() -> str:
    return (DEPLOY / "base" / "deployment.yaml").read_text()


def limits(overlay: str, file: str) -> tuple[int, int]:
    """(CPUs, MiB) that an overlay's container may have."""
    text = (DEPLOY / "overlays" / overlay / file).read_text().split("limits:", 1)[1]
    cpus = re.search(r'cpu: "(\d+)"', text)
    memory = re.search(r"memory: (\d+)(Mi|Gi)", text)
    assert cpus is not None
    assert memory is not None
    return int(cpus[1]), int(memory[1]) * (1024 if memory[2] == "Gi" else 1)


@pytest.mark.parametrize(("overlay", "file"), [("cpu", "resources.yaml"), ("gpu", "device.yaml")])
def test_what_the_settings_allow_fits_the_pod_with_a_tenth_to_spare(overlay: str, file: str) -> None:
    cpus, memory = limits(overlay, file)
    assert sum(parts(cpus)) * 1.1 <= memory


def test_the_runbook_adds_up_what_the_settings_allow() -> None:
    cpus, memory = limits("cpu", "resources.yaml")
    rows = re.findall(r"^\| (\*?\*?)(\d+)\*?\*? \| (.*?) \|", RUNBOOK, re.MULTILINE)
    told = [int(number) for _, number, _ in rows]
    assert told == [*parts(cpus), sum(parts(cpus))]
    assert f"the limit is {memory:,}" in rows[-1][2]


def test_every_setting_of_the_sum_is_one_of_the_server() -> None:
    table = RUNBOOK.split("**Memory.**", 1)[1].split("\n\nIn a measurement", 1)[0]
    names = {name.lower() for name in re.findall(r"`GLIMPSE_(\w+)`", table)}
    assert names >= {
        "max_receiving_bytes",
        "max_bytes_in_flight",
        "max_image_pixels",
        "max_images_in_flight",
        "max_connections",
    }
    assert names <= {*Settings.model_fields}


def test_decoders_are_as_many_as_the_container_s_cpus() -> None:
    assert re.search(
        r"GLIMPSE_DECODE_THREADS\n\s+valueFrom:\n\s+resourceFieldRef:\n(.*\n)?\s+resource: limits.cpu", base()
    )
