"""Networks that are converted once and kept: what a start takes from there, and when it makes a new one."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import structlog

from glimpse.models import bundle as bundles
from glimpse.models.bundle import BundleError
from glimpse.models.files import digests
from glimpse.models.outputs import PROBABILITIES
from glimpse.server.runtime import UnsupportedNetworkError, conversion, converted_cache
from glimpse.server.runtime.conversion import get_or_convert
from glimpse.server.runtime.importing import import_model
from glimpse.server.runtime.openvino import OpenVINORuntime
from glimpse.server.runtimes import RUNTIMES
from tests.conftest import ROOT

BUNDLE = bundles.read(bundles.EMBEDDED_DEFAULT)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the shipped network is kept."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLIMPSE_CACHE", str(folder))
        assert get_or_convert(BUNDLE).cached
    return folder


@pytest.fixture
def cache(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the cache."""
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(made, tmp_path / "cache"))


@pytest.fixture
def conversions(made: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that have been converted into; in place of the conversion, which takes seconds, a copy."""
    folders: list[Path] = []
    source = only(made)
    kept = {name: (source / name).read_bytes() for name in ("network.xml", "network.bin")}
    network = converted_cache.read_summary(json.loads((source / "network.json").read_text())["network"])

    def copy(bundle: bundles.Bundle, folder: Path, *, seconds: float) -> object:
        assert bundle.verified_versions == digests.file_versions(bundle.weights_path), "it would be hashed once more"
        folders.append(folder)
        for name, data in kept.items():
            (folder / name).write_bytes(data)
        return network

    monkeypatch.setattr(conversion, "_convert_elsewhere", copy)
    return folders


def only(cache: Path) -> Path:
    (folder,) = (cache / "networks").iterdir()
    return folder


def test_what_is_kept_is_the_network_and_what_is_told_of_it(cache: Path) -> None:
    found = get_or_convert(BUNDLE)
    assert found.cached
    assert found.folder == only(cache)
    assert found.summary.parameters == 864_802
    assert sum(stage.parameters for stage in found.summary.stages) == 864_802
    assert found.summary.stages[0].output_shape == (32, 32, 16)
    assert found.summary.multiply_adds == 105_133_536
    probabilities = OpenVINORuntime(found.graph, "float32")(np.zeros((2, 32, 32, 3), np.uint8))[PROBABILITIES]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


@pytest.mark.usefixtures("cache")
def test_a_second_start_converts_nothing(conversions: list[Path]) -> None:
    assert converted_cache.is_cached(BUNDLE)
    assert get_or_convert(BUNDLE).cached
    assert conversions == []


@pytest.mark.parametrize(
    "other",
    [
        {"temperature": 2.0},
        {"recipe": replace(BUNDLE.recipe, mean=(1.0, 2.0, 3.0))},
        {"labels": BUNDLE.labels[:-1]},
        {"variant": "another"},
        {"options": {"width": 2}},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_bundle_that_differs_in_anything_that_matters_gets_its_own_network(
    cache: Path, conversions: list[Path], other: dict[str, object]
) -> None:
    bundle = replace(BUNDLE, **other)  # type: ignore[arg-type]  # fields of a bundle
    assert not converted_cache.is_cached(bundle)
    assert get_or_convert(bundle).folder != get_or_convert(BUNDLE).folder
    assert len(conversions) == 1
    assert len(list((cache / "networks").iterdir())) == 2


@pytest.mark.parametrize("what", ["_code", "build.version"])
def test_other_code_or_another_package_makes_a_network_of_its_own(
    cache: Path, conversions: list[Path], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"glimpse.server.runtime.converted_key.{what}", lambda *_: "another")
    get_or_convert(BUNDLE)
    assert len(conversions) == 1
    assert len(list((cache / "networks").iterdir())) == 2


def test_the_name_and_what_the_card_claims_do_not_matter(cache: Path, conversions: list[Path]) -> None:
    again = replace(BUNDLE, name="another", version="2", metrics={"top1": 0.1})
    assert get_or_convert(again).folder == only(cache)
    assert conversions == []


@pytest.mark.parametrize("name", ["network.xml", "network.bin"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "empty"])
def test_a_damaged_network_is_made_anew(cache: Path, conversions: list[Path], name: str, damage: str) -> None:
    path = only(cache) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    change: dict[str, Callable[[], object]] = {
        "flip": lambda: path.write_bytes(data),
        "truncate": lambda: path.write_bytes(data[:-10]),
        "remove": path.unlink,
        "empty": lambda: path.write_bytes(b""),
    }
    change[damage]()
    with structlog.testing.capture_logs() as logs:
        found = get_or_convert(BUNDLE)
    assert [line["event"] for line in logs] == ["kept network cannot be used", "network converted"]
    assert (found.cached, len(conversions)) == (True, 1)
    assert get_or_convert(BUNDLE).folder == only(cache)
    assert len(conversions) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"files": {}, "network": {}}', '{"files": [], "network": 3}'])
def test_a_damaged_description_of_it_is_made_anew(cache: Path, conversions: list[Path], text: str) -> None:
    (only(cache) / "network.json").write_text(text)
    assert get_or_convert(BUNDLE).summary.parameters == 864_802
    assert len(conversions) == 1
    assert json.loads((only(cache) / "network.json").read_text())["files"]


@pytest.mark.usefixtures("cache")
def test_weights_other_than_the_bundles_are_refused_though_the_network_is_kept(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(BUNDLE.folder, tmp_path / "bundle"))
    (folder / bundles.WEIGHTS).write_bytes(b"another")
    with pytest.raises(BundleError, match="is not the file that the bundle was made with"):
        get_or_convert(bundles.read(folder))


def test_where_nothing_can_be_kept_the_network_is_temporary(
    conversions: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path / "file" / "cache"))
    with structlog.testing.capture_logs() as logs:
        imported = import_model(BUNDLE, RUNTIMES["openvino"])
    assert [line["event"] for line in logs] == ["converted network not kept", "network converted"]
    assert "GLIMPSE_CACHE" in logs[0]["detail"]
    assert len(conversions) == 1
    graph = imported.form()
    assert isinstance(graph, Path)
    assert graph.parent == imported.temporary
    runtime = OpenVINORuntime(graph, "float32")
    imported.close()
    assert not graph.parent.exists()
    found = runtime(np.zeros((1, 32, 32, 3), np.uint8))
    assert found[PROBABILITIES].shape == (1, 10), "it goes on without its files"


def test_a_kept_network_outlives_the_one_who_read_it(cache: Path) -> None:
    imported = import_model(BUNDLE, RUNTIMES["openvino"])
    assert imported.temporary is None
    imported.close()
    assert only(cache).is_dir()


def test_a_folder_that_cannot_be_written_is_read_all_the_same(
    cache: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, _: path != cache / "networks")
    assert get_or_convert(BUNDLE).cached
    assert not get_or_convert(replace(BUNDLE, temperature=2.0)).cached
    assert len(conversions) == 1
    assert only(cache) not in conversions


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_s_folder_is_no_reason_not_to_start(cache: Path) -> None:
    script = (
        "import os, sys\n"
        "from glimpse.models import bundle\n"
        "from glimpse.server.runtime import converted_cache\n"
        "import glimpse.models.published\n"
        "ours = bundle.read(bundle.EMBEDDED_DEFAULT)\n"
        "os.setuid(12345)\n"
        "print(converted_cache.is_cached(ours), end='')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLIMPSE_CACHE": str(cache)}
    above = [folder for folder in cache.parents if Path(tempfile.gettempdir()) in folder.parents]
    said = []
    for mode in (0o755, 0o700):
        for folder in (only(cache), *above):
            folder.chmod(0o755)
        cache.chmod(mode)
        ended = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        said.append(ended.stdout + ended.stderr)
    assert said == ["True", "False"]


def test_what_is_kept_can_be_read_by_servers_of_other_users(cache: Path) -> None:
    for path in (only(cache), *only(cache).iterdir()):
        assert path.stat().st_mode & 0o044 == 0o044, path


@pytest.mark.usefixtures("conversions")
def test_with_no_room_anywhere_it_says_so(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(cache)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    with pytest.raises(OSError, match=r"cannot be written to a file.*1 MiB are free.*GLIMPSE_CACHE"):
        get_or_convert(replace(BUNDLE, temperature=2.0))


def test_a_disk_without_room_keeps_nothing(
    cache: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(cache)
    short = usage._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: short if path == cache / "networks" else usage)
    with structlog.testing.capture_logs() as logs:
        assert not get_or_convert(replace(BUNDLE, temperature=2.0)).cached
    assert "1 MiB are free" in logs[0]["detail"]
    assert len(conversions) == 1


def test_of_two_servers_converting_at_once_the_second_takes_what_the_first_kept(
    cache: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = only(cache)
    aside = folder.rename(cache / "aside")
    convert = conversion._convert_elsewhere

    def slower(bundle: bundles.Bundle, into: Path, *, seconds: float) -> object:
        aside.rename(folder)
        return convert(bundle, into, seconds=seconds)

    monkeypatch.setattr(conversion, "_convert_elsewhere", slower)
    assert get_or_convert(BUNDLE).folder == folder
    assert not conversions[0].exists()


def test_what_was_not_used_for_a_month_goes_and_what_a_killed_server_left(cache: Path, conversions: list[Path]) -> None:
    place = cache / "networks"
    used, unused, half, fresh = only(cache), place / "unused", place / ".half", place / ".fresh"
    shutil.copytree(used, unused)
    half.mkdir()
    fresh.mkdir()
    month = time.time() - 31 * 24 * 3600
    for path in (unused / "network.json", half, used / "network.json"):
        os.utime(path, (month, month))
    get_or_convert(BUNDLE)  # used today
    get_or_convert(replace(BUNDLE, temperature=2.0))
    assert used.exists()
    assert fresh.exists()
    assert not unused.exists()
    assert not half.exists()
    assert len(conversions) == 1


@pytest.mark.parametrize(
    ("script", "raised", "match"),
    [
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            UnsupportedNetworkError,
            r"killed \(SIGKILL\), possibly because memory ran out",
        ),
        ("import os; os.abort()", UnsupportedNetworkError, "ended by SIGABRT"),
        (
            "import os, sys; sys.stderr.write('what():  std::bad_alloc'); sys.stderr.flush(); os.abort()",
            MemoryError,
            "ended by SIGABRT because memory ran out.*bad_alloc",
        ),
        ("raise SystemExit(3)", UnsupportedNetworkError, "exit code 3"),
        ("raise RuntimeError('no such layer')", UnsupportedNetworkError, "exit code 1.*RuntimeError: no such layer"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", UnsupportedNetworkError, "ended by SIGSEGV"),
        ("print('Hello')", UnsupportedNetworkError, "without a valid answer. Received: Hello"),
        ("print('[]')", UnsupportedNetworkError, "without a valid answer"),
        ("", UnsupportedNetworkError, "Received: nothing"),
        ("print('x' * 10_000_000)", UnsupportedNetworkError, r"Received: x{199,200}\."),
        ("""print('{"error": "another kind", "message": "a later one"}')""", UnsupportedNetworkError, "a later one"),
        ("""print('Hello'); print('{"error": "memory", "message": "too little"}')""", MemoryError, "too little"),
        ("""print('{"error": "memory", "message": "too little"}')""", MemoryError, "too little"),
        ("""print('{"error": "refused", "message": "no labels"}')""", ValueError, "no labels"),
        ("""print('{"error": "unsupported", "message": "no ResizeBicubic"}')""", UnsupportedNetworkError, "no Resize"),
    ],
)
def test_how_the_conversion_ends_is_how_it_is_told_and_nothing_stays(
    cache: Path, monkeypatch: pytest.MonkeyPatch, script: str, raised: type[Exception], match: str
) -> None:
    popen = subprocess.Popen

    def other(command: list[str], **options: object) -> subprocess.Popen[bytes]:
        return popen([sys.executable, "-c", script], **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(subprocess, "Popen", other)
    many = tuple(bundles.ClassLabel(f"class {number}", "of many, so that they fill the pipe") for number in range(5000))
    bundle = replace(BUNDLE, labels=many)
    before = only(cache)
    with pytest.raises(raised, match=match):
        get_or_convert(bundle)
    refused = "ResizeBicubic" in script  # the one thing that would be no other at the next start
    assert len(list((cache / "networks").iterdir())) == 1 + refused
    assert before.is_dir()
    assert converted_cache.is_cached(bundle) == refused
    if refused:
        monkeypatch.undo()
        monkeypatch.setenv("GLIMPSE_CACHE", str(cache))
        with pytest.raises(raised, match=match):
            get_or_convert(bundle)


CONVERSION = """
import pathlib, sys, time
sys.argv[1:] = [{folder!r}, "600"]
from glimpse.server.runtime import conversion_worker
def answer(bundle, folder):
    (folder / bundle.name).touch()
    time.sleep(1000)
conversion_worker._answer = answer
conversion_worker.main()
"""


@pytest.mark.ci
def test_the_process_that_converts_ends_when_the_server_does(tmp_path: Path) -> None:
    script = CONVERSION.format(folder=str(tmp_path))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None
        pickle.dump(BUNDLE, process.stdin)
        process.stdin.flush()
        end = time.monotonic() + 120
        while not (tmp_path / BUNDLE.name).exists():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        assert process.poll() is None, "it goes on while the server is there"
        process.stdin.close()  # as the kernel does for a server that is killed
        assert process.wait(60) == 1
