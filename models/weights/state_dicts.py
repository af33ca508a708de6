"""Finding the weights in a PyTorch checkpoint, which may hold several sets of tensors beside other things."""

from __future__ import annotations

import itertools
import re
from collections import deque
from collections.abc import Iterator
from typing import Any

from glimpse.models.weights import limits
from glimpse.models.weights.pickled import PickleError
from glimpse.models.weights.prefixes import is_averaged
from glimpse.models.weights.torch_tensors import Parameter, Tensor, array

# Keys under which training scripts keep the tensors, in order of preference; averaged weights precede them, as in timm.
_PLACES = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "params")
_NO_WEIGHTS = re.compile(r"optim|sched|scaler|rng|loss|criterion|momentum|exp_avg", re.IGNORECASE)
_LEVELS = 4  # of dictionaries in dictionaries that are looked into
_SETS = 8  # of tensors in a file that are looked at
_DICTIONARIES = 10_000  # that are looked into


def state_dicts(made: object) -> list[tuple[str, dict[str, Tensor]]]:
    """Every dictionary of named tensors with its place, ``a.b``; the one that most likely holds the weights is first.

    Raises:
        PickleError: the checkpoint is not a dictionary.
    """
    if not isinstance(made, dict):
        raise PickleError(f"a {type(made).__name__.lstrip('_')}, not a dictionary of tensors")
    found: list[tuple[str, dict[str, Tensor]]] = []
    waiting: deque[tuple[str, dict[Any, Any], int]] = deque([("", made, 0)])
    seen: set[int] = set()
    while waiting and len(found) < _SETS:
        place, dictionary, level = waiting.popleft()
        if id(dictionary) in seen:  # a pickle can hold the same one many times
            continue
        seen.add(id(dictionary))
        if tensors := dict(_named(dictionary)):
            found.append((place, tensors))
        if level < _LEVELS:
            inner = (
                (f"{place}.{key}".lstrip("."), value, level + 1)
                for key, value in dictionary.items()
                # Names are short; a long one in front of many others would be copied for each of them.
                if isinstance(key, str) and isinstance(value, dict) and len(key) <= limits.NAME
                if not _NO_WEIGHTS.search(key)
            )
            waiting.extend(itertools.islice(inner, max(0, _DICTIONARIES - len(seen) - len(waiting))))
    # What is without any kernel, as counters of a metric are, is no network, unless there is nothing else.
    networks = [one for one in found if any(len(tensor.size) > 1 for tensor in one[1].values())]
    return sorted(networks or found, key=lambda one: _rank(*one))


def _named(dictionary: dict[Any, Any]) -> Iterator[tuple[str, Tensor]]:
    for name, value in dictionary.items():
        tensor = value.tensor if isinstance(value, Parameter) else value
        if isinstance(name, str) and isinstance(tensor, Tensor):
            yield name, tensor


def _rank(place: str, tensors: dict[str, Tensor]) -> tuple[bool, int]:
    """The rank of a set of tensors: averaged weights first, then those under a known key."""
    known = [_PLACES.index(part) for part in place.split(".") if part in _PLACES]
    return not is_averaged(place) or _never_averaged(tensors), min(known, default=len(_PLACES))


def _never_averaged(tensors: dict[str, Tensor]) -> bool:
    """Whether PyTorch's AveragedModel was never updated, so that it holds the weights of before the training."""
    count = tensors.get("n_averaged")
    return count is not None and count.size == () and bool(array(count) == 0)
