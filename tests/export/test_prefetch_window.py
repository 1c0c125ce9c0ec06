"""How many pages a scan of the space-wide listing requests ahead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unpod_async._export import PrefetchWindow


def after(window: PrefetchWindow, pages: int, *, wall: float, work: float) -> int:
    """Handle this many pages, each with this wall time and processor time."""
    for number in range(1, pages + 1):
        window.page_handled(number * wall, number * work)
    return window.pages


@pytest.mark.parametrize(
    ("wall", "work", "pages"),
    [
        (0.010, 0.010, 4),  # the processor is busy: a larger window gains nothing
        (0.010, 0.0085, 4),
        (0.015, 0.010, 6),
        (0.020, 0.010, 8),
        (0.100, 0.001, 12),  # the upper limit
    ],
)
def test_the_window_is_large_enough_to_hide_the_latency(wall: float, work: float, pages: int) -> None:
    assert after(PrefetchWindow(32, 0, 0), 4, wall=wall, work=work) == pages


def test_the_latency_is_measured_over_all_pages_of_the_window() -> None:
    window = PrefetchWindow(32, 0, 0)
    sizes = [window.page_handled(number * 0.015, number * 0.010) for number in range(1, 11)]
    assert sizes == [4, 4, 4, 6, 6, 6, 6, 6, 6, 9]


def test_a_window_of_one_page_does_not_grow() -> None:
    assert after(PrefetchWindow(1, 0, 0), 50, wall=1, work=0.001) == 1


@given(
    most=st.integers(1, 40),
    pages=st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), max_size=60),
)
def test_the_window_never_shrinks_and_keeps_its_limits(most: int, pages: list[tuple[float, float]]) -> None:
    window = PrefetchWindow(most, 0, 0)
    now = busy = 0.0
    for passed, worked in pages:
        before = window.pages
        now, busy = now + passed, busy + worked
        assert before <= window.page_handled(now, busy) <= min(most, 12)
