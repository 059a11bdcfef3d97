"""The arithmetic of the Poisson probe, in virtual time."""

from __future__ import annotations

import math
from random import Random
from statistics import fmean, stdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulation import SWITCH_INTERVAL, HotLoop, Simulation, Trace, repeated

from otel_gil._samplers import estimator


def _exponential(mean_gap: float, mean_hold: float, seconds: float, random: Random) -> Trace:
    n = int(2 * seconds / (mean_gap + mean_hold))
    return Trace([(random.expovariate(1 / mean_gap), random.expovariate(1 / mean_hold)) for _ in range(n)])


def _log_normal(gap: float, hold: float, seconds: float, random: Random) -> Trace:
    n = int(2 * seconds / (gap + hold))
    return Trace(
        [(random.lognormvariate(math.log(gap), 1), random.lognormvariate(math.log(hold), 1)) for _ in range(n)]
    )


SECONDS = 60.0

TRACES = {
    "alternating 1 s": repeated(1, 1, SECONDS),
    "alternating 10 ms": repeated(0.01, 0.01, SECONDS),
    "alternating 1 ms": repeated(0.001, 0.001, SECONDS),
    "1 ms of 10 ms": repeated(0.009, 0.001, SECONDS),
    "0.1 ms of 10 ms": repeated(0.0099, 0.0001, SECONDS),
    "0.05 ms of 0.5 ms": repeated(0.00045, 0.00005, SECONDS),
    "1 s, gap 50 ms": repeated(0.05, 1, SECONDS),
    "4 s, gap 50 ms": repeated(0.05, 4, SECONDS),
    "periodic at the sampling interval": repeated(0.01, 0.01, SECONDS),
    "periodic just above it": repeated(0.015, 0.0051, SECONDS),
    "exponential": _exponential(0.02, 0.01, SECONDS, Random(1)),
    "log-normal": _log_normal(0.005, 0.02, SECONDS, Random(2)),
    "1 ms of 50 ms": repeated(0.049, 0.001, SECONDS),
    "95 ms of 100 ms": repeated(0.005, 0.095, SECONDS),
    "bursts": Trace(([(1.0, 0.005)] + [(0.005, 0.005)] * 100) * 30),
    "one 15 s hold": Trace([(20.0, 15.0)]),
}


@pytest.mark.parametrize("name", TRACES)
def test_unbiased(name: str) -> None:
    """Over many probes the mean is the truth within four standard errors, each probe within five deviations.

    Also where the pace changes with what is seen. The thread's wake-up, in which it can't ask, may add .003.
    """
    trace = TRACES[name]
    errors = []
    truth = 0.0
    for seed in range(40):
        simulation = Simulation(trace, seed=seed)
        reading = simulation.run(SECONDS)
        truth = trace.held(simulation.observed_from, SECONDS) / (SECONDS - simulation.observed_from)
        errors.append(reading.blocked / (reading.blocked + reading.free) - truth)
    assert abs(fmean(errors)) < 4 * stdev(errors) / math.sqrt(len(errors)) + 0.003
    assert max(map(abs, errors)) < 5 * math.sqrt(truth * (1 - truth) * 0.06 / SECONDS)


@pytest.mark.parametrize("interval", [0.001, 0.02, 1.0])
def test_always_and_never_are_exact(interval: float) -> None:
    always = Simulation(HotLoop(0, 1000), interval=interval).run(100.0)
    assert always.free == 0
    assert always.contention == 1
    assert always.blocked == pytest.approx(100.0, abs=5 * interval + 0.1)
    never = Simulation(Trace([]), interval=interval).run(100.0)
    assert never.blocked == 0
    assert never.contention == 0
    assert never.free == pytest.approx(100.0, abs=8 * interval)


@pytest.mark.parametrize(
    ("trace", "low", "high"),
    [(Trace([]), 15, 19), (HotLoop(0, SECONDS), 14, 18), (TRACES["alternating 10 ms"], 40, 46)],
)
def test_slower_where_all_arrivals_agree(trace: Trace, low: float, high: float) -> None:
    """Arrivals in a second; a wait is no sleep."""
    simulation = Simulation(trace)
    simulation.run(SECONDS)
    assert low < len(simulation.waits) / SECONDS < high


def test_follows_a_change_of_workload() -> None:
    """A hot loop of 3 s, seen from its beginning to its end."""
    shares = []
    for seed in range(40):
        simulation = Simulation(HotLoop(10, 13), seed=seed, moments=[10.0, 13.0])
        simulation.run(20.0)
        (_, before), (_, after), _ = simulation.readings
        shares.append((after.blocked - before.blocked) / 3)
    assert fmean(shares) > 0.975


