"""What a newcomer sees first: help with examples, placeholders without types, and hints at what is wrong."""

from __future__ import annotations

import re
import shlex
import threading
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any

import grpc
import pytest
import typer.main

from glimpse.client.commands.app import app
from tests.client.conftest import CLI, Glimpse
from tests.client.scripted import ScriptedServer, abort

GROUP: Any = typer.main.get_command(app)
COMMANDS = sorted(GROUP.commands)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_had_by_both_names_and_has_examples(command: str, glimpse: Glimpse) -> None:
    short, long = glimpse(command, "-h"), glimpse(command, "--help")
    assert (short.returncode, short.stdout) == (0, long.stdout)
    assert "\n  Examples:\n" in short.stdout
    assert not re.search(r"<[a-z]", short.stdout.replace("<=x", ""))
    assert "{" not in short.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_example_is_a_command_line_that_is_understood(command: str) -> None:
    lines = re.findall(r"^  .*?(glimpse .*)$", GROUP.commands[command].epilog, re.MULTILINE)
    assert lines
    for line in lines:
        for part in re.split(r" && | > ", line):
            words = shlex.split(part)
            if words[0] == "glimpse":
                chosen = GROUP.commands[words[1]]
                chosen.make_context(
                    words[1], words[2:], parent=GROUP.make_context("glimpse", [], resilient_parsing=True)
                )


def test_several_images_are_named_by_dots(glimpse: Glimpse) -> None:
    assert "classify [OPTIONS] IMAGE..." in glimpse("classify", "-h").stdout
    assert re.search(r"^  IMAGE\.\.\.  Files, folders", glimpse("classify", "-h").stdout, re.MULTILINE)
    assert "load [OPTIONS] [PHOTO]..." in glimpse("load", "-h").stdout
    assert "unsort [OPTIONS] FOLDER|LIST\n" in glimpse("unsort", "-h").stdout


def test_exit_codes_stand_in_one_place(glimpse: Glimpse) -> None:
    assert "Exit codes:" in glimpse("-h").stdout
    for command in COMMANDS:
        assert "Exit codes:" not in glimpse(command, "-h").stdout


def test_the_options_that_find_the_server_have_a_section_of_their_own(glimpse: Glimpse) -> None:
    own, connection = glimpse("describe", "-h").stdout.split("Server and connection:")
    assert "--json" in own
    assert "-h, --help" in own
    assert "--target" not in own
    assert all(option in connection for option in ("--target", "--tls-ca", "--token-file", "--timeout", "--wait"))


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("empty/", "NO_IMAGE_IN_FOLDER: There is no image with one of these suffixes in empty/: .apng, "),
        ("no*.jpg", "FILE_NOT_FOUND: No file matches the pattern no*.jpg."),
        ("gone.jpg", "FILE_NOT_FOUND: There is no file gone.jpg."),
        (
            "ftp://a/b.jpg",
            "FILE_NOT_FOUND: This is a URL, and only files are read. Download it first: curl -s ftp://a/",
        ),
        ("https://example.org/cat.jpg?size=1", "FILE_NOT_FOUND: This is a URL, and only files are read."),
    ],
)
def test_an_argument_that_leads_to_no_image_says_why(
    scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path, argument: str, said: str
) -> None:
    (tmp_path / "empty").mkdir()
    ended = glimpse("classify", argument, "--target", scripted.target, COLUMNS="400")
    assert ended.returncode == 1
    assert said in ended.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("health", "--tls-ca", "no.pem"),
        ("health", "--token-file", "no.token"),
        ("classify", "-", "--json", "-o", "no/such/folder"),
        ("unsort", "no.jsonl"),
        ("load", "no.jpg"),
        ("load", "--scenario", "no.toml"),
    ],
    ids=" ".join,
)
def test_a_missing_file_is_told_without_the_number_of_an_error(
    scripted: ScriptedServer, glimpse: Glimpse, arguments: tuple[str, ...]
) -> None:
    target = () if arguments[0] == "unsort" else ("--target", scripted.target)
    ended = glimpse(*arguments, *target)
    assert ended.returncode == 2
    assert "Errno" not in ended.stderr
    said = " ".join(ended.stderr.split())
    assert f"{arguments[-1]} cannot be used: No such file or directory." in said or "There is no file no.jpg." in said


def test_a_file_in_place_of_a_command_is_told_how_to_be_classified(glimpse: Glimpse, tmp_path: Path) -> None:
    (tmp_path / "a cat.jpg").touch()
    ended = glimpse("a cat.jpg")
    assert ended.returncode == 2
    assert re.search(r"a cat\.jpg is no command\. To classify it: \S+ classify 'a cat\.jpg'\n", ended.stderr)
    assert "No such command 'a dog.jpg'." in glimpse("a dog.jpg").stderr


def test_the_usage_line_names_the_program_as_it_was_called(glimpse: Glimpse) -> None:
    assert re.match(rf"Usage: {re.escape(str(CLI))} classify ", glimpse("classify", "-h", PYTHONSAFEPATH="").stdout)


@pytest.mark.parametrize(
    ("status", "reason", "hint"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "UNKNOWN_CLASS", "describe --json lists all classes and groups."),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", "Give it more time with --timeout."),
        (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING", "Give a token with --token-file, "),
        (grpc.StatusCode.PERMISSION_DENIED, "NOT_PERMITTED", None),
    ],
)
def test_an_error_says_what_to_do_where_an_option_helps(
    scripted: ScriptedServer, glimpse: Glimpse, status: grpc.StatusCode, reason: str, hint: str | None
) -> None:
    scripted.describe = lambda _, context: abort(context, status, reason, pushback_ms=-1)
    said = glimpse("describe", "--target", scripted.target).stderr
    assert said.startswith(f"Error: as scripted [{reason}]")
    assert said.endswith(f"[{reason}]\n") if hint is None else hint in said


class Http(StreamRequestHandler):
    """What a server of HTTP/1.1 says to a call of gRPC."""

    def handle(self) -> None:
        self.connection.recv(1024)
        self.wfile.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")


def test_a_port_that_speaks_http_is_told_from_one_where_nobody_answers(glimpse: Glimpse) -> None:
    with ThreadingTCPServer(("127.0.0.1", 0), Http) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        target = f"127.0.0.1:{server.server_address[1]}"
        ended = glimpse("describe", "--target", target)
        server.shutdown()
    assert ended.returncode == 3
    assert ended.stderr.startswith(f"Error: {target} answers HTTP and not gRPC; give the gRPC port, 50051 unless ")


def test_a_missing_configuration_is_told_the_same_way(glimpse: Glimpse) -> None:
    ended = glimpse("health", GLIMPSE_CLIENT_CONFIG="no.toml")
    assert ended.returncode == 2
    assert "no.toml cannot be used: No such file or directory." in " ".join(ended.stderr.split())


def test_sorting_an_empty_folder_says_that_it_is_empty(
    scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    ended = glimpse("sort", "empty", "--into", "sorted", "--target", scripted.target)
    assert ended.returncode == 0
    assert ended.stderr.startswith("There is no image with one of these suffixes in empty: ")
    assert ended.stderr.endswith("0 copied, 0 left alone, 0 failed.\n")
