"""`python -m glimpse.models`: the table of a network's stages, its drawing, and the list of all."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from glimpse.models import published, sizes
from glimpse.models.__main__ import _parser, main
from glimpse.models.builder import assemble
from glimpse.models.catalogue import architectures, find, rows
from glimpse.models.commands.list import _lines
from glimpse.models.comparison import names
from glimpse.models.drawing import draw
from glimpse.models.published import catalogue
from glimpse.models.spec import StageSummary
from tests.models.web import BODY, checkpoint, serving

_SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    for name in ("MODEL", "VARIANT", "WEIGHTS"):
        monkeypatch.delenv(f"GLIMPSE_{name}", raising=False)


def test_describe_shows_every_stage_and_their_sums(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "se_resnet20", "--variant", "cifar"]) == 0
    printed = capsys.readouterr().out
    assembly = assemble(find("se_resnet20", "cifar"))
    for stage in assembly.stages:
        (line,) = (line for line in printed.splitlines() if line.startswith(f"{stage.name}\t"))
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
            assert re.search(rf"^{name}\t{variant}\t", printed, re.MULTILINE), f"{name} {variant} is not listed"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have rich take the output for a terminal."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm")


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_shows_whole_accuracies_and_sizes_where_there_is_room(
    width: int, terminal: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["list"]) == 0
    printed = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    sizes = r"25,610,152 +4,089,184,256 +" if width > 80 else ""
    row = rf"^resnet50 +torchvision +224 x 224 x 3 +{sizes}imagenet_v2 +80\.9% +95\.4% *$"
    assert re.search(row, printed, re.MULTILINE)
    assert "\N{HORIZONTAL ELLIPSIS}" not in printed


def test_a_pipe_gets_a_line_for_each_row_neither_padded_nor_wrapped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    for arguments in (["list"], ["describe", "se_resnet20"]):
        assert main(arguments) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line for line in lines if "  " in line or line.endswith(" ")] == []
        table = [line.count("\t") for line in lines if "\t" in line]
        assert len(table) > 5
        assert len(set(table)) == 1


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("xception", {"xception"}),
        ("se_resnet*", {"se_resnet20", "se_resnet34", "se_resnet50", "se_resnet50_legacy"}),
        ("tf_in1k", {"xception", "inception_v4"}),
        ("cifar", {"resnet20", "se_resnet20"}),
    ],
)
def test_the_list_is_filtered_by_name_variant_or_weights(
    pattern: str, names: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", pattern]) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    found = {line.split("\t")[0] for line in lines}
    assert names <= found
    assert found <= names if pattern != "tf_in1k" else all("tf_in1k" in line.split("\t") for line in lines)


def test_the_list_for_programs_has_sizes_and_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {(row["architecture"], row["variant"]) for row in rows} == {
        (name, variant) for name, variants in architectures().items() for variant in variants
    }
    assert all(row["parameters"] > 0 and row["multiply_adds"] > 0 for row in rows)
    (row,) = (row for row in rows if (row["architecture"], row["variant"]) == ("xception", "keras"))
    assert (row["input"], row["classes"], row["parameters"]) == ([299, 299, 3], 1000, 22_910_480)
    assert [(each["tag"], each["top1"], each["publisher"]) for each in row["weights"]] == [("imagenet", 79.0, "keras")]


@pytest.mark.parametrize("name", ["se_resnet20", "mobilenet", "squeezenet1_1"])
def test_the_table_of_sizes_is_what_is_built(name: str) -> None:
    assert sizes.size(find(name)) == sizes.measure(find(name))


@pytest.mark.slow
def test_the_table_of_sizes_is_what_is_built_of_every_row() -> None:
    for row in rows():
        assert sizes.size(row) == sizes.measure(row)


def test_describe_for_programs_has_the_stages_and_their_sums(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "se_resnet20", "--variant", "cifar", "--classes", "7", "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert (described["architecture"], described["variant"], described["classes"]) == ("se_resnet20", "cifar", 7)
    assert described["parameters"] == sum(stage["parameters"] for stage in described["stages"])
    assert described["multiply_adds"] == sum(stage["multiply_adds"] for stage in described["stages"])
    assert 0 < described["trainable_parameters"] < described["parameters"]


@pytest.mark.parametrize("by", ["arguments", "variables"])
def test_fetch_brings_weights_into_the_cache_and_prints_their_path(
    by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as server:
        published_here = replace(checkpoint(server.url), architecture="resnet50", variant="torchvision", tag="v9")
        monkeypatch.setattr(catalogue, "_ROWS", (published_here,))
        monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path))
        if by == "arguments":
            arguments = ["resnet50", "--variant", "torchvision", "--weights", "v9"]
        else:
            arguments = []
            for name, value in {"MODEL": "resnet50", "WEIGHTS": "v9"}.items():
                monkeypatch.setenv(f"GLIMPSE_{name}", value)
        assert main(["fetch", *arguments]) == 0
        assert main(["fetch", *arguments, "--cache", str(tmp_path / "other")]) == 0
        assert len(server.requests) == 2
        assert main(["fetch", *arguments]) == 0
        assert len(server.requests) == 2, "what is there is only checked"
    first, other, again = capsys.readouterr().out.splitlines()
    assert first == again == str(tmp_path / published_here.file)
    assert other == str(tmp_path / "other" / published_here.file)
    assert Path(first).read_bytes() == BODY


def _examples() -> list[str]:
    """The examples in the help of all commands, without what they begin with."""
    commands = next(action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction))
    texts = [command.epilog or "" for command in commands.choices.values()]
    return [line for text in texts for line in re.findall("^  python -m glimpse.models (.+)$", text, re.MULTILINE)]


@pytest.mark.parametrize("example", _examples())
def test_an_example_in_the_help_names_what_there_is(example: str) -> None:
    """It is understood, and its architectures, options and weights are found; nothing is downloaded or built."""
    options = _parser().parse_args(shlex.split(example))
    match example.partition(" ")[0]:
        case "fetch":
            tag = options.weights or published.DEFAULT_TAG
            assert tag in published.tags(options.name, options.variant)
        case "describe":
            assert find(options.name, options.variant, dict(options.option or ())).name == options.name
        case "list":
            assert main(shlex.split(example)) == 0
        case "compare":
            for name in options.names:
                assert names.checkpoint(name) or name == "cifar10" or name.startswith("runs/")
        case "golden":
            assert options.bundle.startswith("runs/")


def test_the_list_marks_what_an_architecture_stands_for(capsys: pytest.CaptureFixture[str]) -> None:
    """On a terminal alone: a program that reads the list gets the tags as they are."""
    marked = {
        name: [
            cells[-3]
            for row in rows()
            if row.name == name
            for cells in _lines(row, published.tags(name, row.variant), mark=True)
        ]
        for name in ("resnet50", "resnet18")
    }
    assert [tag for tag in marked["resnet50"] if tag.endswith("*")] == ["imagenet *"]
    assert marked["resnet50"][0] == "imagenet *"
    assert main(["list", "resnet50"]) == 0
    assert "*" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["describe", "resnet51"], "Did you mean resnet50"),
        (["describe", "resnet20", "--option", "depth=3"], "no option 'depth'"),
        (["describe", "se_resnet20", "--classes", "0"], "classes must be at least 1"),
        (["describe", "se_resnet20", "--svg", "/nowhere/x.svg"], "/nowhere/x.svg"),
        (["list", "resnet51"], "Nothing in the library matches 'resnet51'. Did you mean resnet50"),
        (["fetch", "resnet51"], "No architecture is called 'resnet51'. Did you mean resnet50"),
        (["fetch", "mnist_dnn"], "mnist_dnn has no published weights. Train it, or serve it untrained with"),
        (["fetch", "resnet50", "--weights", "v9"], "resnet50 has no published weights 'v9'."),
        (
            ["fetch", "resnet50", "--variant", "keras", "--weights", "imagenet_v2"],
            "no weights 'imagenet_v2'; its variant torchvision has: set GLIMPSE_VARIANT=torchvision (--variant t",
        ),
        (["fetch"], "Name an architecture, or set GLIMPSE_MODEL."),
    ],
)
def test_what_cannot_be_described_is_answered_in_one_line(
    arguments: list[str], answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert answer in error
    assert error.count("\n") == 1
