"""Whatever a label, a name or a message holds: no spreadsheet computes it, and no terminal obeys it."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

import glimpse.client.commands.plain
import glimpse.models.plain
from glimpse.client.commands import render
from glimpse.client.commands.csv_cells import escape_cell, unescape_cell
from glimpse.client.commands.output import File
from glimpse.client.commands.records import Csv, JsonLines
from glimpse.client.errors import Code
from glimpse.client.load.html_report import escape
from glimpse.client.results import ImageResult, ModelIdentity, Prediction
from glimpse.v1 import classifier_pb2 as pb
from tests.client.conftest import CLI, Glimpse
from tests.client.scripted import DESCRIPTION, Context, ScriptedServer, abort, response, stream_response

JOINERS = "\u200c\u200d"
# A title, the clipboard, a link, a colour, a cleared screen, the same by eight bits, a line turned around, one that is
# written over, a device's answer, and an unfinished sequence.
EVIL = (
    "=1+1\x1b]0;owned\a\x1b]52;c;b3duZWQ=\a\x1b]8;;http://x\a\x1b[31m\x1b[2J\x9b2J\x9d0;x\x9c\u202etxt\u2066\r\b\x7f"
    "\x00\x1bP1$r\x1b\\\x1b[c\x1b"
)
texts = st.text(max_size=12) | st.text("=+-@\t\r\n;|,\"' \\x1abc\x1b\x9b\u202e\u2028\uff1d\udc9b\udce9", max_size=12)


def is_obeyed(char: str) -> bool:
    """Whether a terminal would do more with a character than to show it."""
    return unicodedata.category(char) in {"Cc", "Cf", "Zl", "Zp"} and char not in JOINERS


def clean(printed: str, keep: str = "\n") -> str:
    """What of a text a terminal would obey; empty where it is plain."""
    return "".join(char for char in printed if is_obeyed(char) and char not in keep)


@given(texts)
@settings(deadline=None)
def test_a_cell_is_read_back_as_what_it_was(text: str) -> None:
    assert unescape_cell(escape_cell(text)) == text


@given(texts, texts)
@settings(deadline=None)
def test_different_texts_have_different_cells(one: str, other: str) -> None:
    assert (escape_cell(one) == escape_cell(other)) == (one == other)


@given(st.lists(texts, min_size=1, max_size=6), st.sampled_from([",", ";", "\t", "|"]))
@settings(max_examples=500, deadline=None)
def test_no_cell_is_computed_whatever_separates_them(fields: list[str], separator: str) -> None:
    """A spreadsheet of another country takes semicolons or tabs to separate cells, and then minds no quotes of ours."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow([escape_cell(text) for text in fields])
    if separator == ",":
        found = next(csv.reader([line.getvalue()]))
    else:
        found = line.getvalue().removesuffix("\n").split(separator)
    for text in found:
        # Our own name of the standard input, alone or before a comma, is no formula.
        if text == "-" or (separator != "," and text.startswith("-,")):
            continue
        inner = text.lstrip(' "\t\r')
        assert not inner.startswith(("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")), (text, line)
    assert clean(line.getvalue()) == ""


@pytest.mark.parametrize(
    "text", ["cat", "n02123045", "Schäferhund", "a b", "a-b", "a=b", "./a.jpg", "-", "", "a\\b", "C:\\a"]
)
def test_ordinary_text_stands_as_it_is(text: str) -> None:
    assert escape_cell(text) == text


def result(text: str) -> ImageResult:
    model = ModelIdentity(text, text, text)
    return ImageResult((Prediction(0, text, 1e-05, text), Prediction(1, text, 0.25, text)), model=model)


def failure(text: str) -> ImageResult:
    return ImageResult.failed(Code.UNAVAILABLE, text, text)


@given(texts, texts)
@settings(deadline=None)
def test_a_record_of_csv_is_one_plain_line_and_its_numbers_are_numbers(path: str, text: str) -> None:
    form = Csv(3)
    for answer in (result(text), failure(text)):
        record = form.record(path, answer)
        assert record.count(b"\n") == 1
        assert clean(record.decode(errors="surrogateescape")) == ""
        assert form.read(record).path == path
        assert form.is_whole(record)
        row = next(csv.reader([record.decode(errors="surrogateescape")]))
        if answer.error is None:
            assert [float(row[2]), float(row[4])] == [1e-05, 0.25]
        else:
            assert int(row[8]) == 14


@given(texts, texts)
@settings(deadline=None)
def test_a_line_of_json_is_exact_and_plain(path: str, text: str) -> None:
    for answer in (result(text), failure(text)):
        record = JsonLines().record(path, answer)
        assert clean(record.decode("ascii")) == ""
        read = json.loads(record)
        assert read["path"] == path
        said = read["predictions"][0]["label"] if answer.error is None else read["error"]["message"]
        assert said == text


