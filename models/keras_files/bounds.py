"""Limits for whole Keras models: of their configuration, of their variables while they are built, and of computation.

A few kilobytes of configuration can describe layers of terabytes, a million sequential steps or enormous activations.
So the configuration is counted first; while Keras builds it, no variable is created that the file has no data for; and
the output of each operation is checked before an image is computed.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from glimpse.models.complexity import multiply_adds
from glimpse.models.prestem.recipe import Recipe
from glimpse.models.weights import limits
from glimpse.models.weights.errors import WeightsError

# Calls of layers, and objects that belong to them, as initializers do: the largest published networks have some five
# thousand. A model that is called within a model that is called within another multiplies.
_CALLS = 50_000
_VALUES = 2_000_000  # of a configuration, numbers and names all counted; these have some ten thousand
_DEPTH = 200  # of lists and objects within one another; a model in a model takes some six
# Numbers in all variables beside those of the file: the states of random layers, which older files do not keep.
_SPARE = 1 << 20
# Numbers that one operation may give for one picture: of a picture of H x W pixels the first for each pixel, as 64
# channels of four copies are, and the second beside, as a network has that makes small pictures larger first.
_A_PIXEL, _BESIDE = 256, 1 << 24
# Multiply-adds for one picture. The largest published classifiers take a million million.
_MULTIPLY_ADDS = 4 << 40
# Arguments that say how often something is done one after the other.
_REPEATS, _TIMES = {"chain_depth", "num_chains", "num_ops", "power_iterations"}, 1000
# Layers that take words or sounds, not pictures; some of them read files that the configuration names.
_NO_PICTURES = {
    "FeatureSpace",
    "HashedCrossing",
    "Hashing",
    "IntegerLookup",
    "MelSpectrogram",
    "STFTSpectrogram",
    "StringLookup",
    "TextVectorization",
}
# Layers that compare each place with each other one, and how many times as many pairs as numbers there may be.
_PAIRS = 4
_ATTENTION = (
    keras.layers.AdditiveAttention,
    keras.layers.Attention,
    keras.layers.GroupQueryAttention,
    keras.layers.MultiHeadAttention,
)
_ADVICE = "Save the model again with Keras, or give an architecture of the library for its weights with GLIMPSE_MODEL."


def check_configuration(path: Path, config: Any) -> None:
    """Check a configuration against the limits, before anything is built.

    Raises:
        WeightsError: it exceeds one.
    """
    values = 0
    waiting: list[tuple[Any, int]] = [(config, 0)]
    while waiting:
        value, depth = waiting.pop()
        values += 1
        if depth > _DEPTH:
            raise _refusal(path, f"lists and objects more than {_DEPTH} deep")
        if values > _VALUES:
            raise _refusal(path, f"more than {_VALUES} values")
        if isinstance(value, list):
            waiting.extend((inner, depth + 1) for inner in value)
        elif isinstance(value, dict):
            _check_object(path, value)
            waiting.extend((inner, depth + 1) for inner in value.values())
    if _calls_in(config) > _CALLS:
        raise _refusal(path, f"more than {_CALLS} calls of layers and parts of layers, models in models counted")


def _check_object(path: Path, value: dict[str, Any]) -> None:
    if isinstance(name := value.get("class_name"), str) and name in _NO_PICTURES:
        raise _refusal(path, f"a layer that takes no pictures, {name}")
    if value.get("unroll") is True:
        raise _refusal(path, "a recurrent layer that is unrolled, one copy for each of its steps")
    for key in _REPEATS & value.keys():
        if isinstance(times := value[key], int | float) and times > _TIMES:
            raise _refusal(path, f"a layer with {key} above {_TIMES}")


def _calls_in(value: Any) -> int:
    """How many objects Keras builds or calls: a model within a model as often as it is called there."""
    if isinstance(value, list):
        return sum(map(_calls_in, value))
    if not isinstance(value, dict):
        return 0
    nodes = value.get("inbound_nodes")
    within = sum(_calls_in(inner) for key, inner in value.items() if key != "inbound_nodes")
    own = isinstance(value.get("class_name"), str)
    return (own + within) * (len(nodes) if isinstance(nodes, list) and nodes else 1)


@contextlib.contextmanager
def limit_variables(path: Path, numbers: int) -> Iterator[None]:
    """Within this context, Keras creates variables only up to the size of the file's data.

    Args:
        path: of the file.
        numbers: the number of elements of all variables in it.

    Raises:
        WeightsError: a variable exceeds that; no memory was allocated for it.
    """
    left = numbers + _SPARE
    made = keras.Variable.__init__

    def counted(self: Any, initializer: Any, shape: Any = None, *others: Any, **named: Any) -> None:
        nonlocal left
        if shape is not None:
            sides = [shape] if isinstance(shape, int) else list(shape)
            left -= math.prod(side for side in sides if isinstance(side, int))
            if left < 0:
                raise _TooLargeError(
                    f"{path} describes layers with more numbers than it holds, {numbers}: one of the shape "
                    f"{str(tuple(sides))[:80]} at last. {_ADVICE}"
                )
        # Its numbers come from the file, and this one takes the cube of a kernel's side to make them.
        costly = isinstance(initializer, keras.initializers.Orthogonal)
        made(self, keras.initializers.Zeros() if costly else initializer, shape, *others, **named)

    keras.Variable.__init__ = counted
    try:
        yield
    except Exception as error:
        # Keras wraps what is raised in a layer, once for each model around it.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, _TooLargeError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        raise WeightsError(str(cause)) from error
    finally:
        keras.Variable.__init__ = made


class _TooLargeError(WeightsError):
    """Expected: a variable is larger than what the file has for it."""


def check_computation(path: Path, model: keras.Model, recipe: Recipe) -> int:
    """Check the size of a model's activations and its multiply-adds against the limits, before anything is computed.

    Returns:
        The number of elements of all activations for one image.

    Raises:
        WeightsError: a limit is exceeded.
    """
    most = _A_PIXEL * recipe.height * recipe.width + _BESIDE
    batch = model.inputs[0].shape[0]
    together = limits.activations(recipe.height, recipe.width, model.count_params())
    spent = made = 0

    def look(operation: Any, inputs: Any, outputs: Any, times: int = 1) -> None:
        nonlocal spent, made
        if (within := _scores(operation, inputs)) > _PAIRS * most:
            raise _refusal(
                path,
                f"{str(operation.name)[:80]}, which compares {within} pairs of places; {_PAIRS * most} are allowed",
            )
        for tensor in keras.tree.flatten(outputs):
            shape = tuple(getattr(tensor, "shape", ()))
            # The first is the number of pictures, unless something else has been made of it.
            sides = shape[1:] if shape[:1] in {(None,), (batch,)} else shape
            numbers = math.prod(side for side in sides if side is not None)
            if numbers > most:
                raise _refusal(
                    path,
                    f"{str(getattr(operation, 'name', 'a layer'))[:80]}, which makes {numbers} numbers "
                    f"{shape[1:]} of a picture of {recipe.height} x {recipe.width}; {most} are allowed",
                )
            if isinstance(operation, keras.layers.Layer) and len(shape) > 1 and None not in shape[1:]:
                spent += times * multiply_adds(operation, shape)
            made += times * numbers
        if made > together:
            raise _refusal(
                path,
                f"operations that make more than {together} numbers of a picture of {recipe.height} x {recipe.width}",
            )
        if spent > _MULTIPLY_ADDS:
            raise _refusal(path, f"operations of more than {_MULTIPLY_ADDS} multiplications for a picture")

    try:
        _walk(model, recipe, look)
    except (TypeError, AttributeError, NotImplementedError):
        # A graph that Keras cannot walk through for pictures of this size: what is known of it is looked at.
        for operation, inputs, outputs, times in _calls(model):
            look(operation, inputs, outputs, times)
    return made


def _scores(operation: Any, inputs: Any) -> int:
    """How many numbers an operation makes that it does not give: attention compares each place with each other one."""
    if not isinstance(operation, _ATTENTION):
        return 0
    tensors = [each for each in keras.tree.flatten(inputs) if isinstance(each, keras.KerasTensor)]
    places = [math.prod(side for side in tensor.shape[1:-1] if side is not None) for tensor in tensors]
    if not places:
        return 0
    heads = getattr(operation, "num_heads", None) or getattr(operation, "num_query_heads", None) or 1
    features = int(tensors[0].shape[-1] or 1) if isinstance(operation, keras.layers.AdditiveAttention) else 1
    return int(max(places) * places[0] * heads * features)


def _walk(model: keras.Model, recipe: Recipe, look: Any) -> None:
    """Call `look` with every operation of a model and what it gives, for pictures of the recipe's size."""
    if tuple(model.inputs[0].shape[1:]) == recipe.shape and not _open(model):
        for operation, inputs, outputs, times in _calls(model):
            look(operation, inputs, outputs, times)
        return

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(operation, keras.Sequential) and len(args) == 1:
            (x,) = args
            for layer in operation.layers:
                x = call(layer, x)
            return x
        if isinstance(operation, keras.Model) and len(args) == 1 and getattr(operation, "inputs", None):
            return operation._run_through_graph(args[0], call_fn=call)  # noqa: SLF001 - Keras has no public way
        outputs = operation(*args, **kwargs)
        look(operation, (args, kwargs), outputs)
        return outputs

    image = keras.Input(recipe.shape, dtype=model.inputs[0].dtype)
    structure = image if isinstance(model, keras.Sequential) else keras.tree.pack_sequence_as(model.input, [image])
    call(model, structure)


