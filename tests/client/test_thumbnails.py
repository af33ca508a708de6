"""Pictures in the terminal: byte for byte what the two protocols ask for, and only where a person does."""

from __future__ import annotations

import base64
import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from glimpse.client.commands.thumbnails import MAX_BYTES, Protocol, Thumbnails, protocol, sequence
from tests.client.conftest import CLI, Glimpse
from tests.client.scripted import ScriptedServer, result

PNG = b"\x89PNG\r\n\x1a\n"
KITTY = {"TERM": "xterm-kitty", "KITTY_WINDOW_ID": "1"}
ITERM2 = {"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (KITTY, Protocol.KITTY),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, Protocol.KITTY),
        ({"TERM": "xterm-ghostty"}, Protocol.KITTY),
        (ITERM2, Protocol.ITERM2),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, Protocol.ITERM2),  # which ssh hands on
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, Protocol.ITERM2),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "Apple_Terminal"}, None),
        ({"TERM": "xterm"}, None),
        ({"TERM": "dumb", "KITTY_WINDOW_ID": "1"}, None),
        ({}, None),
        ({**KITTY, "TERM": "screen-256color"}, None),
        ({**ITERM2, "TMUX": "/run/tmux,1,0"}, None),
        ({**KITTY, "NO_COLOR": "1"}, None),
        ({**KITTY, "NO_COLOR": ""}, Protocol.KITTY),  # as no-color.org has it
    ],
)
def test_a_terminal_is_known_by_what_it_says_of_itself(environment: dict[str, str], expected: Protocol | None) -> None:
    assert protocol(environment) is expected


def test_iterm2_gets_the_file_in_one_sequence_with_its_size_and_height() -> None:
    assert sequence(b"\xff\xd8\xff\xe0", Protocol.ITERM2) == b"\x1b]1337;File=inline=1;size=4;height=8:/9j/4A==\x07"


def test_kitty_gets_a_small_file_in_one_command_and_is_asked_to_say_nothing() -> None:
    assert sequence(PNG, Protocol.KITTY) == b"\x1b_Ga=T,f=100,r=8,q=2,m=0;iVBORw0KGgo=\x1b\\"


@pytest.mark.parametrize("size", [3071, 3072, 3073, 3 * 3072, 100_000])
def test_kitty_gets_a_larger_file_in_chunks_of_which_the_last_says_so(size: int) -> None:
    data = PNG + bytes(size - len(PNG))
    sent = sequence(data, Protocol.KITTY)
    assert sent is not None
    chunks = re.findall(rb"\x1b_G([^;]*);([A-Za-z0-9+/=]*)\x1b\\", sent)
    assert b"".join(b"\x1b_G" + control + b";" + payload + b"\x1b\\" for control, payload in chunks) == sent
    first, *others = [control for control, _ in chunks]
    assert first.startswith(b"a=T,f=100,r=8,q=2,m=")
    assert all(re.fullmatch(rb"q=2,m=[01]", control) for control in others)
    assert [control[-1:] for control, _ in chunks] == [b"1"] * (len(chunks) - 1) + [b"0"]
    assert all(len(payload) == 4096 for _, payload in chunks[:-1])
    assert 0 < len(chunks[-1][1]) <= 4096
    assert base64.b64decode(b"".join(payload for _, payload in chunks), validate=True) == data


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
def test_every_format_of_the_server_is_shown_by_iterm2_and_png_by_kitty(form: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, form)
    assert sequence(file.getvalue(), Protocol.ITERM2) is not None
    assert (sequence(file.getvalue(), Protocol.KITTY) is not None) == (form == "PNG")


@pytest.mark.parametrize("data", [b"", b"cat", b"%PDF-1.7", b"<svg/>", b"RIFF....WAVE", b"\x1b]0;title\x07"])
def test_what_is_no_picture_is_not_sent(data: bytes) -> None:
    assert sequence(data, Protocol.ITERM2) is None
    assert sequence(data, Protocol.KITTY) is None


@pytest.mark.parametrize("how", Protocol)
def test_nothing_in_a_file_can_end_the_sequence_or_begin_another(how: Protocol) -> None:
    hostile = PNG + b"\x1b\\\x07\x9c\x1b]0;owned\x07\x1b_Ga=d\x1b\\" * 500
    sent = sequence(hostile, how)
    assert sent is not None
    outside = re.sub(
        rb"\x1b_G[a-zA-Z0-9=,]*;[A-Za-z0-9+/=]*\x1b\\|\x1b\]1337;File=[a-z0-9=;]*:[A-Za-z0-9+/=]*\x07", b"", sent
    )
    assert outside == b""
    assert not set(sent) - set(range(0x20, 0x7F)) - {0x1B, 0x07}


