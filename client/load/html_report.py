"""The report as one HTML file that asks nobody for anything: no script, no font, no picture from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape as for_html
from typing import Any

from glimpse.client.commands.plain import plain
from glimpse.client.load import plots
from glimpse.client.load.live import milliseconds
from glimpse.client.load.tally import STAGES
from glimpse.client.load.text_report import refused_as_expected, said, value
from glimpse.client.nouns import noun

_STYLE = """
:root{color-scheme:light dark; --page:#f7f7f5; --card:#fff; --ink:#141413; --soft:#55544f; --faint:#e4e3de;
  --axis:#b5b4ad; --one:#2a78d6; --two:#d0562b; --decode:#2a78d6; --pre_stem:#1baf7a; --queue:#eda100;
  --compute:#4a3aa7; --rest:#a5a49d; --good:#0a7a0a; --bad:#c22f2f;
  --receive:#7fb2e5; --admission:#8c6d46; --decode_wait:#d0562b; --reply:#b05aa5}
@media(prefers-color-scheme:dark){:root{--page:#141413; --card:#1e1e1c; --ink:#f4f3ef; --soft:#bdbcb4;
  --faint:#33332f; --axis:#5c5b55; --one:#4f98e8; --two:#e8794f; --decode:#3987e5; --pre_stem:#199e70;
  --queue:#c98500; --compute:#9085e9; --rest:#76756e; --good:#4cc24c; --bad:#f07575;
  --receive:#7fb2e5; --admission:#a98a63; --decode_wait:#e8794f; --reply:#c77fbd}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:62rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.5rem;margin:0}
h2{font-size:1.15rem;margin:0}
h3{font-size:.95rem;margin:1.4rem 0 .3rem}
p{margin:.3rem 0}
.soft{color:var(--soft)}
section,details{background:var(--card);border:1px solid var(--faint);border-radius:8px;padding:1rem 1.2rem;
  margin-top:1rem}
summary{cursor:pointer;font-weight:600}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .7rem .3rem 0;text-align:right;border-bottom:1px solid var(--faint);white-space:nowrap}
th{font-weight:500;color:var(--soft)}
th:first-child,td:first-child{text-align:left}
td.words{text-align:left}
.tiles{display:flex;flex-wrap:wrap;gap:.4rem 2.2rem;margin-top:.8rem}
.tiles b{display:block;font-size:1.35rem;font-weight:600}
svg{display:block;width:100%;height:auto}
.tick,.name{font:11px system-ui,sans-serif;fill:var(--soft)}
.name{fill:var(--ink)}
.grid{stroke:var(--faint)}
.base{stroke:var(--axis)}
.seam{stroke:var(--axis);stroke-dasharray:2 3}
.mark{stroke:var(--ink);stroke-dasharray:4 3}
.line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.line.one{stroke:var(--one)}
.line.two{stroke:var(--two)}
.line.plan{stroke:var(--axis);stroke-dasharray:5 4}
.hit{fill:transparent}
.hit:hover{fill:var(--ink);fill-opacity:.35}
.bar{fill:var(--one)}
.error{height:.7rem;border-radius:2px;background:var(--two)}
.key{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;color:var(--soft);font-size:.85rem}
.key i{display:inline-block;width:.8rem;height:.8rem;border-radius:2px;margin-right:.35rem;vertical-align:-1px}
.met{color:var(--good)}
.missed,.warning{color:var(--bad)}
""" + "".join(f".{name}{{fill:var(--{name})}}" for name in STAGES)


def escape(text: str) -> str:
    """Words of whoever, as text of HTML, without what a terminal would obey or what turns lines around."""
    return for_html(plain(text))


def page(report: dict[str, Any]) -> str:
    """The file's text."""
    phases, model = report["phases"], report["model"]
    title = f"Load test of {report['target']}"
    runs = f"{model['name']} {model['version']} on {model['runtime']} ({model['device']})"
    about = f"{report['started']}, {runs}, {report['images']}"
    body = [f"<h1>{escape(title)}</h1>", f'<p class="soft">{escape(about)}</p>']
    if report["knee"]:
        body.append(_knee(report))
    body += [_summary(phases), _over_time(phases)]
    body += [_phase(phase, opened=len(phases) == 1) for phase in phases]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def _summary(phases: list[dict[str, Any]]) -> str:
    if len(phases) == 1:
        [phase] = phases
        latency = phase["latency"]
        tiles = {
            "requests a second": f"{phase['requests_per_second']:,.1f}",
            "images a second": f"{phase['images_per_second']:,.1f}",
            "p50": milliseconds(latency.get("p50")),
            "p99": milliseconds(latency.get("p99")),
            "of images failed": f"{phase['error_share']:.2%}",
        }
        shown = "".join(f"<div><b>{escape(text)}</b>{escape(name)}</div>" for name, text in tiles.items())
        return f'<section><h2>{escape(phase["load"]["said"])}</h2><div class="tiles">{shown}</div></section>'
    rows = [
        (
            phase["name"],
            f"{phase['load']['rate']:,.1f}" if phase["load"]["rate"] else "-",
            f"{phase['requests_per_second']:,.1f}",
            f"{phase['images_per_second']:,.1f}",
            *(milliseconds(phase["latency"].get(name)) for name in ("p50", "p90", "p99", "max")),
            f"{phase['error_share']:.2%}",
            *([said(phase)] if "held" in phase else []),
        )
        for phase in phases
    ]
    head = (
        "phase",
        "due/s",
        "requests/s",
        "images/s",
        "p50",
        "p90",
        "p99",
        "max",
        "errors",
        *(["held"] if "held" in phases[0] else []),
    )
    return f"<section><h2>Phases</h2>{_table(head, rows)}</section>"


def _knee(report: dict[str, Any]) -> str:
    found = report["knee"]
    text = f"{found['rate']:,.4g} requests/s" if found["rate"] is not None else "No rate"
    limits = f"held p99 ≤ {milliseconds(found['slo'])} with at most {found['max_errors']:.2%} errors"
    limited = '<p class="warning">The generator was the limit; the server may hold more.</p>'
    return f"<section><h2>{escape(text)} {escape(limits)}</h2>{limited if found['generator_limited'] else ''}</section>"


def _over_time(phases: list[dict[str, Any]]) -> str:
    rates: list[plots.Point] = []
    planned: list[plots.Point] = []
    p50: list[plots.Point] = []
    p99: list[plots.Point] = []
    columns: list[plots.Column] = []
    seams, start = [], 0.0
    for number, phase in enumerate(phases):
        if number:
            seams.append(start)
            for line in (rates, planned, p50, p99):
                line.append((start, None))
        for moment in phase["timeline"]:
            at, seconds = start + moment["at"], moment["seconds"]
            middle = at + seconds / 2
            rates.append((middle, moment["requests"] / seconds if seconds else None))
            p50.append((middle, moment["p50"]))
            p99.append((middle, moment["p99"]))
            columns.append((at, seconds, [(name, name, time) for name, time in moment["stages"].items()]))
        if phase["load"]["rate"]:
            planned += [(start, phase["load"]["rate"]), (start + phase["seconds"], phase["load"]["rate"])]
        start += phase["seconds"]
    drawn: list[plots.BulkStream] = [("answered", "one", rates)]
    key = [("answered", "one")]
    if planned:
        drawn.insert(0, ("due", "plan", planned))
        key.append(("due", "axis"))
    start = start or 1.0  # it was stopped at once
    throughput = plots.lines(
        drawn, longest=start, label="Requests a second over time", say=lambda v: f"{v:,.4g}", seams=seams
    )
    latency = plots.lines(
        [("p99", "two", p99), ("p50", "one", p50)],
        longest=start,
        label="Latency over time",
        say=milliseconds,
        seams=seams,
    )
    stages = plots.stacks(columns, longest=start, label="Mean latency by stage over time", say=milliseconds)
    return (
        f"<section><h2>Over time</h2><h3>Requests a second</h3>{_key(key)}{throughput}"
        f"<h3>Latency</h3>{_key([('p50', 'one'), ('p99', 'two')])}{latency}"
        f"<h3>Mean latency by stage</h3>{_key([(_stage(name), name) for name in STAGES])}{stages}</section>"
    )


def _phase(phase: dict[str, Any], *, opened: bool) -> str:
    requests = f"{phase['requests']:,} {noun(phase['requests'], 'request')}"
    parts = [f'<p class="soft">{escape(phase["load"]["said"])}, {requests}</p>']
    parts += [f'<p class="warning">{escape(warning)}</p>' for warning in phase["warnings"]]
    parts += [
        f'<p class="{"met" if each["met"] else "missed"}">{"✓" if each["met"] else "✗"} {escape(each["text"])} '
        f"(was {escape(value(each))})</p>"
        for each in phase["thresholds"]
    ]
    latency = phase["latency"]
    if latency:
        marks = [(f"{name} {milliseconds(latency[name])}", max(1e-6, latency[name])) for name in ("p50", "p90", "p99")]
        shown = plots.distribution(
            phase["distribution"], marks, label="How many requests took how long", say=milliseconds
        )
        parts += [
            "<h3>Latency distribution</h3>",
            shown,
            _table(tuple(latency), [tuple(map(milliseconds, latency.values()))]),
        ]
    if phase["stages"]:
        names = tuple(_stage(name) for name in phase["stages"])
        times = tuple(map(milliseconds, phase["stages"].values()))
        parts += [
            "<h3>Mean time by stage</h3>",
            _table((*names, "images a batch"), [(*times, f"{phase['batch']:.1f}")]),
        ]
    parts.append(_errors(phase))
    generator, late = phase["generator"], phase["generator"]["late"]
    row = (
        f"{generator['processes']}",
        f"{generator['cpu_seconds']:.2f} s",
        f"{generator['cpu_share']:.0%}",
        "-" if generator["busy"] is None else f"{generator['busy']:.0%}",
        *(milliseconds(late.get(n)) for n in ("p50", "p99", "max")),
        f"{generator['most_in_flight']:,}",
    )
    head = ("processes", "CPU", "of a core", "busy", "late p50", "late p99", "late max", "most in flight")
    parts += ["<h3>The generator itself</h3>", _table(head, [row])]
    return f"<details{' open' if opened else ''}><summary>{escape(phase['name'])}</summary>{''.join(parts)}</details>"


def _errors(phase: dict[str, Any]) -> str:
    expected = phase["refused_as_expected"]
    also = f"<p>{refused_as_expected(expected)}.</p>" if expected else ""
    if not phase["errors"]:
        return f"<h3>Errors</h3><p>None in {phase['images']:,} {noun(phase['images'], 'image')}.</p>{also}"
    most = max(phase["errors"].values())
    rows = "".join(
        f'<tr><td>{escape(reason)}</td><td>{count:,}</td><td class="words" style="width:60%">'
        f'<div class="error" style="width:{max(0.5, 100 * count / most):.1f}%"></div></td></tr>'
        for reason, count in phase["errors"].items()
    )
    return f"<h3>Errors</h3><table><tr><th>reason</th><th>images</th><th></th></tr>{rows}</table>{also}"


def _stage(name: str) -> str:
    return name.replace("_", "-")


def _key(entries: Sequence[tuple[str, str]]) -> str:
    shown = "".join(
        f'<span><i style="background:var(--{colour})"></i>{escape(name)}</span>' for name, colour in entries
    )
    return f'<div class="key">{shown}</div>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(each)}</th>" for each in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(each)}</td>" for each in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'
