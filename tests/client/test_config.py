"""A person's own defaults: flags before the environment before the file before what is built in."""

from __future__ import annotations

from pathlib import Path

import pytest

from glimpse.client.commands import config
from glimpse.client.commands.server_options import option_kinds
from tests.client.conftest import Glimpse
from tests.client.scripted import ScriptedServer


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a file is looked for, by this process and by the command line."""
    for variable in (config.VARIABLE, "GLIMPSE_TOKEN", "GLIMPSE_TOKEN_FILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    path = tmp_path / "config" / "glimpse" / "config.toml"
    path.parent.mkdir(parents=True)
    return path


def test_the_file_is_asked_after_flags_and_environment(
    scripted: ScriptedServer, glimpse: Glimpse, nowhere: str, file: Path
) -> None:
    file.write_text(f'target = "{scripted.target}"')
    assert glimpse("health").returncode == 0
    assert glimpse("health", GLIMPSE_TARGET=nowhere).returncode == 3
    file.write_text(f'target = "{nowhere}"')
    assert glimpse("health").returncode == 3
    assert glimpse("health", GLIMPSE_TARGET=scripted.target).returncode == 0
    assert glimpse("health", "--target", scripted.target).returncode == 0


def test_a_variable_names_another_file(
    scripted: ScriptedServer, glimpse: Glimpse, nowhere: str, file: Path, tmp_path: Path
) -> None:
    file.write_text(f'target = "{nowhere}"')
    (tmp_path / "other.toml").write_text(f'target = "{scripted.target}"')
    assert glimpse("health", GLIMPSE_CLIENT_CONFIG="other.toml").returncode == 0
    missing = glimpse("health", GLIMPSE_CLIENT_CONFIG="missing.toml")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "missing.toml" in missing.stderr


def test_the_token_of_the_file_is_shown_where_the_environment_has_none(
    scripted: ScriptedServer, glimpse: Glimpse, file: Path, tmp_path: Path
) -> None:
    (tmp_path / "photo.jpg").write_text("cat")
    (file.parent / "token").write_text("from-the-file")
    file.write_text(f'target = "{scripted.target}"\ntoken_file = "token"')
    assert glimpse("classify", "photo.jpg").returncode == 0
    assert glimpse("classify", "photo.jpg", **{config.TOKEN_VARIABLES[0]: "from-the-environment"}).returncode == 0
    assert scripted.tokens == ["Bearer from-the-file", "Bearer from-the-environment"]


def test_every_option_that_finds_the_server_can_stand_in_the_file(file: Path) -> None:
    file.write_text(
        """
        target = "glimpse.example:443"
        tls = true
        tls_ca = "ca.pem"
        tls_certificate = "/etc/glimpse/me.pem"
        tls_key = "~/me.key"
        tls_server_name = "glimpse"
        token_file = "tokens/mine"
        insecure_token = false
        timeout = 5
        wait = true
        max_message_bytes = 33_554_432
        """
    )
    assert config.defaults(option_kinds()) == {
        "target": "glimpse.example:443",
        "tls": True,
        "tls_ca": str(file.parent / "ca.pem"),
        "tls_certificate": "/etc/glimpse/me.pem",
        "tls_key": str(Path("~/me.key").expanduser()),
        "tls_server_name": "glimpse",
        "token_file": str(file.parent / "tokens/mine"),
        "insecure_token": False,
        "timeout": 5,
        "wait": True,
        "max_message_bytes": 33_554_432,
    }
    assert set(config.defaults(option_kinds())) == set(option_kinds())


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_the_file_and_the_token_s_may_have_a_byte_order_mark(
    scripted: ScriptedServer, glimpse: Glimpse, file: Path, tmp_path: Path, encoding: str
) -> None:
    (tmp_path / "photo.jpg").write_text("cat")
    (file.parent / "token").write_bytes("from-the-file\r\n".encode(encoding))
    file.write_bytes(f'target = "{scripted.target}"\r\ntoken_file = "token"\r\n'.encode(encoding))
    assert glimpse("classify", "photo.jpg").returncode == 0
    assert scripted.tokens == ["Bearer from-the-file"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('taget = "a:1"', "has 'taget', which is not an option. Did you mean target?"),
        ("tls-ca = 1", "Did you mean tls_ca"),
        ("colour = 1", "which is not an option. There are: target, tls, tls_ca,"),
        ("target = 50051", "target has to be a text. Received: 50051."),
        ('tls = "yes"', "tls has to be true or false. Received: 'yes'."),
        ("timeout = true", "timeout has to be a number. Received: True."),
        ("max_message_bytes = 1e9", "max_message_bytes has to be a whole number. Received: 1000000000.0."),
        ("target = ", "is not valid TOML: Invalid value"),
        ("\udcff", "is not valid TOML: 'utf-8' codec"),
    ],
)
def test_what_the_file_must_not_say_is_told_with_its_name(
    glimpse: Glimpse, file: Path, content: str, said: str
) -> None:
    file.write_text(content, errors="surrogateescape")
    with pytest.raises(ValueError) as told:
        config.defaults(option_kinds())
    assert str(told.value).startswith(str(file))
    assert said in str(told.value)


def test_a_wrong_file_ends_a_command_as_a_wrong_option_does(glimpse: Glimpse, file: Path) -> None:
    file.write_text("tagret = 5")
    ended = glimpse("health")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "tagret" in ended.stderr
    assert "Traceback" not in ended.stderr
