"""Envoy, as deploy/components/gateway/envoy.yaml configures it, in front of replicas on this machine."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from tests.deploy.tools import DEPLOY, Manifest, parse, tool
from tools.load.replica import free_ports

CONFIGURATION = DEPLOY / "components" / "gateway" / "envoy.yaml"
_PATIENCE = 60.0  # seconds


class Balancer:
    """A running Envoy."""

    def __init__(
        self, replicas: Sequence[int], folder: Path, *, http: Sequence[int] = (), origins: Sequence[str] = ()
    ) -> None:
        """Start it in front of those ports of the loopback; its files go to `folder`.

        Args:
            replicas: their ports for gRPC.
            folder: of the files.
            http: their ports for HTTP/JSON.
            origins: whose pages may call.
        """
        self.port, self.web, self._admin = free_ports(3)
        path = folder / "envoy.json"
        placed = _placed((self.port, self.web, self._admin), replicas, http, origins)
        path.write_text(json.dumps(placed), encoding="ascii")
        self._log = folder / "envoy.log"
        # One worker thread, for two cores are shared with three replicas.
        command = [tool("envoy"), "-c", str(path), "--concurrency", "1", "--disable-hot-restart", "--log-level", "warn"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    @property
    def target(self) -> str:
        """Where clients call it."""
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What it had to complain of."""
        return self._log.read_text(encoding="utf-8")

    def healthy(self, cluster_name: str = "glimpse") -> set[int]:
        """The ports of the replicas to which it sends calls, or for `glimpse_http` requests."""
        clusters = self._ask("/clusters?format=json")["cluster_statuses"]
        (cluster,) = [each for each in clusters if each["name"] == cluster_name]
        return {
            host["address"]["socket_address"]["port_value"]
            for host in cluster.get("host_statuses", [])
            if host["health_status"] == {"eds_health_status": "HEALTHY"}
        }

    def wait_until_healthy(self, replicas: set[int], cluster: str = "glimpse") -> None:
        """Wait until it sends calls to exactly those."""
        end = time.monotonic() + _PATIENCE
        seen: object = "no answer"
        while time.monotonic() < end:
            assert self._process.poll() is None, f"Envoy has ended:\n{self.log}"
            try:
                seen = self.healthy(cluster)
            except OSError as error:
                seen = error  # it does not listen yet
            if seen == replicas:
                return
            time.sleep(0.1)
        raise AssertionError(f"Envoy should call {replicas}, and sees: {seen}\n{self.log}")

    def statistic(self, name: str) -> int:
        """One of its counters."""
        (found,) = self._ask(f"/stats?format=json&filter=^{name}$")["stats"]
        return int(found["value"])

    def _ask(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._admin}{path}", timeout=_PATIENCE) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        """For `with`."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.close()


def _placed(
    own: tuple[int, int, int], replicas: Sequence[int], http: Sequence[int], origins: Sequence[str]
) -> Manifest:
    """The configuration as it is, with other ports, and an endpoint for each replica in place of the Service's name."""
    (configuration,) = parse(CONFIGURATION.read_text(encoding="utf-8"))
    port, web, admin = own
    configuration["admin"]["address"] = _address(admin)
    resources = configuration["static_resources"]
    listeners = {each["name"]: each for each in resources["listeners"]}
    clusters = {each["name"]: each for each in resources["clusters"]}
    listeners["grpc"]["address"] = _address(port)
    listeners["web"]["address"] = _address(web)
    for name, ports in (("glimpse", replicas), ("glimpse_http", http)):
        (endpoints,) = clusters[name]["load_assignment"]["endpoints"]
        endpoints["lb_endpoints"] = [{"endpoint": {"address": _address(each)}} for each in ports]
    (chain,) = listeners["web"]["filter_chains"]
    (host,) = chain["filters"][0]["typed_config"]["route_config"]["virtual_hosts"]
    for route in host["routes"]:
        if "typed_per_filter_config" in route:
            (policy,) = route["typed_per_filter_config"].values()
            policy["allow_origin_string_match"] = [{"exact": each} for each in origins]
    return configuration


def _address(port: int) -> Manifest:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
