from __future__ import annotations

import json
from pathlib import Path

from tools.load.report import Report, counts


def test_a_report_names_what_is_broken_and_is_written_whole(tmp_path: Path) -> None:
    report = Report("a run", figures={"a | b": "1"})
    report.promise("this holds", held=True)
    report.promise("this does not", held=0, found="seven\nof them")
    assert [promise.text for promise in report.broken] == ["this does not"]
    assert "| this does not | **broken** | seven of them |" in report.markdown()
    report.write(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text("utf-8"))["promises"][1]["held"] is False


def test_counts_are_told_by_falling_number() -> None:
    assert counts({"b": 1, "a": 1, "c": 2000, "none": 0}) == "2,000 c, 1 a, 1 b"
    assert counts({}) == "none"
