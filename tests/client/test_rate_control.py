"""How fast a client sends to a server that refuses what comes too fast; on a clock that the test moves."""

from __future__ import annotations

import pytest

from glimpse.client.rate_control import RateControl


def test_nothing_is_held_back_before_the_first_refusal() -> None:
    pace = RateControl()
    for now in range(1000):
        assert not pace.limited
        assert pace.room(now)
        assert pace.next <= now
        pace.sent(now)
        pace.answered()


def test_after_a_refusal_one_is_on_the_way_and_more_with_answers() -> None:
    pace = RateControl()
    pace.refused(0.0, 0.2, alone=False)
    assert pace.limited
    assert pace.room(0)
    assert not pace.room(1)
    for _ in range(20):
        pace.answered()
    assert pace.room(1)
    pace.refused(2.0, 0.2, alone=False)
    pace.refused(2.0, 0.2, alone=False)
    pace.refused(2.0, 0.2, alone=False)
    assert not pace.room(1)


def test_a_server_that_refuses_at_once_shows_how_far_apart_images_have_to_be() -> None:
    """One that has room for another every 0.5 s and tells when."""
    pace, now, free, sent, refused = RateControl(), 0.0, 0.0, 0, 0
    while sent < 100:
        now = max(now, pace.next)
        pace.sent(now)
        if now >= free - 1e-9:
            pace.answered()
            free, sent = max(now, free) + 0.5, sent + 1
        else:
            pace.refused(now, free - now, alone=True)
            refused += 1
        now += 0.001  # the way there and back
    assert refused / sent < 0.3
    assert now < 55.0


def test_places_in_a_line_show_the_distance_however_far_off_the_line_ends() -> None:
    pace = RateControl()
    for place in range(1, 21):
        pace.refused(0.0, 0.2 * place, alone=False)
    pace.sent(0.2)
    assert pace.next == pytest.approx(0.4)


def test_a_turn_far_off_does_not_make_a_client_crawl() -> None:
    pace = RateControl()
    pace.refused(0.0, 60.0, alone=True)
    pace.sent(60.0)
    pace.sent(62.0)
    assert pace.next <= 70.0
