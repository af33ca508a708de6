"""What a photo costs by each protocol: measured against the service, and told."""

from __future__ import annotations

import sys

import pytest

from tools.bench import protocols


@pytest.mark.ci
@pytest.mark.skipif(sys.platform != "linux", reason="CPU time of threads is read from /proc")
def test_each_protocol_is_measured_with_each_kind_of_images(capsys: pytest.CaptureFixture[str]) -> None:
    assert protocols.main(["--rounds", "1", "--calls", "8"]) == 0
    rows = [line.split("|")[1:3] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    grpc, web = (protocols.CLASSIFY, protocols.OPEN_INFERENCE), (protocols.HTTP_BINARY, protocols.HTTP_JSON)
    assert [(kind.strip(), name.strip()) for kind, name in rows[1:]] == [
        *(("jpeg", name) for name in (*grpc, protocols.HTTP_FILE, *web)),
        *(("raw", name) for name in (*grpc, *web)),
    ]


def test_a_ratio_is_of_the_same_round() -> None:
    cpu = {"jpeg": {protocols.CLASSIFY: [1e-3, 2e-3, 4e-3], protocols.OPEN_INFERENCE: [1.1e-3, 2.2e-3, 4.4e-3]}}
    told = protocols.table({"machine": {}, "model": "simulated", "cpu": cpu})
    assert "| jpeg | Open Inference Protocol | 2200 | 1.100 | 1.100 to 1.100 |" in told
