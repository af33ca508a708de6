"""Numbers in the protocol's typed contents, read by array operations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glimpse.server.errors import InvalidRequestError, Reason
from glimpse.server.open_inference import open_inference_pb2 as pb
from glimpse.server.open_inference.packed import small_numbers

small = st.integers(0, 255)


def field(numbers: list[int]) -> bytes:
    return pb.InferTensorContents(uint_contents=numbers).SerializeToString()


@given(st.lists(small, min_size=1, max_size=300))
def test_numbers_up_to_255_become_bytes(numbers: list[int]) -> None:
    assert small_numbers(field(numbers), "where") == bytes(numbers)


@given(st.lists(small), st.integers(256, 2**32 - 1), st.lists(small))
def test_a_larger_number_is_refused_wherever_it_is(before: list[int], large: int, after: list[int]) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        small_numbers(field([*before, large, *after]), "where")
    assert (refused.value.reason, refused.value.field) == (Reason.INVALID_TENSOR, "where")