@given(texts, texts)
@settings(deadline=None)
def test_a_block_for_people_is_plain(path: str, text: str) -> None:
    for answer in (result(text), failure(text)):
        assert clean(render.to_text(path, answer)) == ""


@given(texts)
@settings(deadline=None)
def test_words_in_a_page_are_text_of_html_and_plain(text: str) -> None:
    assert clean(escape(text), "") == ""
    assert not set(escape(f"<script>'\"&{text}")) & set("<>\"'")


@pytest.mark.parametrize("module", [glimpse.client.commands.plain, glimpse.models.plain], ids=["client", "library"])
@given(text=texts)
@settings(deadline=None)
def test_what_is_printed_on_a_standard_stream_is_plain(module: Any, text: str) -> None:
    raw = io.BytesIO()
    stream = module.PlainText(raw, encoding="utf-8", errors="replace", newline="\n")
    print(text, end="", file=stream)
    module.sequences(stream).write("\x1b[1m")
    stream.flush()
    printed = raw.getvalue().decode()
    assert printed.endswith("\x1b[1m")
    assert clean(printed.removesuffix("\x1b[1m"), "\n\t") == ""
    kept = [char for char in text if char.isprintable()]
    assert [char for char in printed.removesuffix("\x1b[1m") if char in kept] == kept


@pytest.mark.parametrize("form", [Csv(2), JsonLines()], ids=["csv", "json"])
def test_a_run_goes_on_behind_files_of_strange_names(tmp_path: Path, form: Csv | JsonLines) -> None:
    names = [
        "=a.jpg",
        "-b.jpg",
        "'c.jpg",
        "@d.jpg",
        "a\nb.jpg",
        "a\\nb.jpg",
        "x\x1b.jpg",
        "y;=1.jpg",
        "z\udce9.jpg",
        "-",
    ]
    answers = tmp_path / "answers"
    with File(answers, form) as file:
        file.start()
        for number, name in enumerate(names):
            file.write(name, result("cat") if number % 2 else failure("QUEUE_FULL"))
    with File(answers, form) as file:
        file.resume(retry_failed=False)
        assert all(file.has(name) for name in names)
        assert not any(file.has(name) for name in ("a.jpg", "c.jpg", "'=a.jpg", "''c.jpg", "a\\x0ab.jpg"))
    with File(answers, form) as file:
        file.resume(retry_failed=True)
        assert [file.has(name) for name in names] == [bool(number % 2) for number in range(len(names))]
        for name in names[::2]:
            file.write(name, result("cat"))
    with File(answers, form) as file:
        file.resume(retry_failed=True)
        assert all(file.has(name) for name in names)
        assert file.failed == 0


def test_answers_of_an_older_version_are_gone_on_with_in_its_columns(tmp_path: Path) -> None:
    """It wrote every text as it was, and no ids."""
    form, answers = Csv(1), tmp_path / "answers"
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    for name in ("=a.jpg", "b\nc.jpg", "plain.jpg"):
        writer.writerow([name, "cat", "0.5", "", "", "", "m", "1"])
    header = b"path,label_1,probability_1,error,code,message,model,version\n"
    answers.write_bytes(header + lines.getvalue().encode())
    with File(answers, form) as file:
        file.resume(retry_failed=False)
        assert [file.has(name) for name in ("=a.jpg", "b\nc.jpg", "plain.jpg", "new.jpg")] == [True, True, True, False]
        file.write("new.jpg", result("cat"))
    *_, last = csv.reader(io.StringIO(answers.read_text(), newline=""))
    assert len(last) == len(header.split(b","))


M = TypeVar("M", bound=Message)


def poisoned(message: M) -> M:
    """The same message with all of `EVIL` in front of each of its texts."""
    copy = type(message)()
    copy.CopyFrom(message)
    for field, value in list(copy.ListFields()):
        values = value if field.is_repeated else [value]
        if field.type == FieldDescriptor.TYPE_STRING:
            changed = [EVIL + each for each in values]
            if field.is_repeated:
                del value[:]
                value.extend(changed)
            else:
                setattr(copy, field.name, changed[0])
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            for each in values:
                each.CopyFrom(poisoned(each))
    return copy


@pytest.fixture
def hostile(scripted: ScriptedServer) -> ScriptedServer:
    """A server all of whose words are meant for the terminal."""

    def stream(requests: Iterator[pb.ClassifyStreamRequest], _: Context) -> Iterator[pb.ClassifyStreamResponse]:
        for request in requests:
            answered = stream_response(request)
            answered.response.CopyFrom(poisoned(answered.response))
            yield answered

    scripted.classify = lambda request, _: poisoned(response(request))
    scripted.stream = stream
    scripted.describe = lambda *_: poisoned(DESCRIPTION)
    return scripted


