from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from tools.bench import figures, report
from tools.bench.service import batches

# A machine of 2 cores on which decoding takes 4 ms and computing 16 ms of one core, an image; the service adds 1 ms
# and its callers 2 ms. All cores are busy all the time.
ALONE = {
    "decode": {"images": 1000, "wall": 2.0, "cpu": 4.0},
    "compute": {"images": 1000, "wall": 8.0, "cpu": 16.0},
    "together": {"images": 1000, "wall": 10.0, "cpu": 20.0},
}
LOAD: dict[str, Any] = {
    "requests": 1000,
    "images": 1000,
    "rate": 1000 / 11.5,
    "seconds": 11.5,
    "server_cpu": 21.0,
    "generator_cpu": 2.0,
    "latency": {"p50": 0.020, "p95": 0.040, "p99": 0.060, "mean": 0.02, "max": 0.07},
    "errors": {},
    "batches": {"8": 125},
    "batch_seconds": 0.064,
}
SWEEP = {"best": 8, "sizes": {"1": {"images": 10, "wall": 0.1, "cpu": 0.2}, "8": ALONE["compute"]}}
KIND: dict[str, Any] = {
    "saturated": [{**ALONE, "service": LOAD}] * 3,
    "lone": [
        {
            "alone": {"decode": [0.004] * 3, "compute": [0.010] * 3},
            "service": {"latency": {"p50": 0.0152}},
            "echo": {"latency": {"p50": 0.0009}},
        },
    ],
    "callers": {"1": LOAD},
    "open": {"0.8": {"asked": 70.0, **LOAD}},
    "beside_bulk": {"lone": {**LOAD, "latency": {**LOAD["latency"], "p50": 0.096}}, "bulk": LOAD},
}
RESULT: dict[str, Any] = {
    "machine": {"CPU": "A CPU, 2 cores"},
    "effort": "quick",
    "date": "2000-01-01",
    "cores": 2,
    "others": 0.0,
    "stolen": 0.0,
    "networks": [
        {
            "network": "mobilenet",
            "runtime": "tensorflow",
            "sweep": SWEEP,
            "first_start": {"import": 4.0, "ready": 7.5},
            "starts": [{"import": 4.0, "ready": 5.5, "cpu": 6.0, "rss": 400 << 20, "log": {}}],
            "kinds": {"jpeg": KIND},
        }
    ],
}


def figure(name: str, result: dict[str, Any] = RESULT) -> figures.Figure:
    return next(each for each in figures.figures(result) if each.name == name)


def test_the_share_is_of_the_servers_cpu_time() -> None:
    assert figure("decode + compute, share of the service's CPU").value == pytest.approx(20 / 21)
    assert figure("decode + compute, share of the service's CPU").met is True


def test_throughput_without_the_generator_says_the_same() -> None:
    assert figure("limit: 1 / (decode + compute)").value == pytest.approx(100)
    assert figure("throughput without the generator, share of the limit").value == pytest.approx(20 / 21)


def test_a_service_that_used_small_batches_is_compared_with_small_batches() -> None:
    slow = copy.deepcopy(RESULT)
    for one in slow["networks"][0]["kinds"]["jpeg"]["saturated"]:
        one["service"] = {**LOAD, "batches": {"1": 1000}}
    # 20 ms of CPU an image at batch size 1, and 4 ms of decoding, of the service's 21 ms.
    assert figure("the same at the batch sizes it really had", slow).value == pytest.approx(24 / 21)


def test_latencies_are_compared_with_what_is_behind_them() -> None:
    assert figure("lone request above decode + compute, median").value == pytest.approx(1.2)
    assert figure("of it a bare echo of the same bytes").value == pytest.approx(0.9)
    assert figure("p99 at 80% of maximum, open loop").value == pytest.approx(60 / 15.2)
    assert figure("lone caller beside a stream, median in batch times").value == pytest.approx(1.5)
    assert figure("of it beyond the framework's import").value == pytest.approx(1.5)
    assert figure("of it beyond the import of both frameworks").value == pytest.approx(3.5)


