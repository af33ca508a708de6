"""What `glimpse models canary`, `shadow` and `rollback` refuse before they ask a server."""

from __future__ import annotations

from collections.abc import Callable
from subprocess import CompletedProcess

import pytest

REFUSED = [
    (("canary", "cifar", "2"), "canary needs --share, such as --share 0.1."),
    (("shadow", "cifar", "2"), "shadow needs --share"),
    (("canary", "cifar", "2", "--share", "11"), "Expected: a number from 0 to 1, or from 0% to 100%. Received: '11'."),
    (("canary", "cifar", "2", "--share", "ten%"), "Received: 'ten%'."),
    (("canary", "cifar", "2", "--share", "nan"), "Received: 'nan'."),
    (("canary", "cifar", "2", "--share", "0.1", "--min-agreement", "101%"), "Received: '101%'."),
    (("canary", "cifar", "--share", "0.1"), "Expected: models canary NAME VERSION. Received: 1 word behind"),
    (("shadow", "cifar", "2", "--share", "1", "--max-error-rate", "0.1"), "shadow does not take --max-error-rate."),
    (("shadow", "cifar", "2", "--share", "1", "--window", "60"), "shadow does not take --window."),
    (("promote", "cifar", "2", "--share", "1"), "promote does not take --share."),
    (("rollback", "cifar", "2"), "Expected: models rollback NAME. Received: 2 words"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_what_cannot_be_meant_is_refused(
    glimpse: Callable[..., CompletedProcess[str]], words: tuple[str, ...], said: str
) -> None:
    ended = glimpse("models", *words)
    assert ended.returncode == 2
    assert said in " ".join(ended.stderr.replace("│", " ").split())
