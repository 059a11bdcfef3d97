"""Threads and functions in a bounded number of series."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_gil._records.series import MOST, OTHER, ThreadSeries, Who
from otel_gil._snapshot import ThreadTime

REST = (OTHER, OTHER)

NUMBERS = st.integers(0, 400) | st.integers(0, 30)
CREDITS = st.tuples(NUMBERS, st.one_of(st.floats(0, 0.03), st.floats(0.05, 10)))
PAUSES = st.tuples(st.none(), st.one_of(st.floats(0, 6), st.floats(0, 600)))


def _who(number: int) -> Who:
    return "MainThread", f"app.f{number}"


def _times(series: ThreadSeries) -> dict[Who, float]:
    times = series.times()
    found = {(one.thread, one.function): one.seconds for one in times}
    assert len(found) == len(times)
    return found


@given(st.lists(st.one_of(CREDITS, CREDITS, CREDITS, PAUSES), max_size=300))
@settings(deadline=None)
def test_bounded_and_never_decreasing(steps: list[tuple[int | None, float]]) -> None:
    """A few series at once, each of which goes on from where it was, and no second is lost or made up."""
    series = ThreadSeries()
    now = credited = 0.0
    last: dict[Who, float] = defaultdict(float)
    for number, seconds in [*steps, (None, 600.0)]:
        if number is None:
            now += seconds
            series.settle(now)
        else:
            credited += seconds
            series.credit(_who(number), seconds)
        times = _times(series)
        assert len(times.keys() - {REST}) <= MOST
        assert all(seconds >= last[who] for who, seconds in times.items())
        last.update(times)
        assert sum(last.values()) <= credited + 1e-9
    assert sum(last.values()) == pytest.approx(credited)
    assert len(last.keys() - {REST}) <= 10 * MOST


def test_many_in_turn() -> None:
    """A process that does something else every ten minutes, for weeks."""
    series = ThreadSeries()
    last: dict[Who, float] = defaultdict(float)
    now = credited = 0.0
    for number in range(1000):
        for _ in range(60):
            series.credit(_who(number), 5.0)
            credited += 5.0
            now += 10.0
            series.settle(now)
        times = _times(series)
        assert all(seconds >= last[who] for who, seconds in times.items())
        last.update(times)
        assert (_who(number) in times) == (number < 10 * MOST)
    assert len(last) == 10 * MOST + 1
    assert sum(last.values()) == pytest.approx(credited)


def test_a_series_that_comes_back_goes_on() -> None:
    series = ThreadSeries()
    now = 0.0

    def busy(*numbers: int) -> None:
        nonlocal now
        for _ in range(100):
            for number in numbers:
                series.credit(_who(number), 1.0)
            now += 6.0
            series.settle(now)

    busy(0)
    assert _times(series) == {_who(0): pytest.approx(100)}
    busy(*range(1, MOST + 1))
    assert _who(0) not in _times(series)
    rest = _times(series)[REST]
    busy(0)
    times = _times(series)
    assert times[_who(0)] > 150
    assert times[_who(0)] + times[REST] - rest == pytest.approx(200)


def test_a_busy_newcomer_displaces_what_was_busy_at_startup() -> None:
    series = ThreadSeries()
    for number in range(MOST):
        series.credit(_who(number), 2.0)
    now = 0.0
    for _ in range(60):
        now += 6.0
        series.settle(now)
        series.credit(_who(99), 0.6)
    times = _times(series)
    assert times[_who(99)] + times[REST] == pytest.approx(60 * 0.6)
    assert times[_who(99)] > 30
    assert len(times) == MOST + 1


def test_a_newcomer_is_seen_among_many_that_were_there_once() -> None:
    """An import runs hundreds of functions for a moment each."""
    series = ThreadSeries()
    for number in range(1000):
        series.credit(_who(number), 0.02)
    for _ in range(100):
        series.credit(_who(2000), 0.01)
    assert _times(series) == {_who(2000): pytest.approx(1.0), REST: pytest.approx(801 * 0.02)}
    series.settle(10.0)
    assert _times(series)[REST] == pytest.approx(20.0)


def test_tiny_ones_never_get_a_series() -> None:
    series = ThreadSeries()
    now = 0.0
    for _ in range(2000):
        now += 6.0
        series.settle(now)
        for number in range(5):
            series.credit(_who(number), 0.004)
    series.settle(now + 6)
    assert _times(series) == {REST: pytest.approx(2000 * 5 * 0.004)}


def test_a_little_one_gets_one_once_it_is_worth_it() -> None:
    """All that it had held by then is its own, but for what had gone to the rest."""
    series = ThreadSeries()
    series.credit(_who(1), 0.06)
    assert series.times() == ()
    series.credit(_who(1), 0.06)
    assert _times(series) == {_who(1): pytest.approx(0.12)}


def test_the_longest_first_and_the_rest_last() -> None:
    series = ThreadSeries()
    series.credit(_who(1), 1.0)
    series.credit(_who(2), 2.0)
    series.credit(_who(3), 0.01)
    series.settle(10.0)
    assert [one.function for one in series.times()] == ["app.f2", "app.f1", OTHER]


def test_what_is_nobodys_goes_to_the_rest() -> None:
    series = ThreadSeries()
    series.credit_rest(0.5)
    series.credit(_who(1), 1.0)
    series.credit_rest(0.25)
    assert _times(series) == {_who(1): 1.0, REST: 0.75}


def test_the_rest_has_no_function_where_nobody_has() -> None:
    series = ThreadSeries((ThreadTime("MainThread", "", 5.0), ThreadTime(OTHER, "", 1.0)), functions=False)
    series.credit(("MainThread", ""), 1.0)
    series.credit_rest(2.0)
    assert _times(series) == {("MainThread", ""): 6.0, (OTHER, ""): 3.0}


def test_goes_on_from_a_parent() -> None:
    since = (ThreadTime(*_who(1), 5.0), ThreadTime(*_who(2), 3.0), ThreadTime(*REST, 1.0))
    series = ThreadSeries(since)
    assert series.times() == since
    series.credit(_who(2), 4.0)
    series.credit(_who(3), 0.01)
    series.settle(10.0)
    assert _times(series) == {_who(1): 5.0, _who(2): 7.0, REST: pytest.approx(1.01)}
