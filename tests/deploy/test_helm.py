"""The Helm chart: it makes the objects of the overlays, and refuses values that would not work."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from glimpse import __version__
from glimpse.server.settings import unknown_variables
from tests.deploy.tools import DEPLOY, OVERLAYS, Manifest, manifests, parse, run, tool

pytestmark = pytest.mark.slow

CHART = DEPLOY / "helm" / "glimpse"
NAME = "app.kubernetes.io/name"
# What Helm's conventions ask for, and kustomize has no use for.
ADDED = {
    "app.kubernetes.io/instance",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/version",
    "helm.sh/chart",
    NAME,
    "app.kubernetes.io/part-of",
}
DEFAULTS = {"cpu": CHART / "values.yaml", "gpu": CHART / "values-gpu.yaml"}


def values_of(overlay: str) -> Path:
    """The values that make the objects of an overlay."""
    return DEFAULTS.get(overlay, CHART / "ci" / f"{overlay}-values.yaml")


@cache
def template(*options: str, release: str = "glimpse") -> str:
    """What `helm install` would send."""
    command = (tool("helm"), "template", release, str(CHART), "--namespace", "glimpse", "--kube-version", "1.35.0")
    ended = run(*command, *options)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def refusal(*options: str) -> str:
    """What Helm says to values that are refused."""
    ended = run(tool("helm"), "template", "glimpse", str(CHART), *options)
    assert ended.returncode != 0, ended.stdout
    return ended.stderr


def by_name(objects: tuple[Manifest, ...] | list[Manifest]) -> dict[tuple[str, str], Manifest]:
    """Objects by kind and name."""
    found = {(each["kind"], each["metadata"]["name"]): each for each in objects}
    assert len(found) == len(objects)
    return found


def comparable(found: Any, *, at: str = "") -> Any:
    """An object without what Helm adds, and with lists that have no order in one."""
    if isinstance(found, dict):
        made = {key: comparable(value, at=key) for key, value in found.items()}
        if not made.get("labels", True):
            del made["labels"]
        if at == "labels":
            return {key: value for key, value in made.items() if key not in ADDED}
        if at in {"matchLabels", "selector"} and NAME in made:
            assert made.pop("app.kubernetes.io/instance", "glimpse") == "glimpse"
        return made
    if isinstance(found, list):
        made_list = [comparable(each) for each in found]
        if at in {"env", "volumeMounts", "volumes", "ports"}:  # each is found by its name or path
            return sorted(made_list, key=lambda each: json.dumps(each, sort_keys=True))
        return made_list
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_chart_makes_the_objects_of_each_overlay(overlay: str) -> None:
    """Field by field, but for the labels that Helm adds and for the namespace, which Helm does not make."""
    ours = by_name(parse(template("--values", str(values_of(overlay)))))
    theirs = by_name(manifests(overlay))
    theirs.pop(("Namespace", "glimpse"), None)
    assert ours.keys() == theirs.keys()
    for key, wanted in theirs.items():
        assert comparable(ours[key]) == comparable(wanted), key


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_labels_of_kustomize_are_labels_of_the_chart_too(overlay: str) -> None:
    ours = by_name(parse(template("--values", str(values_of(overlay)))))
    for key, wanted in by_name(manifests(overlay)).items():
        labels = wanted["metadata"].get("labels", {})
        assert key[0] == "Namespace" or labels.items() <= ours[key]["metadata"]["labels"].items(), key


def test_values_for_each_overlay_are_there_and_no_others() -> None:
    named = {path.name.removesuffix("-values.yaml") for path in (CHART / "ci").iterdir()}
    assert named | set(DEFAULTS) == set(OVERLAYS)


def test_helm_finds_nothing_wrong_with_the_chart() -> None:
    ended = run(tool("helm"), "lint", "--strict", str(CHART))
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_the_chart_has_the_version_of_the_server() -> None:
    (chart,) = parse((CHART / "Chart.yaml").read_text("utf-8"))
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


def test_two_releases_in_one_namespace_have_pods_and_objects_of_their_own() -> None:
    objects = {release: parse(template(release=release)) for release in ("cats", "my-glimpse-2")}
    names = {release: {each["metadata"]["name"] for each in found} for release, found in objects.items()}
    assert names == {
        "cats": {"cats-glimpse", "cats-glimpse-metrics"},
        "my-glimpse-2": {"my-glimpse-2", "my-glimpse-2-metrics"},
    }
    for release, found in objects.items():
        (deployment,) = [each for each in found if each["kind"] == "Deployment"]
        wanted = {NAME: "glimpse", "app.kubernetes.io/instance": release}
        assert deployment["spec"]["selector"]["matchLabels"] == wanted
        services = [each["spec"]["selector"] for each in found if each["kind"] == "Service"]
        assert services == [wanted, wanted]


def container(*options: str) -> dict[str, Any]:
    """The server's container."""
    (deployment,) = [each for each in parse(template(*options)) if each["kind"] == "Deployment"]
    (found,) = deployment["spec"]["template"]["spec"]["containers"]
    made: dict[str, Any] = found
    return made


