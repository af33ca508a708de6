"""The image is built from the Dockerfile and runs as a pod would run it: see tests/deploy/container.py.

`make test-image` prints what it measured. The first build takes minutes and the network, and keeps its layers.
"""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from glimpse import __version__
from tests.deploy import container
from tests.deploy.container import ROOT, Container, Inspected
from tests.deploy.test_memory import MIB, limits

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

LARGEST = 1_500_000_000  # bytes, unpacked
VERSION = __version__


@pytest.fixture(scope="module")
def image() -> Inspected:
    """The CPU image, built from what lies here now."""
    if why := container.unable():
        pytest.skip(f"no image can be made here: {why}")
    container.make_base()
    container.make_image()
    return container.inspect()


@pytest.fixture(scope="module")
def running(image: Inspected) -> Iterator[Container]:
    """A server of the image, SERVING; shared, so tests must leave it as they found it."""
    # As the manifests set it for two CPUs.
    started = Container(environment={"GLIMPSE_DECODE_THREADS": "2", "TF_NUM_INTRAOP_THREADS": "2"})
    try:
        started.wait_for("serving")
        yield started
    finally:
        started.close()


@pytest.fixture(scope="module")
def measured(image: Inspected, running: Container) -> Iterator[dict[str, str]]:
    """What is worth knowing, printed at the end."""
    figures = {
        "image, unpacked": f"{image.bytes / 1e6:.0f} MB in {image.layers} layers",
        "start to SERVING": f"{running.wait_for('serving'):.1f} s",
        "memory, idle": f"{running.memory()[0] / 1e6:.0f} MB",
    }
    yield figures
    print("", *(f"{name}: {figure}" for name, figure in figures.items()), sep="\n")  # noqa: T201 - its purpose


def test_it_classifies_a_photo_without_a_network_beyond_itself(
    running: Container, cat_photo: Path, measured: dict[str, str]
) -> None:
    answer = running.execute("glimpse", "classify", "--json", "--top-k", "1", "-", stdin=cat_photo.read_bytes())
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["predictions"][0]["label"] in {"Egyptian cat", "tiger cat", "tabby"}
    links = running.execute("ls", "/sys/class/net").stdout
    interfaces = running.execute("cat", "/proc/net/dev").stdout.decode().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in interfaces] == ["lo"], links


def test_it_starts_with_the_network_that_was_converted_when_it_was_built(running: Container) -> None:
    events = {line["event"] for line in running.log}
    assert "model loaded" in events
    assert "network converted" not in events
    libraries = Path(f"/proc/{running.pid}/maps").read_text()
    assert "/site-packages/openvino/" in libraries
    assert "/site-packages/tensorflow/" not in libraries


def test_it_is_no_bigger_than_it_may_be(image: Inspected, measured: dict[str, str]) -> None:
    assert image.bytes <= LARGEST


