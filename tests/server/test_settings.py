"""Settings: where they come from, and what bad ones are told."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from server import settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in settings.Settings.model_fields:
        monkeypatch.delenv(f"GLIMPSE_{name.upper()}", raising=False)


def test_the_documented_defaults() -> None:
    chosen = settings.load([])
    assert (chosen.port, chosen.metrics_port, chosen.model, chosen.weights) == (50051, 9464, "", "cifar10")


def test_flags_beat_the_environment_which_beats_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "glimpse.toml"
    file.write_text("port = 1\nmetrics_port = 1\nmax_batch_size = 1\n")
    monkeypatch.setenv("GLIMPSE_PORT", "2")
    monkeypatch.setenv("GLIMPSE_METRICS_PORT", "2")
    chosen = settings.load(["--config", str(file), "--port", "3"])
    assert (chosen.port, chosen.metrics_port, chosen.max_batch_size) == (3, 2, 1)


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
    with pytest.raises(UnicodeDecodeError, match="Save the file as UTF-8"):
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
    monkeypatch.setenv("GLIMPSE_ALLOW_GEOMETRIES", "crop,pad")
    assert settings.load([]).allow_geometries == {"crop", "pad"}
