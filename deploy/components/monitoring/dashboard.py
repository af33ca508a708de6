"""Make the Grafana dashboard: `python deploy/components/monitoring/dashboard.py` writes dashboard.json.

dashboard.toml says what is shown. What was changed in Grafana is thrown away by the next change here.
"""  # noqa: INP001 - a script, not a package

from __future__ import annotations

import re
import tomllib
from itertools import count
from json import dumps
from pathlib import Path
from typing import Any

PANELS = Path(__file__).with_name("dashboard.toml")
FILE = Path(__file__).with_name("dashboard.json")
_COLUMNS = 24  # Grafana's grid
_REPLICAS = 'job="glimpse", namespace=~"$namespace", pod=~"$pod"'
_WORDS = {
    "US": _REPLICAS,
    # By any protocol, without what is asked by probes, tools and pages.
    "CALLS": f'{_REPLICAS}, grpc_method=~"Classify|ClassifyStream|ModelInfer|ModelStreamInfer|Predict|DescribeModel"',
    "RATE": "$__rate_interval",
}
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def build(plan: dict[str, Any]) -> dict[str, Any]:
    """The dashboard as Grafana reads it, of what dashboard.toml says."""
    ids = count(1)
    panels: list[dict[str, Any]] = []
    top = 0
    for row in plan["row"]:
        panels.append({"id": next(ids), "type": "row", "title": row["title"], "gridPos": _place(0, top, _COLUMNS, 1)})
        top += 1
        width = _COLUMNS // len(row["panel"])
        height = 8 if any("kind" not in each for each in row["panel"]) else 5
        for column, panel in enumerate(row["panel"]):
            panels.append({"id": next(ids), **_panel(**panel), "gridPos": _place(column * width, top, width, height)})
        top += height
    return {
        "uid": "glimpse",
        "title": "Glimpse",
        "description": "Made by deploy/components/monitoring/dashboard.py; changes made in Grafana are lost.",
        "tags": ["glimpse"],
        "schemaVersion": 39,
        "graphTooltip": 1,  # one cross-hair for all charts
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus"},
                _variable("namespace", 'glimpse_ready{job="glimpse"}'),
                _variable("pod", 'glimpse_ready{job="glimpse", namespace=~"$namespace"}'),
            ]
        },
        "panels": panels,
    }


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _variable(name: str, series: str) -> dict[str, Any]:
    query = f"label_values({series}, {name})"
    return {
        "name": name,
        "type": "query",
        "datasource": _DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,  # whenever the time range changes, so that new replicas are found
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _panel(
    *,
    title: str,
    help: str,  # noqa: A002 - the file's word
    kind: str = "timeseries",
    unit: str = "short",
    stacked: bool = False,
    exemplars: bool = False,
    quantiles: str | None = None,
    queries: dict[str, str] | None = None,
) -> dict[str, Any]:
    """One chart (`timeseries`), number (`stat`) or `table`; the unit is named as Grafana does.

    A chart with `exemplars` shows calls that were traced as points, where Prometheus keeps them.
    """
    shown = dict(queries or {})
    if quantiles is not None:
        shown |= {f"p{q}": f"histogram_quantile(0.{q}, {quantiles})" for q in (50, 95, 99)}
    made: dict[str, Any] = {
        "type": kind,
        "title": title,
        "description": help,
        "datasource": _DATASOURCE,
        "targets": [
            _target(chr(ord("A") + number), legend, expression, kind)
            for number, (legend, expression) in enumerate(shown.items())
        ],
    }
    custom: dict[str, Any] = {}
    if kind == "timeseries":
        custom = {"fillOpacity": 10, "showPoints": "never"}
        for target in made["targets"]:
            target["exemplar"] = exemplars
        if stacked:
            custom["stacking"] = {"mode": "normal", "group": "A"}
        made["options"] = {
            "tooltip": {"mode": "multi", "sort": "desc"},
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        }
    if kind == "table":
        # The time of the query is no news.
        made["transformations"] = [{"id": "organize", "options": {"excludeByName": {"Time": True}}}]
    made["fieldConfig"] = {"defaults": {"unit": unit, "min": 0, "custom": custom}, "overrides": []}
    return made


def _target(ref: str, legend: str, expression: str, kind: str) -> dict[str, Any]:
    target = {
        "refId": ref,
        "datasource": _DATASOURCE,
        "expr": re.sub(r"\b(US|CALLS|RATE)\b", lambda word: _WORDS[word[1]], expression).strip(),
        "legendFormat": legend,
    }
    if kind == "timeseries":
        return {**target, "range": True}
    return {**target, "instant": True, "format": "table" if kind == "table" else "time_series"}


def text() -> str:
    """What dashboard.json is to hold."""
    return dumps(build(tomllib.loads(PANELS.read_text(encoding="utf-8"))), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
