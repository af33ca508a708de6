"""The log as text: nothing of what callers say is obeyed by a terminal, and none of it looks like a line of ours."""

from __future__ import annotations

import io
import logging
import re
import unicodedata
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glimpse.models.plain import PlainText
from glimpse.server import logs

HOSTILE = "\x1b[2J\x1b]0;owned\a\x9b2J\u202etxt\r\b\x7f\x00\n2026-01-01T00:00:00Z [info] rpc code=OK"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(params=[io.StringIO, Terminal], ids=["file", "terminal"])
def stream(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    made: io.StringIO = request.param()
    logs.send_to(made)
    logs.configure("info", "text")
    yield made
    logs._streams.clear()
    structlog.reset_defaults()
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def logged(stream: io.StringIO) -> str:
    """What was logged, without the colours of ours."""
    return re.sub(r"\x1b\[[\d;]*m", "", stream.getvalue())


def check(text: str) -> None:
    for line in text.splitlines():
        assert not [char for char in line if unicodedata.category(char) in {"Cc", "Cf", "Zl", "Zp"} and char != "\t"]
    for line in text.split("\n")[1:-1]:
        assert line.startswith("    ") or not line, line


def test_words_of_callers_are_escaped_wherever_they_stand(stream: io.StringIO) -> None:
    log = structlog.get_logger("a test")
    try:
        raise ValueError(HOSTILE)  # noqa: TRY301
    except ValueError:
        log.exception("a defect", details=HOSTILE, several=[HOSTILE], named={HOSTILE: HOSTILE}, data=HOSTILE.encode())
    text = logged(stream)
    assert "owned" in text
    assert not [char for char in text if unicodedata.category(char) in {"Cc", "Cf"} and char not in "\n\t"]


@pytest.mark.parametrize("log", [logging.getLogger("a library"), structlog.get_logger("ours")], ids=["library", "ours"])
def test_a_line_break_begins_no_line(stream: io.StringIO, log: logging.Logger) -> None:
    log.warning(HOSTILE)
    check(logged(stream))


@given(text=st.text("\x00\x1b\x9b\u202e\n\r\t ab=[]'\\\u2028\x85", max_size=20))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_is_obeyed(stream: io.StringIO, text: str) -> None:
    stream.seek(0)
    stream.truncate()
    structlog.get_logger("a test").info("rpc", details=text)
    check(logged(stream))


def test_on_a_terminal_the_log_keeps_its_colours_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's standard error carries plain text alone; the log has the way of those who make colours."""

    class Raw(io.BytesIO):
        def isatty(self) -> bool:
            return True

    raw, root = Raw(), logging.getLogger()
    before, level = root.handlers[:], root.level
    monkeypatch.setattr("sys.stderr", PlainText(raw, encoding="utf-8", write_through=True))
    try:
        logs.configure("info", "auto")
        structlog.get_logger("a test").warning("a test", details=HOSTILE)
    finally:
        structlog.reset_defaults()
        root.handlers[:] = before
        root.setLevel(level)
        logging.captureWarnings(capture=False)
    printed = raw.getvalue().decode()
    assert "\x1b[" in printed
    assert "\N{REPLACEMENT CHARACTER}" not in printed
    left = re.sub(r"\x1b\[[\d;]*m", "", printed)
    assert not [char for char in left if unicodedata.category(char) in {"Cc", "Cf"} and char not in "\n\t"]
