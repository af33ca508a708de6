"""What is left out of the log."""

from __future__ import annotations

from server.logs import Sparse


def test_one_line_a_second_is_let_through_and_says_how_many_were_not() -> None:
    now = 100.0
    sparse = Sparse(1.0, clock=lambda: now)
    assert [sparse.unsaid() for _ in range(4)] == [0, None, None, None]
    now += 1.0
    assert [sparse.unsaid(), sparse.unsaid()] == [3, None]
    now += 60.0
    assert sparse.unsaid() == 1
    now += 60.0
    assert sparse.unsaid() == 0