def test_each_word_about_what_is_not_shown_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "large.png").write_bytes(PNG + bytes(MAX_BYTES))
    (tmp_path / "largest.png").write_bytes(PNG + bytes(MAX_BYTES - len(PNG)))
    said: list[str] = []
    shown = Thumbnails(Protocol.KITTY, said.append)
    for _ in range(2):
        assert shown.of(str(tmp_path / "photo.jpg")) is None
        assert shown.of(str(tmp_path / "large.png")) is None
    assert shown.of(str(tmp_path / "largest.png")) is not None
    assert said == [
        "This terminal shows only PNG files.",
        "Images of more than 4,194,304 bytes are not shown.",
    ]


@pytest.mark.parametrize("name", ["missing.png", ".", "pipe.png", "-"])
def test_what_cannot_be_read_again_is_not_waited_for(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.png")
    Path("-").write_bytes(PNG)  # where - stands for the standard input, it is no file
    assert Thumbnails(Protocol.KITTY, print).of(name) is None


def on_terminal(command: list[str], folder: Path, terminal: dict[str, str]) -> tuple[bytes, str]:
    """What a command shows on a terminal of that kind, and what it says on its stderr."""
    ours, theirs = pty.openpty()
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME"}}
    running = subprocess.Popen(
        [sys.executable, str(CLI), *command],
        stdout=theirs,
        stderr=subprocess.PIPE,
        cwd=folder,
        env={**kept, "COLUMNS": "100", **terminal},
    )
    os.close(theirs)
    shown = b""
    try:
        while data := os.read(ours, 65536):
            shown += data
    except OSError:  # Linux says so that the other end is closed
        pass
    os.close(ours)
    _, said = running.communicate(timeout=60)
    return shown, said.decode()


@pytest.fixture
def album(tmp_path: Path, scripted: ScriptedServer) -> Path:
    """A picture, and one that the server refuses."""
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(PNG + b"bomb")

    def label(image: bytes) -> bytes:
        return b"bad" if image.endswith(b"bomb") else b"cat"

    def stream(requests: object, _: object) -> object:
        from glimpse.v1 import classifier_pb2 as pb

        for request in requests:  # type: ignore[attr-defined]
            [image] = request.request.images
            answer = pb.ClassifyResponse(results=[result(pb.Image(encoded=label(image.encoded)))])
            yield pb.ClassifyStreamResponse(id=request.id, response=answer)

    scripted.stream = stream  # type: ignore[assignment]
    return tmp_path


@pytest.mark.parametrize(("terminal", "how"), [(KITTY, Protocol.KITTY), (ITERM2, Protocol.ITERM2)])
def test_a_picture_stands_between_name_and_classes_and_no_refused_one_is_opened(
    scripted: ScriptedServer, album: Path, terminal: dict[str, str], how: Protocol
) -> None:
    """A picture stands between its name and its classes, and a refused one is not opened."""
    shown, said = on_terminal(["classify", ".", "--thumbnails", "--target", scripted.target], album, terminal)
    picture = sequence((album / "a.png").read_bytes(), how)
    assert picture is not None
    before, after = shown.split(picture)
    assert b"a.png" in before
    assert re.match(rb"\r\n.*cat", after)
    assert b"]1337;" not in after
    assert b"_G" not in after
    assert said == "1 image could not be classified.\n"


@pytest.mark.parametrize(
    ("options", "terminal"),
    [
        ([], KITTY),
        (["--thumbnails", "--no-thumbnails"], KITTY),
        (["--thumbnails", "--json"], KITTY),
        ([], {**KITTY, "GLIMPSE_THUMBNAILS": "0"}),
    ],
)
def test_nothing_is_shown_where_it_is_not_asked_for(
    scripted: ScriptedServer, album: Path, options: list[str], terminal: dict[str, str]
) -> None:
    shown, _ = on_terminal(["classify", "a.png", *options, "--target", scripted.target], album, terminal)
    assert b"cat" in shown
    assert b"_G" not in shown


def test_the_variable_asks_for_them_too(scripted: ScriptedServer, album: Path) -> None:
    terminal = {**KITTY, "GLIMPSE_THUMBNAILS": "1"}
    shown, _ = on_terminal(["classify", "a.png", "--target", scripted.target], album, terminal)
    assert b"\x1b_Ga=T" in shown


def test_a_terminal_that_cannot_is_told_of_once(scripted: ScriptedServer, album: Path) -> None:
    command = ["classify", "a.png", "a.png", "--thumbnails", "--target", scripted.target]
    shown, said = on_terminal(command, album, {"TERM": "xterm"})
    assert b"_G" not in shown
    assert said.count("This terminal does not report that it can show images") == 1


def test_a_pipe_gets_none_and_no_word_of_them(scripted: ScriptedServer, album: Path, glimpse: Glimpse) -> None:
    command = ["classify", "a.png", "--target", scripted.target]
    without = glimpse(*command, **KITTY)
    ended = glimpse(*command, "--thumbnails", **KITTY)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, without.stdout, "")
    assert "\x1b" not in ended.stdout
