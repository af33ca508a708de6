"""Settings: where they come from, and what bad ones are told."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from glimpse.server import settings
from glimpse.server.processes import startup
from glimpse.server.settings import division, problems
from glimpse.server.settings import help as help_page

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in settings.Settings.model_fields:
        monkeypatch.delenv(f"GLIMPSE_{name.upper()}", raising=False)


def test_the_documented_defaults() -> None:
    chosen = settings.load([])
    assert (chosen.port, chosen.metrics_port, chosen.model, chosen.weights) == (50051, 9464, "", "imagenet")


def test_flags_beat_the_environment_which_beats_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "glimpse.toml"
    file.write_text("port = 1\nmetrics_port = 1\nmax_batch_size = 1\n")
    monkeypatch.setenv("GLIMPSE_PORT", "2")
    monkeypatch.setenv("GLIMPSE_METRICS_PORT", "2")
    chosen = settings.load(["--config", str(file), "--port", "3"])
    assert (chosen.port, chosen.metrics_port, chosen.max_batch_size) == (3, 2, 1)


@pytest.mark.parametrize("other", ["metrics_port", "http_port", "health_port"])
def test_one_port_for_two_purposes_is_refused(other: str) -> None:
    flag = f"--{other.replace('_', '-')}"
    with pytest.raises(ValidationError, match=f"port and {other} must be different ports. Received: 7000 for both"):
        settings.load(["--port=7000", f"{flag}=7000"])
    settings.load(["--port=0", f"{flag}=0"])  # two free ones
    settings.load(["--port=9464", "--no-serve-metrics"])


@pytest.mark.parametrize(
    "origin",
    ["*", "https://example.org", "http://localhost:3000", "https://[2001:db8::1]:8443", "chrome-extension://abc"],
)
def test_an_origin_of_pages_is_taken_as_browsers_write_it(origin: str) -> None:
    assert settings.load(["--http-origins", f"https://a.example,{origin}"]).http_origins == (
        "https://a.example",
        origin,
    )


@pytest.mark.parametrize(
    "origin",
    [
        *(
            "example.org",
            "https://example.org/",
            "https://example.org/app",
            "https://Example.org",
            "HTTPS://example.org",
        ),
        *("https://example.org:443", "http://example.org:80", "https://*.example.org", "https://", "null"),
    ],
)
def test_an_origin_that_would_never_match_is_refused(origin: str) -> None:
    with pytest.raises(ValidationError, match="must be \\* or a scheme and a host"):
        settings.load(["--http-origins", origin])


def test_the_file_may_be_named_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "glimpse.toml"
    file.write_text('weights = "somewhere"\n')
    monkeypatch.setenv("GLIMPSE_CONFIG", str(file))
    assert settings.load([]).weights == "somewhere"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_the_file_may_have_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "glimpse.toml"
    file.write_bytes('port = 7\r\nweights = "Käse"\r\n'.encode(encoding))
    chosen = settings.load(["--config", str(file)])
    assert (chosen.port, chosen.weights) == (7, "Käse")


def test_a_file_in_another_encoding_is_refused_with_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "glimpse.toml"
    file.write_bytes('weights = "Käse"\n'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"glimpse\.toml is not valid TOML: .*Save the file as UTF-8"):
        settings.load(["--config", str(file)])


def test_a_file_that_does_not_exist_is_an_error_not_a_default() -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.toml"):
        settings.load(["--config=missing.toml"])


def test_a_misspelt_name_in_the_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "glimpse.toml"
    file.write_text("prot = 1\n")
    with pytest.raises(ValidationError, match="prot"):
        settings.load(["--config", str(file)])


def test_a_misspelt_variable_is_reported_with_what_was_meant() -> None:
    lines = settings.unknown_variables({"GLIMPSE_PROT": "1", "GLIMPSE_TARGET": "x", "GLIMPSE_PORT": "1", "HOME": "/"})
    assert lines == ["GLIMPSE_PROT is not a setting. Did you mean GLIMPSE_PORT?"]


@pytest.mark.parametrize(
    "flag",
    [
        "--port=-1",
        "--port=65536",
        "--port=tcp://10.0.0.1:50051",
        "--max-batch-size=-1",
        "--drain-seconds=-1",
        "--drain-seconds=nan",
        "--log-level=loud",
        "--max-images-per-request=200",
        "--max-image-bytes=99999999",
        "--max-message-bytes=3000000000",
        "--max-images-in-flight=5000000000",
        "--max-image-pixels=0",
        "--jpeg-reducing-gap=-1",
        "--allow-geometries=stretch",
        "--max-bytes-in-flight=20000000",
    ],
)
def test_a_value_that_cannot_be_is_refused(flag: str) -> None:
    with pytest.raises(ValidationError):
        settings.load([flag])


def test_words_between_commas_are_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.load(["--allow-geometries=squash, letterbox"]).allow_geometries == {"squash", "letterbox"}
    assert settings.load(["--allow-classes=big cat, n02123045"]).allow_classes == ("big cat", "n02123045")
    monkeypatch.setenv("GLIMPSE_ALLOW_GEOMETRIES", "crop,pad")
    assert settings.load([]).allow_geometries == {"crop", "pad"}


@pytest.mark.parametrize("text", ["{alpha:1}", "[1]", '"alpha"', "5", "alpha=0.25", '{"alpha": 1', "null"])
def test_options_that_are_no_json_object_are_refused_in_every_form(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in ([f"--options={text}"], ["--options", text]):
        with pytest.raises(ValidationError) as refused:
            settings.load(arguments)
        (line,) = problems.explain(refused.value)
        assert line.startswith("options: must be ")
        assert line.endswith(f"Received: {text!r}")
    monkeypatch.setenv("GLIMPSE_OPTIONS", text)
    with pytest.raises(ValidationError, match="options"):
        settings.load([])


@pytest.mark.parametrize("text", ["[" * 60_000, '{"a":' * 20_000])
def test_options_that_are_too_deep_are_refused_in_a_short_line(text: str) -> None:
    with pytest.raises(ValidationError, match="options") as error:
        settings.load(["--options", text])
    message = error.value.errors()[0]["msg"]
    assert "must be JSON" in message
    assert len(message) < 400


def test_options_are_an_object_of_json_or_a_table_of_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "glimpse.toml"
    file.write_text("[options]\nalpha = 0.25\n")
    assert settings.load(["--config", str(file)]).options == {"alpha": 0.25}
    assert settings.load(['--options={"alpha": 0.5}', '--options={"rate": 0, "alpha": 1}']).options == {
        "alpha": 1,
        "rate": 0,
    }
    monkeypatch.setenv("GLIMPSE_OPTIONS", "")
    assert settings.load([]).options == {}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("prot", "port"),
        ("max-batch-size", "max_batch_size"),
        ("GLIMPSE_RUNTIME", "runtime"),
        ("drain_second", "drain_seconds"),
    ],
)
def test_a_misspelt_name_in_the_file_is_told_what_was_meant(name: str, meant: str, tmp_path: Path) -> None:
    file = tmp_path / "glimpse.toml"
    file.write_text(f"{name} = 1\n")
    with pytest.raises(ValidationError) as refused:
        settings.load(["--config", str(file)])
    assert problems.explain(refused.value) == [f"{name} is not a setting. Did you mean {meant}? Received: 1"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--prot", "5"],
            "--prot is not a setting. Did you mean --port? `python -m glimpse.server --help` lists all settings.",
        ),
        (
            ["--prot=5"],
            "--prot is not a setting. Did you mean --port? `python -m glimpse.server --help` lists all settings.",
        ),
        (
            ["--no-serve-helth"],
            (
                "--no-serve-helth is not a setting. Did you mean --no-serve-health? "
                "`python -m glimpse.server --help` lists all settings."
            ),
        ),
        (["--qqq"], "--qqq is not a setting. `python -m glimpse.server --help` lists all settings."),
        (["--port"], "argument --port: expected one argument."),
        (["--port", "5", "prepare"], "prepare must come before all flags: python -m glimpse.server prepare [flags]"),
    ],
)
def test_a_flag_that_there_is_not_is_told_what_was_meant(arguments: list[str], said: str) -> None:
    with pytest.raises(ValueError) as refused:
        settings.load(arguments)
    assert problems.explain(refused.value) == [said]


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"port = ", "is not valid TOML: Invalid value"), (b"\xff", "is not valid TOML: 'utf-8' codec")],
)
def test_a_file_that_is_no_toml_is_named(content: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "glimpse.toml"
    file.write_bytes(content)
    with pytest.raises(ValueError) as refused:
        settings.load(["--config", str(file)])
    assert problems.explain(refused.value)[0].startswith(f"The config file {file} {said}")


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a file"):
        settings.load(["--config", str(tmp_path)])


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        ((), {"GLIMPSE_OPTIONS": "{alpha:1}"}),
        (("--options", "[1]"), {}),
        (("--allow-geometries", "[pad"), {}),
        (("--nonsense",), {}),
        (("prepare", "--options", "{alpha:1}"), {}),
        ((), {"GLIMPSE_PORT": "many"}),
        ((), {"GLIMPSE_SERVE_HEALTH": "perhaps"}),
        ((), {"GLIMPSE_CONFIG": "/nowhere.toml"}),
    ],
)
def test_settings_that_cannot_be_end_the_server_with_2_and_no_traceback(
    arguments: tuple[str, ...], environment: dict[str, str]
) -> None:
    command = [sys.executable, "-m", "glimpse.server", *arguments]
    environment = {**os.environ, "GLIMPSE_LOG_FORMAT": "text", **environment}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("The settings are invalid:\n  ")
    assert ended.stderr.count("\n") == 2


@pytest.mark.parametrize("arguments", [("--help",), ("-h",), ("prepare", "--help"), ("prepare", "-h")])
def test_help_is_shown_and_nothing_is_started(arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "glimpse.server", *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("usage: python -m glimpse.server ")


def test_help_has_every_setting_and_the_common_ones_first(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        settings.load(["--port", "5", "-h"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    for name, field in settings.Settings.model_fields.items():
        assert shown.count(f"\n  --{name.replace('_', '-')}") >= 1, name
        assert field.description is not None
        assert " ".join(field.description.split()) in " ".join(shown.split())
    titles = [line for line in shown.splitlines() if line.endswith(":") and line[0] != " " and len(line) < 40]
    assert titles[:2] == ["Examples:", "Common settings:"]
    assert titles[-2:] == ["Environment variables without a flag:", "Exit codes:"]
    assert "\n  GLIMPSE_CACHE " in shown


def test_help_names_every_exit_code_of_a_failed_start(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        settings.load(["--help"])
    codes = capsys.readouterr().out.partition("Exit codes:\n")[2]
    for cause in startup.StartupError.__subclasses__():
        assert re.search(rf"^  {cause.exit_code} ", codes, re.MULTILINE), cause


@pytest.mark.parametrize("columns", [20, 60, 100, 400])
def test_help_fits_the_terminal_and_is_at_most_100_wide(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = help_page.text(settings.Settings).splitlines()
    text = [line for line in lines if " --" not in line and "  python" not in line and "  {" not in line]
    assert max(map(len, text)) <= max(46, min(columns, 100))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
def test_help_that_cannot_be_written_has_the_exit_code_of_that() -> None:
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "glimpse.server", "--log-format", "text", "--help"]
        ended = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 10
    assert ended.stderr == "python -m glimpse.server: The standard output cannot be written: No space left on device.\n"


def test_a_config_file_that_is_nested_too_deeply_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "deep.toml").write_text("port = " + "[" * 50_000)
    with pytest.raises(ValueError, match=r"The config file .*deep\.toml is nested too deeply\."):
        settings.load([f"--config={tmp_path / 'deep.toml'}"])


SOME = ["--max-images-in-flight", "10", "--max-images-per-request", "3", "--max-connections", "3", "--max-streams", "2"]


@pytest.mark.parametrize(
    "arguments", [[], SOME, ["--max-bytes-in-flight", "23000000", "--max-message-bytes", "16777217"]]
)
@pytest.mark.parametrize("workers", [1, 2, 3, 16])
def test_a_worker_has_a_part_that_any_valid_request_fits_into(arguments: list[str], workers: int) -> None:
    whole = settings.load(arguments)
    part = whole.for_worker(workers)
    # Validated again: no setting contradicts another one, and none is out of its bounds.
    assert settings.Settings.model_validate(part.model_dump()) == part
    for name in division.parts(whole, workers):
        assert 1 <= getattr(part, name) <= (getattr(whole, name) or getattr(whole, DERIVED[name]))
    assert workers * part.max_images_in_flight >= whole.max_images_in_flight
    assert workers * part.max_connections >= whole.max_connections


DERIVED = {
    "decode_threads": "decoders",
    "max_connections_per_address": "connections_per_address",
    "max_pixels_in_flight": "work_in_flight",
}


def test_limits_of_workers_add_up_to_those_of_the_server() -> None:
    whole = settings.load(
        ["--max-images-in-flight", "4096", "--decode-threads", "16", "--max-receiving-bytes", "1000000000"]
    )
    part = whole.for_worker(8)
    assert (part.max_images_in_flight, part.decoders, part.max_receiving_bytes) == (512, 2, 125_000_000)
    assert part.work_in_flight == whole.work_in_flight // 8
    assert (part.max_connections, part.connections_per_address) == (159, 123)
    assert (part.max_images_per_request, part.port) == (whole.max_images_per_request, whole.port)


@pytest.mark.parametrize("workers", [1, 2, 3, 16])
def test_an_engine_has_room_for_every_image_that_its_workers_let_in(workers: int) -> None:
    """Their parts are more than the whole where a part would be too small for a request."""
    whole = settings.load([])
    engine, part = whole.for_engine(workers), whole.for_worker(workers)
    assert engine.max_images_in_flight == workers * part.max_images_in_flight >= whole.max_images_in_flight
    assert {**engine.model_dump(), "max_images_in_flight": 0} == {**whole.model_dump(), "max_images_in_flight": 0}


def test_the_settings_of_a_worker_can_be_handed_to_a_process() -> None:
    part = settings.load(["--port", "7"]).for_worker(2)
    assert pickle.loads(pickle.dumps(part)) == part  # noqa: S301 - our own


def test_one_worker_has_the_whole() -> None:
    whole = settings.load(["--max-streams", "5"])
    assert whole.for_worker(1).model_dump() == whole.model_dump()


def test_one_model_and_a_repository_of_models_cannot_both_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLIMPSE_WEIGHTS", raising=False)
    assert settings.load(["--models", "repository"]).models == Path("repository")
    with pytest.raises(ValueError, match=r"models names all models, so that weights, model cannot be set as well"):
        settings.load(["--models", "repository", "--weights", "cifar10", "--model", "se_resnet20"])


def test_other_names_of_models_are_words_between_commas() -> None:
    assert settings.load(["--model-aliases", "photos=resnet50, usual"]).model_aliases == {
        "photos": "resnet50",
        "usual": "",
    }
    with pytest.raises(ValueError, match="must be names with commas between"):
        settings.load(["--model-aliases", "=resnet50"])
    assert settings.load(["--admin", "ci,operator"]).admin == {"ci", "operator"}
