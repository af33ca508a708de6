"""The options of the library's programs: a misspelt one is answered with the one that was probably meant."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest

from glimpse.models import evaluate
from glimpse.models.suggestions import did_you_mean, nearest
from glimpse.models.train import options


@pytest.mark.parametrize(
    ("parse", "arguments", "message"),
    [
        (
            options.parser().parse_args,
            ["--lerning-rate", "3"],
            "no option --lerning-rate. Did you mean --learning-rate?",
        ),
        (options.parser().parse_args, ["--wieghts-dtype=float16"], "--wieghts-dtype. Did you mean --weights-dtype?"),
        (options.parser().parse_args, ["--zzz"], "there is no option --zzz. --help lists all options"),
        (options.parser().parse_args, ["photos"], "unexpected argument 'photos'. Options begin with two dashes"),
        (evaluate.main, ["--skip-unreadible"], "--skip-unreadible. Did you mean --skip-unreadable?"),
    ],
)
def test_an_unknown_option_is_refused_with_the_nearest_one(
    parse: Callable[[list[str]], argparse.Namespace | int],
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--data", "train.zip", *(["--architecture", "vgg16"] if parse != evaluate.main else []), *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_every_option_of_training_has_a_help_text() -> None:
    """Each says what it is; a default that is a value is shown."""
    actions = options.parser()._actions
    assert [action.dest for action in actions if not action.help] == []


def test_a_suggestion_names_similar_words_or_all_of_them() -> None:
    assert did_you_mean("alhpa", ["alpha", "rho"]) == " Did you mean alpha?"
    assert did_you_mean("x", ["alpha", "rho"]) == " Available: alpha, rho."
    assert did_you_mean("x", []) == " There are none."
    assert nearest("prot", ["port", "host"]) == " Did you mean port?"
    assert not nearest("x", ["port", "host"])
