"""What can be wrong with weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_SHOWN = 20  # names of a kind in a message; the error's fields have all of them


class WeightsError(ValueError):
    """The file holds no readable weights."""


class WeightsMismatchError(WeightsError):
    """The file holds weights of another network; the message lists the tensors that do not fit."""

    def __init__(
        self, path: Path, missing: Sequence[str], unexpected: Sequence[str], misshapen: Sequence[str], layout: str = ""
    ) -> None:
        self.missing = list(missing)  # tensors that the network needs and the file lacks
        self.unexpected = list(unexpected)  # tensors of the file that the network lacks
        self.misshapen = list(misshapen)  # "name: file's shape, network's shape"
        faults = {"missing": self.missing, "unexpected": self.unexpected, "misshapen": self.misshapen}
        listed = "; ".join(f"{fault}: {_some(names)}" for fault, names in faults.items() if names)
        read_as = f", read with {layout}'s names," if layout else ""
        super().__init__(
            f"{path}{read_as} does not fit this network. {listed}. Build the architecture that it was saved from."
        )


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