def test_naive_estimators_are_caught() -> None:
    """What the tests above would say of sleeps of one length, and of a wait that is not credited."""
    trace = repeated(0.01, 0.01, SECONDS)
    now = blocked = 0.0
    while now < SECONDS:
        asked = now + 0.02
        now = trace.granted(asked)
        blocked += 0.02 * (now > asked) + now - asked
    assert abs(blocked / now - 0.5) > 0.1
    errors = []
    for seed in range(40):
        simulation = Simulation(TRACES["1 s, gap 50 ms"], seed=seed)
        simulation.run(SECONDS)
        errors.append(fmean(wait > 0 for wait in simulation.waits) - 1 / 1.05)
    assert abs(fmean(errors)) > 0.1


@pytest.mark.parametrize("kernel", [True, False])
@given(
    holds=st.lists(st.tuples(st.floats(1e-4, 2), st.floats(1e-4, 4)), min_size=1, max_size=30),
    moments=st.lists(st.floats(0, 30), max_size=60),
    interval=st.floats(0.001, 0.5),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=30)
def test_readings_never_contradict_each_other(
    kernel: bool, holds: list[tuple[float, float]], moments: list[float], interval: float, seed: int
) -> None:
    """In [0, 1], monotonic, and blocked + free is the time observed, whenever one looks."""
    simulation = Simulation(Trace(holds), interval=interval, window=2.0, seed=seed, moments=moments, kernel=kernel)
    simulation.run(30.0)
    blocked = free = 0.0
    for moment, reading in simulation.readings:
        assert 0 <= reading.contention <= 1
        assert reading.blocked >= blocked
        assert reading.free >= free
        blocked, free = reading.blocked, reading.free
        observed = moment - simulation.observed_from
        if kernel:
            # The first wait is observed from its start, and a wake-up under way is not, until it is over.
            assert blocked + free <= moment + 1e-9
            assert blocked + free >= observed - 0.001
        else:
            assert blocked + free <= moment + 1e-9


def test_hold_is_in_the_first_reading_after_it() -> None:
    """And while it lasts; the contention is that of the last window, not of the time since the last arrival."""
    moments = [19.9, 20.0 + 8, 35.0 - 1e-6]
    simulation = Simulation(Trace([(20.0, 15.0)]), moments=moments)
    simulation.run(60.0)
    (_, before), (_, amid), (_, after), _ = simulation.readings
    assert before[:2] == (0, 0)
    assert before.free == pytest.approx(19.9, abs=0.2)
    assert amid.blocked == pytest.approx(8, abs=0.25)
    assert amid.contention == pytest.approx(0.8, abs=0.025)
    assert after.blocked == pytest.approx(15, abs=0.25)
    assert after.contention == 1


def test_contention_is_that_of_the_last_window() -> None:
    simulation = Simulation(Trace([(20.0, 4.0)]), moments=[26.0, 33.0, 34.5])
    simulation.run(40.0)
    contentions = [reading.contention for _, reading in simulation.readings[:3]]
    assert contentions == [pytest.approx(0.4, abs=0.03), pytest.approx(0.1, abs=0.03), pytest.approx(0, abs=0.01)]


def test_history_stays_short() -> None:
    """A reading must cost the same after a month as after a minute."""
    state = estimator.begin(0.0, 0)
    random = Random(3)
    now, switches = 0.0, 0
    for _ in range(2000):
        sleeps = [0.02 * unit for unit in estimator.intervals(random)]
        grants = []
        for sleep in sleeps:
            blocked = random.random() < 0.5
            now += sleep + 0.0001 + 0.1 * random.random() * blocked
            switches += 1 + 20 * blocked
            grants.append((now, switches))
        state, _ = estimator.fold(state, 1, sleeps, grants, 10.0)
    assert len(state.history) < 200


def test_without_the_kernel_a_late_probe_is_no_contention() -> None:
    """A wake-up is late on a machine whose cores are busy; without a second context switch it was not blocked."""
    state = estimator.begin(0.0, 0)
    state, waits = estimator.fold(state, 1, [0.01] * 100, [(0.5 * k, k) for k in range(1, 101)], 10.0)
    assert set(waits) == {0.0}
    assert state.blocked == 0
    assert state.latency <= 0.01
    reading = estimator.read(state, 0.01, state.now + 5, state.switches + 1, 10.0)
    assert reading is not None
    assert reading.blocked == 0


