"""What `kubectl apply -k` would send: valid, safe, and in agreement with the server's own settings."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from glimpse.client.channel import SERVICE
from glimpse.models.__main__ import _parser
from glimpse.server.access.call_metadata import REQUEST_ID_KEY, ROUTING_KEY
from glimpse.server.open_inference import servicer as open_inference
from glimpse.server.settings import Settings, unknown_variables
from tests.deploy.tools import DEPLOY, OVERLAYS, manifests, one, parse, pod, rendered, run, server, tool

pytestmark = pytest.mark.slow

# Kubernetes does not know them; their operators do.
CUSTOM = {"GRPCRoute", "HTTPRoute", "PrometheusRule", "ScaledObject", "ServiceMonitor"}
GUARDED = {"secure"}  # with TLS and tokens
WEB = {"gateway-http", "http"}  # with HTTP/JSON
RUNBOOK = (DEPLOY / "README.md").read_text()

_VALIDATE = """
import re, sys, yaml
from importlib.resources import files
import kubernetes_validate
names = " ".join(path.name for path in (files(kubernetes_validate) / "kubernetes-json-schema").iterdir())
known = sorted({(int(a), int(b)) for a, b in re.findall(r"v(\\d+)[.](\\d+)[.]\\d+-local-strict", names)})
for document in yaml.safe_load_all(sys.stdin):
    for major, minor in known[-3:]:
        try:
            kubernetes_validate.validate(document, f"{major}.{minor}", strict=True)
            print(document["kind"], f"{major}.{minor}", "valid")
        except kubernetes_validate.SchemaNotFoundError:
            print(document["kind"], f"{major}.{minor}", "unknown")
        except kubernetes_validate.ValidationError as error:
            print(document["kind"], f"{major}.{minor}", error.message)
"""


def variables(overlay: str) -> dict[str, str]:
    """The server's environment, where it is plain text."""
    return {each["name"]: each["value"] for each in server(overlay)["env"] if "value" in each}


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def validated(text: str) -> list[tuple[str, str, str]]:
    """(kind, version, verdict) of each document for each of the three newest versions that the validator knows."""
    python = Path(tool("kubernetes-validate")).parent / "python"
    ended = run(str(python), "-c", _VALIDATE, stdin=text)
    assert ended.returncode == 0, ended.stderr
    lines = [line.split(" ", 2) for line in ended.stdout.splitlines()]
    return [(kind, version, verdict) for kind, version, verdict in lines]


def test_every_object_is_valid_for_the_three_newest_kubernetes_versions(overlay: str) -> None:
    verdicts = validated(rendered(overlay))
    assert len({version for _, version, _ in verdicts}) == 3
    assert [each for each in verdicts if each[2] != "valid" and each[0] not in CUSTOM] == []
    assert {kind for kind, _, verdict in verdicts if verdict == "unknown"} <= CUSTOM


def test_the_validator_sees_a_misspelt_field() -> None:
    verdicts = validated(rendered("cpu").replace("minReadySeconds", "minReadySecond"))
    assert {kind for kind, _, verdict in verdicts if verdict != "valid"} == {"Deployment"}