def album(folder: Path) -> None:
    """Photos whose names and answers are meant for the terminal."""
    (folder / "album").mkdir()
    name = EVIL.replace("/", "_").replace("\0", "")
    (folder / "album" / f"{name}.jpg").write_text("cat")
    (folder / "album" / f"bad{name}.jpg").write_text("bad one")
    (folder / "album" / f"bad{name}.jpg").rename(folder / "album" / os.fsdecode(b"bad\x9b2J\xe9.jpg"))


COMMANDS = [
    ["classify", "album"],
    ["classify", "album", "--json"],
    ["classify", "album", "--csv"],
    ["classify", f"no{EVIL}".replace("\0", "")],
    ["describe"],
    ["describe", "--json"],
    ["health"],
    ["sort", "album", "--into", "sorted\x1b[2J"],
    ["sort", "album", "--into", "sorted", "--dry-run"],
    ["load", "--requests", "3", "--callers", "1", "--warm-up", "0"],
    ["load", "--requests", "3", "--callers", "1", "--warm-up", "0", "--json", "-"],
    ["classify", "album", "--top-k", "\x1b[2J"],
    ["classify", "album", "--token-file", "no\x1b[2J\x9b2J"],
    ["classify", "album", "-o", "no\x1b]0;x\a/answers"],
    ["unsort", "no\x1b[2J"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: ascii(" ".join(command))[:60])
def test_nothing_that_a_terminal_obeys_comes_out_of_a_command(
    hostile: ScriptedServer, glimpse: Glimpse, tmp_path: Path, command: list[str]
) -> None:
    album(tmp_path)
    target = [] if command[0] == "unsort" else ["--target", hostile.target]
    ended = subprocess.run(
        [sys.executable, CLI, *command, *target], cwd=tmp_path, capture_output=True, check=False, timeout=120
    )
    tabs = "\t" if command == ["describe"] else ""  # our own, between its columns
    for printed in (ended.stdout, ended.stderr):
        assert clean(printed.decode(errors="surrogateescape"), f"\n{tabs}") == ""
    assert b"Traceback" not in ended.stderr


@pytest.mark.parametrize("method", ["classify", "describe"])
def test_a_server_s_error_is_plain_on_a_terminal_too(hostile: ScriptedServer, tmp_path: Path, method: str) -> None:
    status = grpc.StatusCode.INVALID_ARGUMENT
    message = EVIL.replace("\0", "")
    hostile.describe = lambda _, context: abort(context, status, EVIL, message=message)
    hostile.stream = lambda _, context: abort(context, status, EVIL, message=message)
    album(tmp_path)
    command = ["describe"] if method == "describe" else ["classify", "album"]
    printed = on_a_terminal([*command, "--target", hostile.target], tmp_path)
    assert "owned" in printed
    assert sequences(printed) <= {"colour"}


@pytest.mark.parametrize(
    "command",
    [
        ["classify", "album"],
        ["describe"],
        ["sort", "album", "--into", "s\x1b[2J"],
        ["load", "--requests", "3", "--warm-up", "0"],
    ],
)
def test_a_terminal_gets_colours_and_bars_of_ours_alone(
    hostile: ScriptedServer, tmp_path: Path, command: list[str]
) -> None:
    album(tmp_path)
    printed = on_a_terminal([*command, "--target", hostile.target], tmp_path)
    assert sequences(printed) <= {"colour", "line", "cursor"}


# What rich makes: colours, and for a line that changes in place to erase it, to go up and to hide the cursor.
_SEQUENCES = {"colour": r"\x1b\[[\d;]*m", "line": r"\x1b\[(?:2K|1?A|\d*G)|\r", "cursor": r"\x1b\[\?25[lh]"}


def sequences(printed: str) -> set[str]:
    """Which kinds of sequences are in what was printed; all that is unknown stands there as itself."""
    found = set()
    for name, form in _SEQUENCES.items():
        printed, count = re.subn(form, "", printed)
        found |= {name} if count else set()
    return found | set(clean(printed))


def on_a_terminal(command: list[str], folder: Path) -> str:
    """What a command prints where both its outputs are a terminal."""
    master, slave = pty.openpty()
    try:
        running = subprocess.Popen(
            [sys.executable, CLI, *command],
            stdin=subprocess.DEVNULL,
            stdout=slave,
            stderr=slave,
            cwd=folder,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"},
        )
    finally:
        os.close(slave)
    printed = b""
    try:
        while data := os.read(master, 1 << 16):
            printed += data
    except OSError:  # Linux' end of a terminal
        pass
    finally:
        os.close(master)
        running.wait(120)
    return printed.decode(errors="replace").replace("\r\n", "\n")
