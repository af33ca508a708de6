"""The errors of reading and loading weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

# Names of a kind in a message, and characters of each; the error's fields have all of them.
_SHOWN, _LENGTH = 2, 110


class WeightsError(ValueError):
    """The file cannot be read as weights."""


class WeightsMismatchError(WeightsError):
    """The weights belong to another network; the message lists the tensors that do not fit."""

    def __init__(
        self,
        path: Path,
        missing: Sequence[str],
        unexpected: Sequence[str],
        misshapen: Sequence[str],
        layout: str = "",
        *,
        hint: str = "",
    ) -> None:
        self.missing = list(missing)  # tensors that the network needs and the file lacks
        self.unexpected = list(unexpected)  # tensors of the file that the network lacks
        self.misshapen = list(misshapen)  # "name: file's shape, network's shape"
        faults = {"missing": self.missing, "unexpected": self.unexpected, "misshapen": self.misshapen}
        listed = "; ".join(f"{fault}: {_some(names)}" for fault, names in faults.items() if names)
        read_as = (
            f", read by its {layout}," if layout == "graph" else f", read with {layout}'s names," if layout else ""
        )
        advice = hint or "Give the architecture that the weights were saved from."
        super().__init__(f"{path}{read_as} does not fit this network. {listed}. {advice}")


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    shown = [name if len(name) <= _LENGTH else f"{name[:_LENGTH]}..." for name in names[:_SHOWN]]
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