def test_checkov_finds_nothing(overlay: str, tmp_path: Path) -> None:
    (tmp_path / "manifests.yaml").write_text(rendered(overlay))
    ended = run(
        *(tool("checkov"), "--skip-download", "--framework", "kubernetes", "--compact", "--quiet"),
        *("--file", str(tmp_path / "manifests.yaml")),
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    checks = re.search(r"Passed checks: (\d+), Failed checks: 0", ended.stdout)
    assert checks is not None, ended.stdout
    assert int(checks[1]) > 80, "checkov looked at nothing"


def test_every_component_is_in_an_overlay() -> None:
    texts = "".join((DEPLOY / "overlays" / name / "kustomization.yaml").read_text() for name in OVERLAYS)
    components = [path.name for path in (DEPLOY / "components").iterdir()]
    assert [name for name in components if f"components/{name}\n" not in texts] == []


def test_no_image_is_named_by_a_tag(overlay: str) -> None:
    containers = [*pod(overlay)["containers"], *pod(overlay).get("initContainers", [])]
    assert [each["name"] for each in containers if not re.search(r"@sha256:[0-9a-f]{64}$", each["image"])] == []


def test_every_variable_is_a_setting_of_the_server(overlay: str) -> None:
    names = {each["name"] for each in server(overlay)["env"]}
    assert unknown_variables(dict.fromkeys(names, "")) == []
    assert "GLIMPSE_DRAIN_ANNOUNCE_SECONDS" in names


def test_the_grace_period_is_longer_than_the_drain(overlay: str) -> None:
    drain = {each["name"]: each.get("value") for each in server(overlay)["env"]}
    announce = float(drain["GLIMPSE_DRAIN_ANNOUNCE_SECONDS"])
    seconds = announce + float(drain["GLIMPSE_DRAIN_SECONDS"])
    assert pod(overlay)["terminationGracePeriodSeconds"] >= seconds + 10
    readiness, liveness = server(overlay)["readinessProbe"], server(overlay)["livenessProbe"]
    # Taken out of the balancers before it stops answering, and not killed while it announces that it will go.
    assert readiness["periodSeconds"] * readiness["failureThreshold"] + readiness["timeoutSeconds"] < announce
    assert liveness["periodSeconds"] * (liveness["failureThreshold"] - 1) > announce


def test_a_rollout_never_has_fewer_replicas_than_asked_for(overlay: str) -> None:
    strategy = one(overlay, "Deployment")["spec"]["strategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}


def test_the_kubelet_asks_the_server_by_the_names_and_port_that_it_answers_to(overlay: str) -> None:
    container = server(overlay)
    port = Settings.model_fields["port"].default
    metrics = Settings.model_fields["metrics_port"].default
    ports = {"grpc": port, "metrics": metrics}
    asked = port
    if overlay in GUARDED:  # the kubelet speaks no TLS
        ports["health"] = asked = int(variables(overlay)["GLIMPSE_HEALTH_PORT"])
    if overlay in WEB:
        ports["http"] = int(variables(overlay)["GLIMPSE_HTTP_PORT"])
    assert {each["name"]: each["containerPort"] for each in container["ports"]} == ports
    assert container["startupProbe"]["grpc"] == {"port": asked, "service": SERVICE}
    assert container["readinessProbe"]["grpc"] == {"port": asked, "service": SERVICE}
    assert container["livenessProbe"]["grpc"] == {"port": asked, "service": ""}


@pytest.mark.parametrize("overlay", sorted(GUARDED))
def test_certificates_and_tokens_come_from_secrets_that_can_be_rotated(overlay: str) -> None:
    mounts = {each["mountPath"]: each for each in server(overlay)["volumeMounts"]}
    volumes = {each["name"]: each for each in pod(overlay)["volumes"]}
    for name in ("GLIMPSE_TLS_CERTIFICATE", "GLIMPSE_TLS_KEY", "GLIMPSE_TOKENS"):
        mount = mounts[str(Path(variables(overlay)[name]).parent)]
        assert mount["readOnly"] is True
        assert "subPath" not in mount, "what is mounted so never changes"
        secret = volumes[mount["name"]]["secret"]
        assert secret["defaultMode"] == 0o440
        assert f"secret generic {secret['secretName']}" in RUNBOOK or f"secret tls {secret['secretName']}" in RUNBOOK


def test_every_container_may_do_no_more_than_it_must(overlay: str) -> None:
    whole = pod(overlay)
    assert whole["securityContext"]["runAsNonRoot"] is True
    assert whole["securityContext"]["runAsUser"] == 10001
    assert whole["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert whole["automountServiceAccountToken"] is False
    assert whole["enableServiceLinks"] is False
    for container in [*whole["containers"], *whole.get("initContainers", [])]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "/tmp" in {each["mountPath"] for each in container["volumeMounts"]}  # noqa: S108 - the image's, not ours
        assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
        # Memory cannot be taken back, so what is asked for is what may be had.
        assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]


def test_an_eviction_waits_for_others_but_not_for_a_replica_that_is_not_ready(overlay: str) -> None:
    budget = one(overlay, "PodDisruptionBudget")["spec"]
    assert (budget["maxUnavailable"], budget["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")


def test_everything_that_selects_selects_the_replicas(overlay: str) -> None:
    deployment = one(overlay, "Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"].items()
    selectors = [
        deployment["selector"]["matchLabels"],
        one(overlay, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
    ]
    for each in manifests(overlay):
        if each["kind"] == "Service":
            selectors.append(each["spec"]["selector"])
        if each["kind"] == "NetworkPolicy":
            selectors.append(each["spec"]["podSelector"]["matchLabels"])
    assert [each for each in selectors if not each.items() <= labels] == []


def reached(overlay: str) -> dict[str, list[dict[str, Any]]]:
    """Who may reach each named port, as the base's NetworkPolicy has it."""
    (policy,) = [each["spec"] for each in policies(overlay) if each["metadata"]["name"] == "glimpse"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    return {port["port"]: rule["from"] for rule in policy["ingress"] for port in rule["ports"]}


def policies(overlay: str) -> list[dict[str, Any]]:
    return [each for each in manifests(overlay) if each["kind"] == "NetworkPolicy"]


def test_callers_reach_the_grpc_port_and_prometheus_that_of_the_metrics(overlay: str) -> None:
    """Every installation has the policy; who may call is said by labels, which the runbook tells."""
    client = {"matchLabels": {"glimpse-client": "true"}}
    callers = [{"namespaceSelector": client}, {"podSelector": client}]
    assert reached(overlay) == {
        "grpc": callers,
        **({"http": callers} if overlay in WEB else {}),
        "metrics": [
            {
                "namespaceSelector": {"matchLabels": {"glimpse-metrics": "true"}},
                "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}},
            }
        ],
    }
    assert set(reached(overlay)) <= {each["name"] for each in server(overlay)["ports"]}
    for label in ("glimpse-client=true", "glimpse-metrics=true", "app.kubernetes.io/name=prometheus"):
        assert label in RUNBOOK


def test_the_server_calls_nobody_unless_weights_are_fetched(overlay: str) -> None:
    more = [each["spec"] for each in policies(overlay) if each["metadata"]["name"] != "glimpse"]
    assert next(each["spec"]["egress"] for each in policies(overlay) if each["metadata"]["name"] == "glimpse") == []
    if overlay != "weights-fetch":
        assert more == []
        return
    (fetch,) = more
    assert (fetch["policyTypes"], fetch.get("ingress")) == (["Egress"], None)
    names, publisher = fetch["egress"]
    assert {(each["port"], each["protocol"]) for each in names["ports"]} == {(53, "UDP"), (53, "TCP")}
    assert publisher["ports"] == [{"port": 443, "protocol": "TCP"}]
    left_out = {cidr for each in publisher["to"] for cidr in each["ipBlock"]["except"]}
    assert left_out >= {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7", "fe80::/10"}


def test_the_metrics_are_on_a_service_of_their_own(overlay: str) -> None:
    services = {each["metadata"]["name"]: each for each in manifests(overlay) if each["kind"] == "Service"}
    named = {name: [port["name"] for port in each["spec"]["ports"]] for name, each in services.items()}
    assert named.pop("glimpse-metrics") == ["metrics"]
    assert {name for ports in named.values() for name in ports} == ({"grpc", "http"} if overlay in WEB else {"grpc"})
    assert services["glimpse-metrics"]["spec"]["publishNotReadyAddresses"] is True


@pytest.mark.parametrize("overlay", ["monitoring", "production"])
def test_prometheus_finds_the_metrics_by_that_service_alone(overlay: str) -> None:
    monitor = one(overlay, "ServiceMonitor")["spec"]
    wanted = monitor["selector"]["matchLabels"].items()
    found = [
        each
        for each in manifests(overlay)
        if each["kind"] == "Service" and wanted <= each["metadata"].get("labels", {}).items()
    ]
    assert [each["metadata"]["name"] for each in found] == ["glimpse-metrics"]
    assert [each["port"] for each in monitor["endpoints"]] == ["metrics"]
    # What the alerts call the job.
    assert found[0]["metadata"]["labels"][monitor["jobLabel"]] == "glimpse"


def test_shared_memory_is_bounded_and_so_are_temporary_files(overlay: str) -> None:
    volumes = {each["name"]: each for each in pod(overlay)["volumes"]}
    mounts = {each["mountPath"]: each["name"] for each in server(overlay)["volumeMounts"]}
    assert volumes[mounts["/dev/shm"]]["emptyDir"] == {"medium": "Memory", "sizeLimit": "64Mi"}  # noqa: S108
    assert "sizeLimit" in volumes[mounts["/tmp"]]["emptyDir"]  # noqa: S108


def test_clients_get_the_addresses_of_all_replicas(overlay: str) -> None:
    services = {each["metadata"]["name"]: each["spec"] for each in manifests(overlay) if each["kind"] == "Service"}
    assert services["glimpse"]["clusterIP"] == "None"


@pytest.mark.parametrize("overlay", ["autoscale", "autoscale-keda", "production"])
def test_where_an_autoscaler_counts_the_manifest_names_no_number(overlay: str) -> None:
    assert "replicas" not in one(overlay, "Deployment")["spec"]


def test_both_autoscalers_aim_at_the_same_and_below_what_the_server_refuses() -> None:
    (metric,) = one("autoscale", "HorizontalPodAutoscaler")["spec"]["metrics"]
    (trigger,) = one("autoscale-keda", "ScaledObject")["spec"]["triggers"]
    assert metric["pods"]["target"]["averageValue"] == trigger["metadata"]["threshold"]
    assert int(trigger["metadata"]["threshold"]) < Settings.model_fields["max_images_in_flight"].default / 2


def test_the_adapter_makes_the_metric_that_the_autoscaler_asks_for() -> None:
    (metric,) = one("autoscale", "HorizontalPodAutoscaler")["spec"]["metrics"]
    (values,) = parse((DEPLOY / "components" / "autoscale" / "prometheus-adapter-values.yaml").read_text())
    assert [rule["name"]["as"] for rule in values["rules"]["custom"]] == [metric["pods"]["metric"]["name"]]


def test_a_replica_has_a_device_of_its_own() -> None:
    resources = server("gpu")["resources"]
    assert resources["requests"]["nvidia.com/gpu"] == resources["limits"]["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize(("overlay", "kind"), [("gateway", "GRPCRoute"), ("gateway-http", "HTTPRoute")])
def test_the_gateway_leads_to_a_service_that_there_is(overlay: str, kind: str) -> None:
    services = {each["metadata"]["name"]: each["spec"] for each in manifests(overlay) if each["kind"] == "Service"}
    for rule in one(overlay, kind)["spec"]["rules"]:
        (backend,) = rule["backendRefs"]
        assert backend["port"] in {each["port"] for each in services[backend["name"]]["ports"]}
        assert len(rule["matches"]) <= 8, "older versions of the Gateway API allow no more"


def test_the_gateway_leads_to_methods_that_there_are_and_to_no_management() -> None:
    matches = [match for rule in one("gateway", "GRPCRoute")["spec"]["rules"] for match in rule["matches"]]
    assert {"service": SERVICE} in [each["method"] for each in matches]
    assert "glimpse.v1.ModelRepository" not in {each["method"]["service"] for each in matches}
    offered = set(open_inference.POOL.FindServiceByName(open_inference.SERVICE).methods_by_name)
    routed = {each["method"]["method"] for each in matches if each["method"]["service"] == open_inference.SERVICE}
    assert routed < offered
    assert {each for each in routed if each.startswith("Repository")} == set()
    assert "ModelInfer" in routed


def test_envoy_leads_to_the_same_methods_as_the_gateway() -> None:
    (envoy,) = parse((DEPLOY / "components" / "gateway" / "envoy.yaml").read_text("utf-8"))
    listeners = {each["name"]: each for each in envoy["static_resources"]["listeners"]}

    def matches(name: str) -> list[dict[str, Any]]:
        (chain,) = listeners[name]["filter_chains"]
        (host,) = chain["filters"][0]["typed_config"]["route_config"]["virtual_hosts"]
        return [route["match"] for route in host["routes"]]

    grpc = {match.get("path") or match["prefix"] for match in matches("grpc")}
    asked = [match["method"] for rule in one("gateway", "GRPCRoute")["spec"]["rules"] for match in rule["matches"]]
    assert grpc == {f"/{each['service']}/{each.get('method', '')}" for each in asked}
    (rule,) = one("gateway-http", "HTTPRoute")["spec"]["rules"]
    exact = {each["path"]["value"] for each in rule["matches"]}
    web = {(match.get("path") or match["prefix"]).rstrip("/") for match in matches("web") if "safe_regex" not in match}
    assert {path for path in web if "glimpse.v1" not in path} == exact - {"/v2/models"}
    (models,) = [match["safe_regex"]["regex"] for match in matches("web") if "safe_regex" in match]
    for path in ("", "/versions/2"):
        passed = {
            last
            for last in ("", "/config", "/infer", "/ready", "/stats", "/x")
            if re.fullmatch(models, f"/v2/models/m-1.pixels{path}{last}")
        }
        assert passed == {"", "/config", "/infer", "/ready"}, "statistics are a replica's own"
    assert not re.fullmatch(models, "/v2/models/m%2Fstats")


def test_pages_behind_envoy_may_send_what_the_server_reads() -> None:
    """A browser sends no header of another origin's that is not named."""
    text = (DEPLOY / "components" / "gateway" / "envoy.yaml").read_text("utf-8")
    (allowed,) = re.findall(r"allow_headers: (\S+)", text)
    assert {"authorization", REQUEST_ID_KEY, ROUTING_KEY} <= set(allowed.split(","))


def test_the_weights_are_fetched_by_the_image_that_serves_them() -> None:
    (fetch,) = pod("weights-fetch")["initContainers"]
    assert fetch["image"] == server("weights-fetch")["image"]
    assert fetch["command"][:3] == ["python", "-m", "glimpse.models"]
    assert not vars(_parser().parse_args(fetch["command"][3:]))["name"], "the server's own variables name the weights"
    assert {"GLIMPSE_MODEL", "GLIMPSE_WEIGHTS"} <= {each["name"] for each in fetch["env"]}
    shared = {(each["name"], each["mountPath"]) for each in fetch["volumeMounts"]}
    assert ("cache", "/var/cache/glimpse") in shared
    assert shared <= {(each["name"], each["mountPath"]) for each in server("weights-fetch")["volumeMounts"]}


def test_an_overlay_of_ones_own_names_the_image_as_the_runbook_says(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", RUNBOOK, re.DOTALL)
    (example,) = (each for each in blocks if "kind: Kustomization" in each)
    there = os.path.relpath(DEPLOY / "overlays" / "production", tmp_path.resolve())
    text = example.replace("../production", there).replace("sha256:...", "sha256:" + "1" * 64)
    (tmp_path / "kustomization.yaml").write_text(text)
    ended = run(tool("kubectl"), "kustomize", str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    assert re.findall(r"image: (.*)", ended.stdout) == ["registry.example.org/team/glimpse@sha256:" + "1" * 64]