def test_a_stopped_process_is_not_a_blocked_one() -> None:
    """SIGSTOP adds a context switch and a minute; a wait of a minute would have added thousands."""
    assert estimator.blocked_for(60.0, 2) == pytest.approx(0.255)
    assert estimator.blocked_for(60.0, 2 + int(60 / SWITCH_INTERVAL)) == 60


@pytest.mark.parametrize(("overdue", "switches", "expected"), [(1.0, 1, None), (0.003, 2, 0.003), (-0.001, 2, 0.0)])
def test_blocked_for(overdue: float, switches: int, expected: float | None) -> None:
    assert estimator.blocked_for(overdue, switches) == expected


def test_intervals_are_exponential() -> None:
    random = Random(4)
    drawn = [sleep for _ in range(200) for sleep in estimator.intervals(random)]
    assert min(drawn) >= 0
    assert fmean(drawn) == pytest.approx(1, rel=0.02)
    for quantile in (0.1, 0.5, 0.9, 0.99):
        below = fmean(sleep < -math.log(1 - quantile) for sleep in drawn)
        assert below == pytest.approx(quantile, abs=0.01)


def test_corrected() -> None:
    assert list(estimator.corrected([0.0, 0.015, 0.05], 0.02)) == pytest.approx([0.0, 0.015, 0.05, 0.03, 0.01])
    assert list(estimator.corrected([0.04], 0.02)) == pytest.approx([0.04, 0.02])
    assert len(list(estimator.corrected([3600.0], 0.001))) == 1001


def test_recorded_is_one_arrival_in_three_intervals_at_any_pace() -> None:
    random = Random(5)
    assert list(estimator.recorded([0.0, 0.08], 3, 0.02, random)) == pytest.approx([0.0, 0.08, 0.02])
    found = {tuple(estimator.recorded([0.0, 0.75], 1, 0.25, random)) for _ in range(20)}
    assert found == {(0.0, 0.25), (0.75,), (0.5,)}


def test_recorded_waits_are_those_of_random_arrivals() -> None:
    """An hour of 1 s holds and 1 s gaps: half the arrivals wait, and those for a time uniform in [0, 1]."""
    simulation = Simulation(repeated(1, 1, 3600))
    simulation.run(3600.0)
    waits = sorted(simulation.recorded)
    assert len(waits) == pytest.approx(3600 / 0.06, rel=0.02)
    assert fmean(wait > 0.001 for wait in waits) == pytest.approx(0.5, abs=0.02)
    assert waits[int(0.75 * len(waits))] == pytest.approx(0.5, abs=0.05)
    assert fmean(wait > 0.001 for wait in simulation.waits) < 0.1  # without the correction


def test_a_hold_that_begins_in_the_bookkeeping() -> None:
    state, _ = estimator.fold(estimator.begin(0.0, 0), 1, [0.02], [(0.0201, 1)], 10.0)
    assert estimator.rest(state, 0.0204, 1).blocked == 0
    rested = estimator.rest(state, 3.0201, 600)
    assert rested.blocked == pytest.approx(3.0)
    assert rested.free == state.free


def test_a_wait_that_was_not_asked_for_is_found_at_the_next_asking() -> None:
    state, waits = estimator.fold(
        estimator.begin(0.0, 0), 1, [0.02] * 3, [(0.0201, 1), (0.0402, None), (0.0603, 4)], 10.0
    )
    assert waits == [0.0, 0.0, pytest.approx(0, abs=1e-4)]
    assert (state.run, state.switches, state.unasked) == (1, 4, 0)
    assert state.share == pytest.approx(1 / 3)
    assert estimator.calm(estimator.begin(0.0, 0), state) == 0


def test_calm_after_a_block_without_waits() -> None:
    before = estimator.begin(0.0, 0)
    state, _ = estimator.fold(before, 1, [0.02] * 2, [(0.0201, None), (0.0402, 2)], 10.0)
    assert estimator.calm(before, state) == pytest.approx(1.5 * state.latency)


def test_totals_go_on_from_those_of_a_parent() -> None:
    start = estimator.begin(0.0, 0, blocked=5.0, free=7.0)
    assert estimator.read(start, 0.02, 0.01, 1, 10.0) is None
    reading = Simulation(Trace([]), start=start).run(3.0)
    assert reading.blocked == 5
    assert reading.free == pytest.approx(10, abs=0.2)
    assert reading.contention == 0