def test_it_runs_as_its_own_user_who_can_do_nothing_else(running: Container) -> None:
    status = Path(f"/proc/{running.pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert set(fields["Uid"].split()) == {"10001"}
    assert set(fields["Gid"].split()) == {"10001"}
    assert fields["Groups"].split() == []
    assert {int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert fields["NoNewPrivs"] == "1"
    assert fields["NSpid"].split()[-1] == "1"


def test_its_root_is_read_only_and_its_code_is_not_its_own(running: Container) -> None:
    for path in ("/", "/app", "/opt/glimpse", "/var/cache/glimpse", "/etc"):
        attempt = running.execute("touch", f"{path}/x")
        assert b"Read-only file system" in attempt.stderr, path
    assert running.execute("touch", "/tmp/x").returncode == 0  # noqa: S108 - the container's
    owned = running.execute(
        "find", "/app", "/opt/glimpse", "(", "-user", "10001", "-o", "-perm", "/o+w", ")", "-not", "-type", "l"
    )
    assert (owned.returncode, owned.stdout) == (0, b"")


def test_the_probe_says_what_the_server_says(running: Container, measured: dict[str, str]) -> None:
    probe = running._image.config["Healthcheck"]["Test"]
    assert probe[0] == "CMD"
    begun = time.monotonic()
    serving = running.execute(*probe[1:])
    measured["health check"] = f"{time.monotonic() - begun:.2f} s"
    assert (serving.returncode, serving.stderr) == (0, b"127.0.0.1:50051 is SERVING\n")
    assert running.execute(*probe[1:], "--service", "").returncode == 0
    nobody = running.execute(*probe[1:], "--target", "127.0.0.1:1")
    assert (nobody.returncode, b"does not answer: UNAVAILABLE" in nobody.stderr) == (1, True)
    unknown = running.execute(*probe[1:], "--service", "x")
    assert (unknown.returncode, b"NOT_FOUND" in unknown.stderr) == (1, True)


def test_the_probe_loads_neither_a_framework_nor_the_server(running: Container) -> None:
    script = "import runpy, sys; runpy.run_path('/app/deploy/probe.py'); print(*sys.modules)"
    loaded = {name.split(".")[0] for name in running.execute("python", "-c", script).stdout.decode().split()}
    assert "grpc" in loaded
    assert loaded.isdisjoint({"tensorflow", "keras", "numpy", "openvino", "server", "models"})


def test_the_published_weights_need_a_cache_that_can_be_written_and_say_so(running: Container) -> None:
    """The command is that of deploy/components/weights-fetch."""
    chosen = ("GLIMPSE_MODEL=resnet50", "GLIMPSE_WEIGHTS=imagenet")
    failed = running.execute("env", *chosen, "python", "-m", "glimpse.models", "fetch")
    assert failed.returncode == 1
    (said,) = failed.stderr.splitlines()
    assert said.startswith(b"models: ")
    assert b"GLIMPSE_CACHE" in said


def test_it_measures_a_model_on_photos(running: Container, cat_photo: Path) -> None:
    folder = "/tmp/photos/Egyptian cat"  # noqa: S108 - the container's
    assert running.execute("mkdir", "-p", folder).returncode == 0
    copied = running.execute("sh", "-c", f"cat > '{folder}/cat.jpg'", stdin=cat_photo.read_bytes())
    assert copied.returncode == 0, copied.stderr
    options = ("--data", "/tmp/photos", "--turns", "1", "--seconds", "0.01", "--json")  # noqa: S108
    answer = running.execute("python", "-m", "glimpse.models", "compare", "efficientnet_lite0", *options, seconds=300)
    assert answer.returncode == 0, answer.stderr
    (model,) = json.loads(answer.stdout)["models"]
    assert model["metrics"]["top5"] == 1


def test_packages_weights_and_code_are_layers_of_their_own(image: Inspected) -> None:
    code, weights = "app/glimpse/server/app.py", "app/glimpse/models/bundles/se_resnet20_cifar10/weights.safetensors"
    interpreter = "opt/glimpse/pyvenv.cfg"
    layers = container.layer_of([code, weights, interpreter])
    assert layers[interpreter] < layers[weights] < layers[code]


def test_its_list_of_packages_is_the_lock_and_what_is_installed(running: Container) -> None:
    listed = json.loads(running.execute("cat", "/opt/glimpse/share/sbom/python.cdx.json").stdout)
    assert listed["bomFormat"] == "CycloneDX"
    assert listed["metadata"]["component"]["name"] == "glimpse-serve"
    components = {each["name"].lower().replace("_", "-"): each["version"] for each in listed["components"]}
    script = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    installed = json.loads(running.execute("python", "-c", script).stdout)
    assert components == {name.lower().replace("_", "-"): version for name, version in installed.items()}
    locked = dict(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "locks" / "server.txt").read_text(), re.MULTILINE))
    assert components.items() <= locked.items()
    assert {"tensorflow-cpu", "keras", "grpcio"} <= components.keys()
    assert all(each["purl"].startswith("pkg:pypi/") for each in listed["components"])


def test_it_says_what_it_is(image: Inspected) -> None:
    labels = {
        name.rpartition(".")[2]: value for name, value in image.config["Labels"].items() if "opencontainers" in name
    }
    assert labels["title"] == "Glimpse"
    assert (labels["version"], labels["revision"], labels["licenses"]) == ("0.0.test", "none", "Apache-2.0")
    assert labels["name"] == container.BASE


def test_the_memory_that_the_manifest_gives_is_enough_for_the_worst_photos(
    running: Container, measured: dict[str, str]
) -> None:
    from PIL import Image

    # As many pixels as are allowed, in a format that has to be decoded whole: 75 MB each, in files of a few kilobytes.
    file = io.BytesIO()
    Image.new("RGB", (5000, 5000), (90, 120, 40)).save(file, "PNG")
    assert running.execute("sh", "-c", "cat > /tmp/large.png", stdin=file.getvalue()).returncode == 0
    copies = ["/tmp/large.png"] * 40  # noqa: S108 - the container's
    answer = running.execute("glimpse", "classify", "--json", *copies, seconds=600)
    assert answer.returncode == 0, answer.stderr
    assert len(answer.stdout.splitlines()) == 40
    _, given = limits("cpu", "resources.yaml")
    _, most = running.memory()
    measured["memory, at most"] = f"{most / 1e6:.0f} MB"
    assert most < 0.9 * given * MIB


def test_it_says_which_version_it_is(running: Container) -> None:
    assert running.execute("python", "-m", "glimpse.server", "--version").stdout == f"glimpse {VERSION}\n".encode()


def test_no_trace_of_the_build_is_left(running: Container) -> None:
    found = running.execute("find", "/build", "/sbom", "/src", "/root/.cache", "/etc/pip.conf", "/usr/bin/strip")
    assert found.stdout == b""
    assert running.execute("find", "/app", "-name", "*.pyi").stdout == b""


def test_a_bad_setting_is_told_before_the_framework_is_loaded(image: Inspected) -> None:
    refused = Container("cpu", "--port", "70000")
    try:
        assert refused.process.wait(120) == 2
        assert any("port" in line.get("detail", "") for line in refused.log)
    finally:
        refused.close()


def test_on_sigterm_it_drains_and_ends_with_0(image: Inspected) -> None:
    # Another server than the shared one; its namespaces are its own, so the ports are free.
    ending = Container("cpu", "--drain-announce-seconds", "0.5")
    try:
        ending.wait_for("serving")
        assert ending.stop() == 0
        assert ending.log[-1]["event"] == "stopped"
    finally:
        ending.close()
