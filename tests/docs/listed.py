"""Commands that a test cannot run here, each with the reason, and what of them is checked instead."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

from glimpse.models import published, random_weights, sources
from glimpse.models.bundle import embedded
from glimpse.models.catalogue import find
from glimpse.server import settings
from tests.docs.blocks import ROOT, Command

_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
# What `make` runs for these, so that the options in ARGS are of it.
_MODULES = {"train": "glimpse.models.train", "evaluate": "glimpse.models.evaluate", "bench": "tools.bench"}


@dataclass(frozen=True, slots=True)
class Listed:
    """A kind of command that is not run."""

    pattern: str  # that its text begins with
    reason: str
    check: Callable[[Command, Path], None]  # what can be said of it all the same; given the page's folder, too
    unless: Callable[[], bool] = field(default=lambda: False)  # it is run after all where this holds

    def holds_for(self, command: Command) -> bool:
        """Whether the command is of this kind, here."""
        return bool(re.match(self.pattern, command.program)) and not self.unless()


def syntax(command: Command, _: Path) -> None:
    """Bash can read it. (`bash -n` reads, and runs nothing.)"""
    _run("bash", "-n", "-c", command.text)


def target(command: Command, _: Path) -> None:
    """Make knows the target and how to get there, and the program behind it the options."""
    name = command.words[1]
    _run("make", "-n", *command.words[1:])
    if name in _MODULES:
        known(_MODULES[name], command.program)


def options(command: Command, _: Path) -> None:
    """The program has the options: `python -m MODULE ...`, of which `glimpse.models` has commands."""
    module, *rest = command.words[2:]
    known(module, command.program, *(rest[:1] if module == "glimpse.models" else ()))


def ours(command: Command, _: Path) -> None:
    """The client has the options."""
    known("glimpse.client.cli", command.program, command.words[1])


def known(module: str, text: str, *subcommand: str) -> None:
    """Every --option in a text is one that the module's --help names."""
    unknown = set(_FLAG.findall(text)) - set(_FLAG.findall(_help(module, *subcommand)))
    assert not unknown, f"python -m {module} has no {', '.join(sorted(unknown))}: {text}"


@cache
def _help(module: str, *subcommand: str) -> str:
    return _run(sys.executable, "-m", module, *subcommand, "--help")


def _run(*command: str) -> str:
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def server(command: Command, folder: Path) -> None:
    """The settings can be read, and there are such an architecture and such weights."""
    if command.words[0] == "make":
        target(command, folder)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("GLIMPSE_")]:
            patch.delenv(name)
        for name, value in command.environment.items():
            patch.setenv(name, value)
        patch.chdir(folder)
        unknown = settings.unknown_variables(command.environment)
        assert not unknown, unknown
        chosen = settings.load(_flags(command), command.environment)
    if chosen.model:
        find(chosen.model, chosen.variant or None, chosen.options)
    if "/" not in chosen.weights and random_weights.seed(chosen.weights) is None:
        model = chosen.model or sources.DEFAULTS[chosen.weights]
        tags = (*embedded(model), *published.tags(model, chosen.variant or None))
        assert chosen.weights in tags, f"{chosen.weights} is none of {tags}"


def _flags(command: Command) -> list[str]:
    """What the server is given: after its name, or in make's ARGS."""
    if command.words[0] != "make":
        return list(command.words[3:])
    return [flag for word in command.words if word.startswith("ARGS=") for flag in shlex.split(word[5:])]


def has(tool: str) -> Callable[[], bool]:
    """Whether a program is installed here."""
    return lambda: shutil.which(tool) is not None


LISTED = (
    Listed(
        r"make serve\b", "installs packages, and serves until it is stopped; the shared server stands for it", server
    ),
    Listed(r"\S*python -m glimpse.server(\s|$)", "serves until it is stopped; the shared server stands for it", server),
    Listed(
        r"(\.venv/bin/python -m )?pip install\b",
        "installs packages; the tests of the wheels build and install both",
        syntax,
    ),
    Listed(r"make (test|check|bench)\b", "minutes; and this is one of the tests", target),
    Listed(r"make (train|evaluate)\b", "minutes, and labelled photos; the tests of training train", target),
    Listed(r"make image\b", "needs a container engine", target),
    Listed(
        r"\S*python -m glimpse.models compare .*\bresnet50\b",
        "needs the network; a comparison of a shipped model is run",
        options,
    ),
    Listed(
        r"\S*python -m glimpse.models calibrate\b", "minutes, and labelled photos; tests calibrate with theirs", options
    ),
    Listed(r"\S*python -m glimpse.models fetch\b", "needs the network; a fetch from this machine is tested", options),
    Listed(r"ls runs/", "shows what training has made; test_tutorial.py runs it", syntax),
    Listed(r"\S*python -m tools\.bench\b", "minutes, on a machine that does nothing else", syntax),
    Listed(r"docker\b", "needs a container engine, and an image", syntax),
    Listed(r"perf_analyzer\b", "comes with Triton, and measures for a minute", syntax),
    Listed(r"kubectl\b", "needs a cluster", syntax),
    Listed(r"helm\b", "needs a cluster; tests/deploy/test_helm.py renders the chart", syntax),
    Listed(r"curl .*http://[\w-]+\.default:", "asks a Service in a cluster", syntax),
    Listed(
        r"client/cli\.py (models|classify --model cifar)\b",
        "needs a server with a repository of models; test_roll_out.py runs it with one",
        ours,
    ),
    Listed(
        r"client/cli\.py (classify|describe) --tls", "needs a server with TLS; the tests of the client have one", ours
    ),
    Listed(r"openssl\b", "openssl is not installed", syntax, unless=has("openssl")),
    Listed(r"grpcurl\b", "grpcurl is not installed", syntax, unless=has("grpcurl")),
    Listed(r"curl\b", "curl is not installed", syntax, unless=has("curl")),
    Listed(r".*\| jq\b", "jq is not installed", syntax, unless=has("jq")),
)


def listed(command: Command) -> Listed | None:
    """The entry that a command falls under; None: it is to be run."""
    return next((entry for entry in LISTED if entry.holds_for(command)), None)
