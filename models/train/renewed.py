"""Making the bundle of a run anew: all files are written beside those of the old one, and then take their place."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from glimpse.models import bundle, calibration_pictures
from glimpse.models.files import bounded_files
from glimpse.models.train import card

_BESIDE = ".new-"  # how the folder is called in which they are written
# Of an earlier export, with other images and numbers, where the new one is without; whatever else is there stays.
_OUTDATED = (calibration_pictures.FILE, *card.PLOTS)


@contextlib.contextmanager
def renewed(target: Path) -> Iterator[Path]:
    """A folder to make a bundle in, which takes the place of the one in `target` when the block has ended.

    What goes wrong in the block, or interrupts it, leaves the old bundle as it was. Then each file is moved, which
    takes no room and hardly a moment: the weights first and the description last, so that a server refuses what is
    moved in part, by the digest of its weights.

    Args:
        target: folder of the bundle; created where it does not exist.

    Raises:
        BundleError: what was made is no bundle.
        OSError: a file cannot be moved.
    """
    target.mkdir(parents=True, exist_ok=True)
    for left in target.glob(f"{_BESIDE}*"):  # by a run that was killed; this one has the folder for itself
        shutil.rmtree(left, ignore_errors=True)
    # Within, so that it lies on the same disk wherever `target` leads to.
    with tempfile.TemporaryDirectory(dir=target, prefix=_BESIDE, ignore_cleanup_errors=True) as beside:
        fresh = Path(beside)
        yield fresh
        made, answers = bundle.read(fresh), _recorded(target)
        _move(made.weights_path, target)
        for name in _OUTDATED:
            if not (fresh / name).exists():
                (target / name).unlink(missing_ok=True)
        others = [path for path in sorted(fresh.iterdir()) if path.name != bundle.DESCRIPTION]
        for path in (*others, fresh / bundle.DESCRIPTION):
            _move(path, target)
        # Where no answer is clear enough to be recorded, the pictures stay for another time.
        if answers is not None and made.golden and answers.name != made.golden:
            shutil.rmtree(answers, ignore_errors=True)


def _recorded(folder: Path) -> Path | None:
    """The folder of golden answers that the bundle in a folder has; None: it has none, or there is no bundle."""
    with contextlib.suppress(bundle.BundleError, ValueError):
        if name := bundle.read(folder).golden:
            return bounded_files.inside(folder, name)
    return None


def _move(path: Path, folder: Path) -> None:
    """Move a file or a folder into a folder, in the place of one of its name."""
    there = folder / path.name
    if path.is_dir() and there.exists():  # which no folder can be moved over
        there.replace(path.with_name(f"old.{path.name}"))
    path.replace(there)