def _open(model: keras.Model) -> bool:
    """Whether the sizes of some values are not known before a picture is."""
    return any(
        None in tuple(getattr(tensor, "shape", ()))[1:]
        for _, _, outputs, _ in _calls(model)
        for tensor in keras.tree.flatten(outputs)
    )


def _calls(model: keras.Model) -> Iterator[tuple[Any, Any, Any, int]]:
    """Every call of an operation in a model and the models in it: what it takes and gives there, and how often."""
    waiting, seen = [(model, 1)], set()
    while waiting:
        one, times = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        for operation in getattr(one, "operations", None) or one.layers:
            nodes = operation._inbound_nodes  # noqa: SLF001 - Keras has no public way back through a graph
            for node in nodes:
                yield operation, node.input_tensors, node.outputs, times
            inside = (operation, getattr(operation, "layer", None))  # the second: of a wrapper
            waiting.extend((inner, times * max(1, len(nodes))) for inner in inside if isinstance(inner, keras.Model))


def parsed(path: Path, text: str) -> Any:
    """Parse a configuration and check it against the limits.

    Raises:
        WeightsError: it is not JSON, or exceeds a limit.
    """
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} has a damaged configuration: {str(error)[:200]}. Copy it again.") from error
    check_configuration(path, config)
    return config


def _refusal(path: Path, what: str) -> WeightsError:
    return WeightsError(f"{path} describes {what}, which no image classifier needs. {_ADVICE}")
