"""A calibration as a text, as JSON, and as a section of a model card."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from glimpse.models.calibration.fitting import Calibration, Detection
from glimpse.models.novelty.novelty import NoveltyThreshold


def as_text(found: Calibration, *, before: float) -> str:
    """For people: what was fitted, and what it does to the other half of the images.

    Args:
        found: the calibration.
        before: the temperature that the model had.
    """
    old, new, threshold = found.before, found.after, found.threshold
    lines = [
        f"fitted on {found.fitted_on:,} images, measured on {new.images:,} others:",
        "",
        f"{'':<28}{'before':>12}{'after':>12}",
        f"{'temperature':<28}{before:>12.4g}{found.temperature:>12.4g}",
        f"{'top-1':<28}{old.top1:>12.2%}{new.top1:>12.2%}",
        f"{'calibration error (ECE)':<28}{old.reliability.error:>12.2%}{new.reliability.error:>12.2%}",
        f"{'error without chance':<28}{found.debiased[0]:>12.2%}{found.debiased[1]:>12.2%}",
        f"{'NLL, nats':<28}{old.nll:>12.4f}{new.nll:>12.4f}",
        "",
        f"Probabilities that are exactly right would have an ECE of {found.chance:.2%} on so few images, by chance;",
        f"without chance, {found.debiased_chance:.2%} on average.",
        "",
        f"novelty: {_named(threshold)}, threshold {threshold.threshold:g}; rejects {found.rejected:.1%} of them",
    ]
    if found.foreign:
        lines += [f"{'foreign images':<28}{'images':>12}{'AUROC':>12}{'caught':>12}"]
        lines += [
            f"{name + _alone(each):<28}{each.images:>12,}{each.auroc:>12.3f}{each.caught:>12.1%}"
            for name, each in found.foreign.items()
        ]
        lines += ["", f"{'AUROC of each score':<28}" + "".join(f"{name:>12}" for name in found.foreign)]
        lines += [
            f"{_name(name):<28}" + "".join(f"{each[which]:>12.3f}" for which in found.foreign)
            for name, each in found.aurocs.items()
        ]
    else:
        lines.append("No foreign images were given: --foreign FOLDER says how many of them the threshold catches.")
    return "\n".join(lines)


def as_json(found: Calibration, *, before: float) -> dict[str, Any]:
    """For programs."""
    return {
        "temperature_before": before,
        "temperature": found.temperature,
        "fitted_on": found.fitted_on,
        "before": found.before.metrics(),
        "after": found.after.metrics(),
        "ece_by_chance": found.chance,
        "ece_debiased_before": found.debiased[0],
        "ece_debiased": found.debiased[1],
        "ece_debiased_by_chance": found.debiased_chance,
        "novelty": {
            **{
                name: value for name, value in found.threshold.to_dict().items() if name not in {"distance", "logistic"}
            },
            **({} if found.threshold.distance is None else {"layer": found.threshold.distance.layer}),
            "rejected": found.rejected,
            "foreign": {name: asdict(each) for name, each in found.foreign.items()},
            "aurocs": {name: dict(each) for name, each in found.aurocs.items()},
        },
    }


def as_markdown(found: Calibration, *, before: float, data: str) -> str:
    """The section of a model card; `data` is what the images were."""
    old, new, threshold = found.before, found.after, found.threshold
    lines = [
        f"## Calibrated on {data}",
        "",
        f"Temperature and threshold were fitted on {found.fitted_on:,} images, and measured on {new.images:,} others.",
        "",
        "|  | before | after |",
        "| --- | --- | --- |",
        f"| temperature | {before:.4g} | {found.temperature:.4g} |",
        f"| top-1 accuracy | {old.top1:.2%} | {new.top1:.2%} |",
        f"| expected calibration error, 15 bins | {old.reliability.error:.2%} | {new.reliability.error:.2%} |",
        f"| calibration error without chance | {found.debiased[0]:.2%} | {found.debiased[1]:.2%} |",
        f"| mean negative log likelihood, nats | {old.nll:.4f} | {new.nll:.4f} |",
        "",
        f"Probabilities that are exactly right would have a calibration error of {found.chance:.2%} on so few images,",
        f"and without chance one of {found.debiased_chance:.2%} on average: the root of the debiased mean square in 15",
        "equally filled bins (Kumar et al., arXiv:1909.10155).",
        "",
        f"An image is unknown if its {_named(threshold)} is above {threshold.threshold:g}.",
        f"That rejects {found.rejected:.1%} of the images of the classes.",
    ]
    if found.foreign:
        lines += ["", "| foreign images | images | AUROC | caught |", "| --- | --- | --- | --- |"]
        lines += [
            f"| {name.replace('|', '')}{_alone(each)} | {each.images:,} | {each.auroc:.3f} | {each.caught:.1%} |"
            for name, each in found.foreign.items()
        ]
    return "\n".join(lines)


def _alone(found: Detection) -> str:
    return "" if found.fitted else " (not fitted)"


def _named(threshold: NoveltyThreshold) -> str:
    distance = threshold.distance
    return _name(threshold.score) + ("" if distance is None else f" at {distance.layer}")


def _name(score: str) -> str:
    return score.replace("_", " ")
