"""A request and its response of the Open Inference Protocol as plain values, for any transport of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Parameters:
    """What is said with a request, or with a part of it, besides its tensors."""

    values: Mapping[str, bool | int | float | str | None]  # None: it has none, or none of these types
    field: str = ""  # what the transport calls one of them in its message; "{}" stands for the name

    def where(self, name: str) -> str:
        """The field of one of them."""
        return self.field.format(name)


NO_PARAMETERS = Parameters({})


@dataclass(frozen=True, slots=True)
class InputTensor:
    """One input."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    # Row by row, as the protocol's raw representation; or the elements themselves, of a tensor of BYTES or of numbers.
    raw: bytes | None = None
    elements: Sequence[bytes] | Sequence[int] = ()
    contents: str = "raw_input_contents[0]"  # where they are in the message
    parameters: Parameters = NO_PARAMETERS


# In place of each input of a request that has not exactly one: those are counted, and then refused.
NO_TENSOR = InputTensor("", "", ())


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output that is asked for."""

    name: str
    parameters: Parameters = NO_PARAMETERS


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request; inputs are converted when it is their turn, so that it is known before how many there are."""

    model_name: str
    model_version: str
    id: str
    parameters: Parameters
    inputs: Sequence[InputTensor]
    outputs: Sequence[RequestedOutput] = ()


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """One output, always in the protocol's raw representation."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes


@dataclass(frozen=True, slots=True)
class InferResponse:
    """The answer to a request."""

    model_name: str
    model_version: str
    id: str
    outputs: tuple[OutputTensor, ...]
    request_id: str = ""  # by which feedback may name the answer; "": none is taken

    @property
    def parameters(self) -> dict[str, str]:
        """What is told besides the outputs."""
        return {"request_id": self.request_id} if self.request_id else {}


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """What a tensor of a model is like."""

    name: str
    datatype: str
    shape: tuple[int, ...]  # with the batch in front; -1: any number
