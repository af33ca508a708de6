"""`python -m glimpse.models`: the table of a network's stages, its drawing, and the list of all."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from glimpse.models.__main__ import main
from glimpse.models.builder import assemble
from glimpse.models.catalogue import architectures, find
from glimpse.models.drawing import draw
from glimpse.models.spec import StageSummary

_SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")


def test_describe_shows_every_stage_and_their_sums(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "se_resnet20", "--variant", "cifar"]) == 0
    printed = capsys.readouterr().out
    assembly = assemble(find("se_resnet20", "cifar"))
    for stage in assembly.stages:
        (line,) = (line for line in printed.splitlines() if line.startswith(f"{stage.name} "))
        assert f"{stage.parameters:,}" in line
        assert f"{stage.multiply_adds:,}" in line
        assert " x ".join(map(str, stage.output_shape)) in line
    (total,) = (line for line in printed.splitlines() if line.startswith("total"))
    assert "278,452" in total
    assert "276,884 of the parameters are trainable" in printed


def test_describe_takes_classes_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--variant", "keras", "--option", "alpha=0.25", "--classes", "7"]
    assert main(["describe", "mobilenet", *options]) == 0
    printed = capsys.readouterr().out
    # 475,544 with 1000 classes; each class less is 256 weights and a bias less.
    assert f"{475_544 - 993 * 257:,}" in printed


def test_describe_draws_the_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "net.svg"
    assert main(["describe", "se_resnet20", "--svg", str(target)]) == 0
    texts = [element.text or "" for element in ET.parse(target).iter(f"{_SVG}text")]  # noqa: S314 - our own file
    assert str(target) in capsys.readouterr().out
    for stage in assemble(find("se_resnet20")).stages:
        assert stage.name in texts
        assert " x ".join(map(str, stage.output_shape)) in texts


def test_the_bars_of_a_drawing_add_up_to_the_whole() -> None:
    stages = [
        StageSummary("stem", "a", 1, (8, 8, 4), 100, 9000),
        StageSummary("side", "b", 1, (3,), 50, 0, auxiliary=True),
        StageSummary("classifier", "<c & d>", 1, (3,), 350, 1000),
    ]
    svg = ET.fromstring(draw("x < y", "A & B", (8, 8, 3), stages))  # noqa: S314 - our own text
    bars = [rect for rect in svg.iter(f"{_SVG}rect") if rect.get("height") == "12"]
    for colour in {bar.get("fill") for bar in bars}:
        lengths = [float(bar.get("width", 0)) for bar in bars if bar.get("fill") == colour]
        assert sum(lengths) == pytest.approx(160, abs=0.2)
    assert sum(rect.get("stroke-dasharray") is not None for rect in svg.iter(f"{_SVG}rect")) == 1


def test_list_names_every_architecture_and_variant(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    for name, variants in architectures().items():
        for variant in variants:
            assert re.search(rf"^{name} +{variant} ", printed, re.MULTILINE), f"{name} {variant} is not listed"


def test_a_narrow_terminal_leaves_the_accuracies_of_the_list_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^resnet50 +torchvision +224 x 224 x 3 +imagenet_v2 +80\.9% +95\.4%$", printed, re.MULTILINE)
    assert "\N{HORIZONTAL ELLIPSIS}" not in printed


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["describe", "resnet51"], "Did you mean resnet50"),
        (["describe", "resnet20", "--option", "depth=3"], "no option 'depth'"),
        (["describe", "se_resnet20", "--classes", "0"], "classes must be at least 1"),
        (["describe", "se_resnet20", "--svg", "/nowhere/x.svg"], "/nowhere/x.svg"),
    ],
)
def test_what_cannot_be_described_is_answered_in_one_line(
    arguments: list[str], answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert answer in error
    assert error.count("\n") == 1
