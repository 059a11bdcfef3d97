"""Holders of the GIL in a bounded number of series."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_gil._records.holders import MOST, OTHER, Holder, Holders
from otel_gil._snapshot import Held

REST = (OTHER, OTHER)

NUMBERS = st.integers(0, 400) | st.integers(0, 30)
CREDITS = st.tuples(NUMBERS, st.one_of(st.floats(0, 0.03), st.floats(0.05, 10)))
PAUSES = st.tuples(st.none(), st.one_of(st.floats(0, 6), st.floats(0, 600)))


def _holder(number: int) -> Holder:
    return "MainThread", f"app.f{number}"


def _series(holders: Holders) -> dict[Holder, float]:
    held = holders.held()
    series = {(one.thread, one.function): one.seconds for one in held}
    assert len(series) == len(held)
    return series


@given(st.lists(st.one_of(CREDITS, CREDITS, CREDITS, PAUSES), max_size=300))
@settings(deadline=None)
def test_bounded_and_never_decreasing(steps: list[tuple[int | None, float]]) -> None:
    """A few series at once, each of which goes on from where it was, and no second is lost or made up."""
    holders = Holders()
    now = credited = 0.0
    last: dict[Holder, float] = defaultdict(float)
    for number, seconds in [*steps, (None, 600.0)]:
        if number is None:
            now += seconds
            holders.settle(now)
        else:
            credited += seconds
            holders.credit(_holder(number), seconds)
        series = _series(holders)
        assert len(series.keys() - {REST}) <= MOST
        assert all(seconds >= last[holder] for holder, seconds in series.items())
        last.update(series)
        assert sum(last.values()) <= credited + 1e-9
    assert sum(last.values()) == pytest.approx(credited)
    assert len(last.keys() - {REST}) <= 10 * MOST


def test_many_in_turn() -> None:
    """A process that does something else every ten minutes, for weeks."""
    holders = Holders()
    last: dict[Holder, float] = defaultdict(float)
    now = credited = 0.0
    for number in range(1000):
        for _ in range(60):
            holders.credit(_holder(number), 5.0)
            credited += 5.0
            now += 10.0
            holders.settle(now)
        series = _series(holders)
        assert all(seconds >= last[holder] for holder, seconds in series.items())
        last.update(series)
        assert (_holder(number) in series) == (number < 10 * MOST)
    assert len(last) == 10 * MOST + 1
    assert sum(last.values()) == pytest.approx(credited)


def test_a_series_that_comes_back_goes_on() -> None:
    holders = Holders()
    now = 0.0

    def busy(*numbers: int) -> None:
        nonlocal now
        for _ in range(100):
            for number in numbers:
                holders.credit(_holder(number), 1.0)
            now += 6.0
            holders.settle(now)

    busy(0)
    assert _series(holders) == {_holder(0): pytest.approx(100)}
    busy(*range(1, MOST + 1))
    assert _holder(0) not in _series(holders)
    rest = _series(holders)[REST]
    busy(0)
    series = _series(holders)
    assert series[_holder(0)] > 150
    assert series[_holder(0)] + series[REST] - rest == pytest.approx(200)


def test_a_busy_newcomer_displaces_what_was_busy_at_startup() -> None:
    holders = Holders()
    for number in range(MOST):
        holders.credit(_holder(number), 2.0)
    now = 0.0
    for _ in range(60):
        now += 6.0
        holders.settle(now)
        holders.credit(_holder(99), 0.6)
    series = _series(holders)
    assert series[_holder(99)] + series[REST] == pytest.approx(60 * 0.6)
    assert series[_holder(99)] > 30
    assert len(series) == MOST + 1


def test_a_newcomer_is_seen_among_many_that_were_there_once() -> None:
    """An import runs hundreds of functions for a moment each."""
    holders = Holders()
    for number in range(1000):
        holders.credit(_holder(number), 0.02)
    for _ in range(100):
        holders.credit(_holder(2000), 0.01)
    assert _series(holders) == {_holder(2000): pytest.approx(1.0), REST: pytest.approx(801 * 0.02)}
    holders.settle(10.0)
    assert _series(holders)[REST] == pytest.approx(20.0)


def test_tiny_ones_never_get_a_series() -> None:
    holders = Holders()
    now = 0.0
    for _ in range(2000):
        now += 6.0
        holders.settle(now)
        for number in range(5):
            holders.credit(_holder(number), 0.004)
    holders.settle(now + 6)
    assert _series(holders) == {REST: pytest.approx(2000 * 5 * 0.004)}


def test_a_little_one_gets_one_once_it_is_worth_it() -> None:
    """All that it had held by then is its own, but for what had gone to the rest."""
    holders = Holders()
    holders.credit(_holder(1), 0.06)
    assert holders.held() == ()
    holders.credit(_holder(1), 0.06)
    assert _series(holders) == {_holder(1): pytest.approx(0.12)}


def test_the_longest_first_and_the_rest_last() -> None:
    holders = Holders()
    holders.credit(_holder(1), 1.0)
    holders.credit(_holder(2), 2.0)
    holders.credit(_holder(3), 0.01)
    holders.settle(10.0)
    assert [one.function for one in holders.held()] == ["app.f2", "app.f1", OTHER]


def test_goes_on_from_a_parent() -> None:
    since = (Held(*_holder(1), 5.0), Held(*_holder(2), 3.0), Held(*REST, 1.0))
    holders = Holders(since)
    assert holders.held() == since
    holders.credit(_holder(2), 4.0)
    holders.credit(_holder(3), 0.01)
    holders.settle(10.0)
    assert _series(holders) == {_holder(1): 5.0, _holder(2): 7.0, REST: pytest.approx(1.01)}
