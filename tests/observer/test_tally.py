"""The arithmetic of the observer's looks, in virtual time."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import accumulate
from random import Random
from statistics import fmean, stdev
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_gil._samplers import estimator
from otel_gil._records.names import UNKNOWN
from otel_gil._observer.tally import NOBODY, Tally
from otel_gil._snapshot import Held, Snapshot

INTERVAL = 0.02
WINDOW = 10.0
SECONDS = 10.0

NAMES = {1: "MainThread", 2: "worker", 3: "reader"}

Part = tuple[float, tuple[int, str] | None, int]
"""For how many seconds, who holds the GIL, how many wait for it."""

A = (1, "app.work")
B = (2, "app.parse")
C = (2, "app.render")


class Timeline:
    """What happens to the GIL, over and over again."""

    def __init__(self, *parts: Part, begin: float = 0.0) -> None:
        self._parts = parts
        self._ends = list(accumulate(seconds for seconds, _, _ in parts))
        self._begin = begin * self._ends[-1]

    def at(self, now: float) -> Part:
        return self._parts[bisect_right(self._ends, (now + self._begin) % self._ends[-1]) % len(self._parts)]

    def mean(self, value: int) -> float:
        """Of the share of time in which it is held (1), or of the number that wait (2)."""
        return sum(part[0] * (part[2] if value == 2 else part[1] is not None) for part in self._parts) / self._ends[-1]


@dataclass
class Looking:
    """Looks in virtual time, as `watch.Observer.run` does it: sleeps are whole milliseconds, and chance rounds them."""

    timeline: Timeline
    seed: int = 0
    interval: float = INTERVAL
    since: Snapshot | None = None
    paces: list[int] = field(default_factory=list)

    def run(self, seconds: float) -> Snapshot:
        random = Random(self.seed)
        self.tally = tally = Tally(0.0, WINDOW, self.since)
        tally.name(NAMES)
        units = [0.0]
        now = 0.0
        while True:
            units = units or estimator.intervals(random)
            pace = tally.pace
            sleep = int(pace * self.interval * units.pop() * 1e3 + random.random()) / 1e3
            now += sleep + random.uniform(30e-6, 150e-6)
            if now > seconds:
                break
            _, holder, waiting = self.timeline.at(now)
            tally.look(now, sleep, pace, holder, waiting)
            self.paces.append(pace)
        tally.advance(seconds)
        return _known(tally, waiting)


def _known(tally: Tally, waiting: int | None = 0) -> Snapshot:
    snapshot = tally.snapshot(0, waiting, 0, None)
    assert snapshot is not None
    return snapshot


def _held(snapshot: Snapshot) -> dict[tuple[str, str], float]:
    held = {(one.thread, one.function): one.seconds for one in snapshot.held}
    assert len(held) == len(snapshot.held)
    return held


def _share(snapshot: Snapshot) -> float:
    return snapshot.blocked / (snapshot.blocked + snapshot.free)


@pytest.mark.parametrize("interval", [0.001, 0.02, 1.0])
def test_always_and_never_are_exact(interval: float) -> None:
    always = Looking(Timeline((1.0, A, 2)), interval=interval).run(30.0)
    assert always.free == 0
    assert always.contention == 1
    assert always.blocked == pytest.approx(30.0, abs=9 * interval + 0.01)
    assert always.wait_time == pytest.approx(2 * always.blocked)
    assert _held(always) == {("MainThread", "app.work"): pytest.approx(always.blocked)}
    never = Looking(Timeline((1.0, None, 0)), interval=interval).run(30.0)
    assert never.blocked == never.contention == never.wait_time == 0
    assert never.free == pytest.approx(30.0, abs=9 * interval + 0.01)
    assert never.held == ()


TIMELINES: dict[str, tuple[Part, ...]] = {
    "10 ms of 20 ms": ((0.01, None, 0), (0.01, A, 1)),
    "1 s of 2 s": ((1.0, None, 0), (1.0, A, 1)),
    "1 ms of 10 ms": ((0.009, None, 0), (0.001, A, 1)),
    "several that wait": ((0.0037, None, 0), (0.002, A, 4), (0.003, B, 1), (0.0013, C, 0)),
    "4 s of 6 s": ((2.0, None, 0), (4.0, A, 2)),  # changes the pace
    "50 ms of 5 s": ((4.95, None, 0), (0.05, A, 1)),  # is nearly always seen at the slower one
}


@pytest.mark.parametrize("name", TIMELINES)
def test_unbiased(name: str) -> None:
    """The mean of many observers is the truth, for the time blocked as for the time waited.

    Within three standard errors. Also where the pace changes with what is seen.
    """
    parts = TIMELINES[name]
    changing = sum(seconds for seconds, _, _ in parts) > 3
    random = Random(1)
    blocked = []
    waited = []
    paces = set()
    for seed in range(150):
        looking = Looking(Timeline(*parts, begin=random.random()), seed=seed)
        snapshot = looking.run(6 * SECONDS if changing else SECONDS)
        observed = snapshot.blocked + snapshot.free
        blocked.append(snapshot.blocked / observed)
        waited.append((snapshot.wait_time or 0.0) / observed)
        paces |= set(looking.paces)
    for found, value in (blocked, 1), (waited, 2):
        assert abs(fmean(found) - Timeline(*parts).mean(value)) < 3 * stdev(found) / math.sqrt(len(found))
    assert not changing or paces == {1, 3}


@pytest.mark.parametrize("name", ["10 ms of 20 ms", "1 ms of 10 ms"])
def test_error_is_that_of_independent_looks(name: str) -> None:
    parts = TIMELINES[name]
    truth = Timeline(*parts).mean(1)
    random = Random(2)
    errors = [_share(Looking(Timeline(*parts, begin=random.random()), seed=k).run(SECONDS)) - truth for k in range(150)]
    expected = math.sqrt(truth * (1 - truth) * INTERVAL / SECONDS)
    assert math.sqrt(fmean(error**2 for error in errors)) == pytest.approx(expected, rel=0.3)


def test_looks_of_one_length_are_caught() -> None:
    """What the tests above would say of an observer without chance in its sleeps."""
    timeline = Timeline(*TIMELINES["10 ms of 20 ms"])
    tally = Tally(0.0, WINDOW)
    for k in range(1, 500):
        tally.look(0.02 * k + 0.005, 0.02, 1, timeline.at(0.02 * k + 0.005)[1], 0)
    assert abs(_share(_known(tally)) - 0.5) > 0.4


@pytest.mark.parametrize("seed", range(5))
def test_attribution_of_a_mix(seed: int) -> None:
    snapshot = Looking(Timeline((0.0076, A, 0), (0.0011, B, 0), (0.0013, C, 0)), seed=seed).run(30.0)
    held = {holder: seconds / snapshot.blocked for holder, seconds in _held(snapshot).items()}
    assert held["MainThread", "app.work"] == pytest.approx(0.76, abs=0.05)
    assert held["worker", "app.parse"] == pytest.approx(0.11, abs=0.05)
    assert held["worker", "app.render"] == pytest.approx(0.13, abs=0.05)


@pytest.mark.parametrize(("holder", "end"), [(None, 0.0), (A, 1.0)])
def test_slower_after_64_looks_that_agree(holder: tuple[int, str] | None, end: float) -> None:
    tally = Tally(0.0, WINDOW)
    for k in range(1, 64):
        tally.look(0.02 * k, 0.02, 1, holder, 0)
        assert tally.pace == 1
    tally.look(1.28, 0.02, 1, holder, 0)
    assert tally.pace == 3
    tally.look(1.34, 0.06, 3, holder, 0)
    assert tally.pace == 3
    tally.look(1.40, 0.06, 3, holder, 1)
    assert tally.pace == 1, "somebody waits"
    tally.look(1.42, 0.02, 1, B, 1)
    assert tally.pace == 1, "another holder"
    assert _share(_known(tally)) == pytest.approx(end, abs=0.02)


LOOKS = st.tuples(
    st.just("look"),
    st.floats(0.0, 0.5),  # the sleep
    st.one_of(st.floats(0.0, 0.01), st.floats(0.0, 600.0)),  # how late
    st.sampled_from([None, A, B, C, (3, "app.other"), (4, "app.other"), (5, "")]),
    st.one_of(st.none(), st.integers(0, 5)),
)
ADVANCES = st.tuples(st.just("advance"), st.floats(0.0, 1.0))
NAMINGS = st.tuples(
    st.just("name"), st.dictionaries(st.integers(1, 5), st.sampled_from(["MainThread", "worker", "x"]), max_size=5)
)


@given(st.lists(st.one_of(LOOKS, LOOKS, LOOKS, ADVANCES, NAMINGS), max_size=100))
@settings(deadline=None, max_examples=200)
def test_snapshots_never_contradict_each_other(actions: list[tuple[Any, ...]]) -> None:
    """Every number only grows, and they add up, whatever happens."""
    tally = Tally(0.0, 2.0)
    now = 0.0
    before = Snapshot(0.0, 0.0, 0.0)
    for kind, *details in actions:
        if kind == "look":
            sleep, late, holder, waiting = details
            now += sleep + late
            tally.look(now, sleep, tally.pace, holder, waiting)
        elif kind == "advance":
            now += details[0]
            tally.advance(now)
        else:
            tally.name(details[0])
        after = tally.snapshot(0, 0, 0, None)
        if after is None:
            continue
        assert 0 <= after.contention <= 1
        assert after.blocked >= before.blocked
        assert after.free >= before.free
        assert (after.wait_time or 0.0) >= (before.wait_time or 0.0)
        assert after.blocked + after.free <= now + 1e-9
        seconds = _held(after)
        assert all(seconds[holder] >= earlier for holder, earlier in _held(before).items())
        assert sum(seconds.values()) <= after.blocked + 1e-9
        before = after
    tally.name(dict.fromkeys(range(1, 6), "MainThread"))
    tally.look(now, 0.0, tally.pace, A, 0)
    tally.look(now + 6, 6.0, tally.pace, A, 0)  # what held it little is the rest's by then
    after = _known(tally)
    assert sum(_held(after).values()) == pytest.approx(after.blocked, rel=1e-4)


def test_time_between_two_looks_does_not_depend_on_who_reads() -> None:
    """Also where the looks are so far apart that nothing is said of the later part of a sleep before its end."""
    asked, unasked = Tally(0.0, WINDOW), Tally(0.0, WINDOW)
    for k in range(1, 21):
        for tally in asked, unasked:
            tally.look(3.0 * k, 3.0, 3, A if k % 3 else None, 1)
        for moment in (0.1, 0.2, 1.0, 2.9) if k < 20 else ():
            asked.advance(3.0 * k + moment)
    for read, unread in zip(_known(asked)[1:5], _known(unasked)[1:5], strict=True):
        assert read == pytest.approx(unread)
    assert sum(_known(unasked)[1:3]) == pytest.approx(57.0)


@pytest.mark.parametrize("reads", [(), (10.0, 200.0, 300.0)])
def test_a_stopped_process_is_not_a_blocked_one(reads: tuple[float, ...]) -> None:
    """A look that comes minutes late adds its sleep and what a busy machine may take, whoever reads meanwhile."""
    tally = Tally(0.0, WINDOW)
    tally.look(0.02, 0.02, 1, A, 3)
    for now in reads:
        tally.advance(now)
        assert _known(tally).blocked <= 0.25
    tally.look(300.02, 0.04, 1, A, 3)
    stopped = _known(tally)
    assert stopped.blocked == pytest.approx(0.04 + 0.25)
    assert stopped.wait_time == pytest.approx(3 * stopped.blocked)
    tally.advance(300.04)
    tally.look(300.06, 0.04, 1, A, 3)
    assert _known(tally).blocked == pytest.approx(stopped.blocked + 0.04)


def test_goes_on_from_a_parent() -> None:
    held = (Held("MainThread", "app.work", 4.0), Held("_other", "_other", 1.0))
    since = Snapshot(0.5, 5.0, 7.0, 1, 2.0, 100, 1, None, held)
    tally = Tally(0.0, WINDOW, since)
    assert tally.snapshot(0, 0, 0, None) is None, "of the last window nothing is known yet"
    snapshot = Looking(Timeline((1.0, A, 1)), since=since).run(3.0)
    assert (snapshot.contention, snapshot.free) == (1.0, 7.0)
    assert snapshot.blocked == pytest.approx(8.0, abs=0.1)
    assert snapshot.wait_time == pytest.approx(5.0, abs=0.1)
    assert _held(snapshot) == {("MainThread", "app.work"): pytest.approx(7.0, abs=0.1), ("_other", "_other"): 1.0}


def test_contention_is_that_of_the_last_window() -> None:
    tally = Tally(0.0, WINDOW)
    for k in range(1, 2000):
        now = 0.02 * k
        tally.look(now, 0.02, tally.pace, A if 20 < now < 24 else None, 0)
        if k % 50 == 0:
            expected = min(max(now - 20, 0), 4, max(34 - now, 0)) / min(now, WINDOW)
            assert _known(tally).contention == pytest.approx(expected, abs=0.02)


def test_history_and_weights_stay_small() -> None:
    """A look must cost the same after a month as after a minute."""
    tally = Tally(0.0, WINDOW)
    for k in range(1, 20_000):
        tally.look(0.1 * k, 0.1, 1, (k % 1000, str(k)), 0)
        if k % 10 == 0:
            tally.name({1: "MainThread"})
    assert len(tally._history) < 100
    assert len(tally._weights) < 100
    assert len(tally._unnamed) < 100
    assert len(tally._names) < 100


def test_holders_are_credited_when_their_names_come() -> None:
    tally = Tally(0.0, WINDOW)
    for k in range(1, 51):
        tally.look(0.02 * k, 0.02, 1, A, 0)
    assert tally.thread(1) is None
    assert _known(tally).held == ()
    tally.name({2: "worker"})
    assert _known(tally).held == (), "its name can still come"
    tally.name(NAMES)
    assert tally.thread(1) == "MainThread"
    assert _held(_known(tally)) == {("MainThread", "app.work"): pytest.approx(0.98)}


def test_threads_that_have_ended() -> None:
    """One whose name was known is called so to the end. Who ended before it was named is credited all the same."""
    tally = Tally(0.0, WINDOW)
    tally.name(NAMES)
    for k in range(1, 51):
        tally.look(0.02 * k, 0.02, 1, A, 0)
    for k in range(51, 101):
        tally.look(0.02 * k, 0.02, 1, (9, "app.work"), 0)
        tally.name({2: "worker"})
    tally.name({2: "worker"})
    for k in range(101, 151):
        tally.look(0.02 * k, 0.02, 1, B, 0)
    tally.name({2: "worker"})
    held = _held(_known(tally))
    assert held == {
        ("MainThread", "app.work"): pytest.approx(1.04, abs=0.005),
        (UNKNOWN, "app.work"): pytest.approx(1.0, abs=0.005),
        ("worker", "app.parse"): pytest.approx(0.94, abs=0.005),
    }
    assert sum(held.values()) == pytest.approx(_known(tally).blocked, rel=1e-4)
    assert tally.thread(1) is None, "it is no thread any more"


def test_holders_that_nobody_asked_for() -> None:
    tally = Tally(0.0, WINDOW)
    for k in range(1, 51):
        tally.look(0.02 * k, 0.02, 1, NOBODY, None)
    snapshot = _known(tally, None)
    assert snapshot.blocked == pytest.approx(0.98)
    assert snapshot.held == ()
    assert snapshot.waiting is snapshot.wait_time is None
