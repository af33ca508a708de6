"""What `tools.bench.gpu` found, as a table in Markdown."""

from __future__ import annotations

from typing import Any

_HEADS = (
    "network, runtime",
    "device",
    "precision",
    "batch",
    "device alone",
    "plain PyTorch",
    "raw, single",
    "of the device",
    "raw, 32 a call",
    "of the device",
    "decode alone",
    "JPEG",
    "of decoding",
    "warm start",
)
_LOADS = {"raw": "raw, single", "large": "raw, 32 a call", "jpeg": "JPEG"}
_BUSY = 0.85  # of a core, above which a process of callers can do no more: its event loop waits for it, too


def table(result: dict[str, Any]) -> str:
    """What was found, in Markdown; rates in images a second. What failed is listed below it."""
    lines = [f"| {' | '.join(_HEADS)} |", "|---|---|---|" + "---:|" * (len(_HEADS) - 3)]
    decode, limits = result.get("decode"), []
    for one in result["found"]:
        alone, plain = _best(one.get("device_alone")), _best((one.get("plain") or {}).get("rates"))
        for workers, service in (one.get("services") or {0: {}}).items():
            rates = [(service.get(kind) or {}).get("rate") for kind in _LOADS]
            warm = service.get("warm_start")
            cells = (
                f"{one['network']}, {one['runtime']}" + (f", {workers} workers" if workers else ""),
                one.get("device", "-"),
                one.get("precision", "-"),
                str(one.get("batch", "-")),
                *(_number(value) for value in (alone, plain)),
                *(_number(rates[0]), _share(rates[0], alone), _number(rates[1]), _share(rates[1], alone)),
                *(_number(decode), _number(rates[2]), _share(rates[2], decode)),
                "-" if warm is None else f"{warm:.1f} s",
            )
            lines.append(f"| {' | '.join(cells)} |")
            for kind, label in _LOADS.items():
                if (busy := max((service.get(kind) or {}).get("generator_cores") or [0.0])) > _BUSY:
                    limits.append(f"- {cells[0]}, {label}: the callers were the limit, at {busy:.2f} of a core each")
    lines += ["", *limits]
    lines += [f"- {name}: {reason.splitlines()[0]}" for name, reason in result.get("failed", {}).items()]
    return "\n".join(lines).rstrip()


def _best(rates: dict[Any, float] | None) -> float | None:
    return max(rates.values()) if rates else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _share(value: float | None, of: float | None) -> str:
    return "-" if value is None or not of else f"{value / of:.1%}"