def test_a_missed_target_is_said() -> None:
    late = copy.deepcopy(RESULT)
    late["networks"][0]["starts"][0]["ready"] = 7.0
    assert figure("of it beyond the framework's import", late).met is False
    row = next(line for line in report.markdown(late).splitlines() if "framework's import" in line)
    assert row == "| of it beyond the framework's import | 3.00 s |  | ≤ 2.00 s | **missed** |"


def test_small_calls_are_measured_against_echo_and_network() -> None:
    small = copy.deepcopy(RESULT)
    echo = {**LOAD, "rate": 1000.0}
    ours = {**LOAD, "generator_cpu": 0.0}
    small["networks"][0]["small"] = [
        {
            "compute": {"images": 1000, "wall": 1.0, "cpu": 2.0},
            "echo_aio": {**echo, "rate": 900.0},
            "echo_sync": echo,
            "single": {**ours, "rate": 400.0},
            "long": {**ours, "rate": 900.0},
            "stream": {**ours, "rate": 850.0},
        }
    ]
    assert figure("single-image calls, share of the possible", small).value == pytest.approx(0.8)
    assert figure("32-image calls, share of the network alone", small).value == pytest.approx(0.9)
    assert figure("stream, share of the network alone", small).value == pytest.approx(0.85)


def test_memory_that_grows_is_seen() -> None:
    growing = copy.deepcopy(RESULT)
    growing["networks"][0]["overload"] = {"rss": [100, 100, 100, 100, 110, 110]}
    found = figure("last third of the overload against the middle one", growing)
    assert found.value == pytest.approx(1.1)
    assert found.met is False


def test_a_noisy_machine_is_said() -> None:
    assert "not to be relied upon" not in report.markdown(RESULT)
    assert "not to be relied upon" in report.markdown({**RESULT, "others": 0.2})


def test_what_is_recorded_has_all_figures_and_not_each_load() -> None:
    assert "| 1 callers |" in report.markdown(RESULT)
    recorded = report.short(RESULT).splitlines()
    assert "| | mobilenet, tensorflow, jpeg |" in recorded
    assert "| | mobilenet, tensorflow |" in recorded
    for each in figures.figures(RESULT):
        (row,) = [line for line in recorded if line.startswith(f"| {each.name} |")]
        assert ("**" in row) == (each.met is False)
    assert not any("callers" in line for line in recorded)


def test_subjects_stand_beside_one_another() -> None:
    assert report.beside({"raw": {"a": "1", "b": "2"}, "jpeg": {"b": "3"}}) == [
        "| | raw | jpeg |",
        "|---|---:|---:|",
        "| a | 1 |  |",
        "| b | 2 | 3 |",
    ]


def test_the_table_replaces_the_one_before(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.record("new\n", page)
    report.record("newer\n", page)
    assert page.read_text() == f"before\n{report.BEGIN}\n\nnewer\n\n{report.END}\nafter\n"


def test_a_page_without_markers_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("text\n")
    with pytest.raises(ValueError, match="must hold the lines"):
        report.record("table", page)
    assert page.read_text() == "text\n"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # matplotlib's own, when it is loaded
def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    report.plot(RESULT, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_batches_are_counted_by_the_size_they_were_padded_to() -> None:
    def histogram(counts: dict[str, float]) -> dict[str, float]:
        return {f"glimpse_batch_size_bucket,le={bound}": value for bound, value in counts.items()}

    before = histogram({"1.0": 1, "2.0": 1, "3.0": 1, "4.0": 1, "6.0": 1, "8.0": 1, "+Inf": 1})
    after = histogram({"1.0": 3, "2.0": 3, "3.0": 4, "4.0": 6, "6.0": 6, "8.0": 7, "+Inf": 7})
    assert batches(before, after, [1, 2, 4, 8]) == {1: 2, 4: 3, 8: 1}