def environment(*options: str) -> dict[str, str]:
    """Its variables, where they are plain text."""
    return {each["name"]: each["value"] for each in container(*options)["env"] if "value" in each}


def test_settings_become_variables_as_they_were_written(tmp_path: Path) -> None:
    """Helm reads numbers of a file as floating point; a large one must not become 2.68435456e+08."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        "settings:\n  GLIMPSE_MAX_RECEIVING_BYTES: 268435456\n  GLIMPSE_DECODE_SECONDS: 2.5\n"
        "  GLIMPSE_OPEN_INFERENCE: false\n  GLIMPSE_MODEL: 'a \"b\": c'\n"
    )
    found = environment("--values", str(path), "--set", "settings.GLIMPSE_MAX_CONNECTIONS=2000000")
    assert unknown_variables(dict.fromkeys(found, "")) == []
    assert {name: found[name] for name in found if name not in environment()} == {
        "GLIMPSE_MAX_RECEIVING_BYTES": "268435456",
        "GLIMPSE_DECODE_SECONDS": "2.5",
        "GLIMPSE_OPEN_INFERENCE": "false",
        "GLIMPSE_MODEL": 'a "b": c',
        "GLIMPSE_MAX_CONNECTIONS": "2000000",
    }


def test_the_pod_lives_as_long_as_the_drain_that_is_set() -> None:
    (deployment,) = [
        each for each in parse(template("--set", "settings.GLIMPSE_DRAIN_SECONDS=100")) if each["kind"] == "Deployment"
    ]
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 130


def test_a_claim_of_ones_own_is_used_and_none_is_made() -> None:
    chosen = ("--set", "weights.source=volume,weights.volume.existingClaim=mine,weights.volume.path=")
    objects = parse(template(*chosen, "--set", "settings.GLIMPSE_MODELS=/weights"))
    assert not [each for each in objects if each["kind"] == "PersistentVolumeClaim"]
    assert "claimName: mine" in template(*chosen)
    assert "GLIMPSE_WEIGHTS" not in environment(*chosen)


def test_samples_lie_on_a_claim_or_live_as_long_as_the_replica() -> None:
    chosen = ("--set", "samples.enabled=true,samples.existingClaim=mine")
    assert not [each for each in parse(template(*chosen)) if each["kind"] == "PersistentVolumeClaim"]
    assert "claimName: mine" in template(*chosen)
    assert environment(*chosen)["GLIMPSE_SAMPLES"] == "/samples/kept"
    chosen = ("--set", "samples.enabled=true,samples.source=emptyDir,samples.size=1Gi")
    objects = parse(template(*chosen))
    assert not [each for each in objects if each["kind"] == "PersistentVolumeClaim"]
    (deployment,) = [each for each in objects if each["kind"] == "Deployment"]
    volumes = {each["name"]: each for each in deployment["spec"]["template"]["spec"]["volumes"]}
    assert volumes["samples"] == {"name": "samples", "emptyDir": {"sizeLimit": "1Gi"}}
    assert "GLIMPSE_SAMPLES" not in environment()


def test_the_page_and_other_origins_are_served_only_where_asked_for() -> None:
    asked = environment("--set", "http.enabled=true,http.page=true,http.origins={https://a.example,https://b.example}")
    assert (asked["GLIMPSE_SERVE_PAGE"], asked["GLIMPSE_HTTP_ORIGINS"]) == (
        "true",
        "https://a.example,https://b.example",
    )


def test_without_a_digest_the_image_has_a_tag() -> None:
    assert container("--set", "image.digest=")["image"] == f"registry.example/glimpse:{__version__}"
    assert container("--set", "image.digest=,image.tag=next")["image"] == "registry.example/glimpse:next"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("settings.GLIMPSE_PORT=1", "settings has GLIMPSE_PORT, which this chart sets itself"),
        ("settings.GLIMPSE_HTTP_PORT=1", "Set http.enabled."),
        ("settings.glimpse_model=x", "glimpse_model"),
        ("setings.GLIMPSE_MODEL=x", "setings"),
        ("image.digest=latest", "digest"),
        ("replicas=-1", "replicas"),
        ("weights.source=disk", "source"),
        ("weights.source=fetch,settings.GLIMPSE_MODEL=x", "set weights.fetch.model"),
        ("weights.source=volume,settings.GLIMPSE_WEIGHTS=/x", "Remove one of them"),
        ("credentials.enabled=true,credentials.tlsSecret=", "tokens would travel unencrypted"),
        ("credentials.enabled=true,credentials.tlsSecret=,credentials.tokensSecret=", "credentials.tlsSecret is empty"),
        ("samples.enabled=true,settings.GLIMPSE_SAMPLES=/x", "settings has GLIMPSE_SAMPLES"),
        ("samples.source=disk", "source"),
        ("resources.limits.cpu=null", "resources.limits.cpu is missing"),
        ("settings.GLIMPSE_DRAIN_SECONDS=null", "GLIMPSE_DRAIN_SECONDS"),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(options: str, said: str) -> None:
    assert said in refusal("--set", options)


def test_labels_by_which_prometheus_selects_are_on_what_it_reads() -> None:
    objects = parse(template("--set", "monitoring.enabled=true,monitoring.labels.release=prometheus"))
    labelled = [each["kind"] for each in objects if each["metadata"]["labels"].get("release") == "prometheus"]
    assert sorted(labelled) == ["PrometheusRule", "ServiceMonitor"]


def test_every_value_is_in_the_schema_with_a_description() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    (values,) = parse((CHART / "values.yaml").read_text("utf-8"))

    def compare(there: dict[str, Any], described: dict[str, Any], at: str) -> None:
        for name, value in there.items():
            found = described["properties"][name]
            assert found["description"].endswith("."), f"{at}{name}"
            if isinstance(value, dict) and found.get("additionalProperties") is False:
                compare(value, found, f"{at}{name}.")
        if described.get("additionalProperties") is False and at:
            assert set(described["properties"]) == set(there), at

    compare(values, schema, "")
    assert set(schema["properties"]) - {"global"} == set(values)


def notes(*options: str) -> str:
    """What Helm shows after an installation."""
    command = ("install", "glimpse", str(CHART), "--namespace", "glimpse", "--dry-run=client", "--set")
    ended = run(tool("helm"), *command, ",".join(("replicas=2", *options)))
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.partition("NOTES:")[2]


def test_the_notes_say_how_to_call_and_what_is_missing() -> None:
    plain = notes()
    assert "dns:///glimpse.glimpse:50051" in plain
    assert "only a placeholder" in plain
    assert "token" not in plain
    mine = notes("image.digest=sha256:" + "1" * 64, "http.enabled=true", "credentials.enabled=true")
    assert "https://glimpse-http.glimpse:80" in mine
    assert "with TLS and a token" in mine
    assert "placeholder" not in mine
    assert "trustedProxies is empty" in notes("gateway.enabled=true")


def test_a_packaged_chart_has_the_rules_and_the_dashboard_themselves(tmp_path: Path) -> None:
    """Their links lead out of the chart; a package must not have any."""
    ended = run(tool("helm"), "package", str(CHART), "--destination", str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    package = tmp_path / f"glimpse-{__version__}.tgz"
    chosen = ("--namespace", "glimpse", "--kube-version", "1.35.0", "--set", "monitoring.enabled=true")
    packed = run(tool("helm"), "template", "glimpse", str(package), *chosen)
    assert packed.returncode == 0, packed.stderr
    assert re.findall(r"alert: (\w+)", packed.stdout)
    assert by_name(parse(packed.stdout)) == by_name(parse(template("--set", "monitoring.enabled=true")))
