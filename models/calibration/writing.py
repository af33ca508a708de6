"""Keeping a calibration: a bundle of the weights, or a file beside weights that are served as they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from glimpse.models import beside, golden
from glimpse.models import bundle as bundles
from glimpse.models.bundle import Bundle
from glimpse.models.drift import Reference
from glimpse.models.files import bounded_files, digests, whole_files
from glimpse.models.groups import GROUPS
from glimpse.models.novelty.novelty import NoveltyThreshold

CARD = "MODEL_CARD.md"
_MARK = "<!-- written by glimpse.models calibrate -->"
_OF_A_TEMPERATURE = frozenset({"nll", "ece"})  # metrics that another temperature changes


def check(bundle: Bundle, out: Path | None) -> Path:
    """Where the calibration of a model is to be written; to be asked before anything is computed.

    Args:
        bundle: the model.
        out: the folder of a bundle to be made; None: the file beside the weights of a graph, or the bundle itself.

    Raises:
        ValueError: it cannot be written there; the message says what to do.
    """
    if out is None:
        if bundle.graph:
            return beside.calibration_path(bundle.weights_path)
        if (bundle.folder / bundles.DESCRIPTION).is_file() and not bundle.folder.is_relative_to(bundles.EMBEDDED):
            return bundle.folder / bundles.DESCRIPTION
        raise ValueError(
            f"{bundle.name} has no folder of yours into which its calibration could be written. Give one with --out: a "
            "bundle with these weights is made there."
        )
    if bundle.graph:
        raise ValueError(
            f"{bundle.weights_path} is a graph of another framework, of which no bundle is made: leave --out away, and "
            f"the calibration is written beside it, into {beside.calibration_path(bundle.weights_path).name}."
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out must name a folder that is empty or does not exist. Received: {out}")
    return out


def write(
    bundle: Bundle,
    out: Path | None,
    *,
    temperature: float,
    novelty: NoveltyThreshold,
    drift: Reference | None,
    first: Callable[[Path], object] = lambda _: None,
) -> Path:
    """Write what was fitted; returns where, as `check` says.

    `first` is called with the folder of the bundle, if there is one, before its description is written: with what goes
    wrong there, or is interrupted, the bundle is the old one, or there is none yet.

    What was measured with another temperature is left out of the bundle's metrics, and recorded answers of a bundle
    are scaled to the new one, which changes their probabilities and nothing else. A reference of drift that was made
    with another temperature or score is left out, too, where there is no new one.

    Raises:
        ValueError: as `check`.
        OSError: it cannot be written.
    """
    target = check(bundle, out)
    if bundle.graph:
        beside.write_calibration(target, beside.Calibration(temperature, novelty, drift), bundle.weights_digest)
        return target
    if out is None:
        first(bundle.folder)
        _change(bundle.folder, bundle, temperature, novelty, drift)
        return bundle.folder
    # The description comes last, and as a whole: until then the folder is no bundle.
    out.mkdir(parents=True, exist_ok=True)
    if (bundle.folder / bundles.DESCRIPTION).is_file():
        shutil.copytree(bundle.folder, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns(bundles.DESCRIPTION))
        first(out)
        _change(out, bundle, temperature, novelty, drift)
        return out
    shutil.copyfile(bundle.weights_path, out / bundle.weights_file)
    if (groups := bundle.weights_path.with_name(GROUPS)).is_file():
        shutil.copyfile(bounded_files.inside(groups.parent, GROUPS), out / GROUPS)
    for ending in digests.EXTERNAL_DATA_SUFFIXES:
        if (found := bundle.weights_path.with_name(bundle.weights_file + ending)).is_file():
            shutil.copyfile(found, out / found.name)
    first(out)
    bundles.write(
        out,
        name=bundle.name,
        version=bundle.version,
        architecture=bundle.architecture,
        variant=bundle.variant,
        options=bundle.options,
        input_shape=bundle.input_shape,
        labels=bundle.labels,
        recipe=bundle.recipe,
        temperature=temperature,
        metrics=_kept(bundle.metrics),
        weights=bundle.weights_file,
        novelty=novelty,
        drift=drift,
        head=bundle.head,
    )
    return out


def write_card(folder: Path, name: str, section: str) -> None:
    """Put a section about the calibration at the end of a bundle's card, in the place of an earlier one.

    Args:
        folder: of the bundle.
        name: of the model, for a card that does not exist yet.
        section: Markdown.
    """
    path = folder / CARD
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else f"# {name}\n"
    before = text.split(_MARK, 1)[0].rstrip()
    whole_files.write_text(path, f"{before}\n\n{_MARK}\n{section.rstrip()}\n", errors="replace")


def _change(
    folder: Path, bundle: Bundle, temperature: float, novelty: NoveltyThreshold, drift: Reference | None
) -> None:
    """Change a bundle, or a copy of it, by its description, which is all that counts: it is the old one or the new."""
    described = bounded_files.inside(bundle.folder, bundles.DESCRIPTION)
    values = bounded_files.parse_json(bounded_files.read_text(described, bounded_files.DESCRIPTION_BYTES))
    values |= {"temperature": temperature, "novelty": novelty.to_dict()}
    if drift is not None:
        values["drift"] = drift.to_dict()
    elif temperature != bundle.temperature or not _same_score(novelty, bundle.novelty):
        values.pop("drift", None)
    outdated: Path | None = None
    fresh: Path | None = None
    if temperature != bundle.temperature:
        values["metrics"] = _kept(bundle.metrics)
        if bundle.golden:
            outdated = bounded_files.inside(folder, bundle.golden)
            values["golden"] = golden.rescaled(folder, bundle, temperature)
            fresh = folder / values["golden"]
    text = json.dumps(values, indent=2) + "\n"
    try:
        whole_files.write_text(folder / bundles.DESCRIPTION, text)
    except BaseException:  # an interrupt, too, which may come when all is done
        if fresh is not None and not whole_files.holds(folder / bundles.DESCRIPTION, text.encode()):
            shutil.rmtree(fresh, ignore_errors=True)
        raise
    if outdated is not None:
        shutil.rmtree(outdated, ignore_errors=True)


def _same_score(one: NoveltyThreshold, other: NoveltyThreshold | None) -> bool:
    """Whether both give the same scores, whatever their thresholds are."""
    return other is not None and (one.score, one.distance, one.logistic) == (
        other.score,
        other.distance,
        other.logistic,
    )


def _kept(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in _OF_A_TEMPERATURE}
