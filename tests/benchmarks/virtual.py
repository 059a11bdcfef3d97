"""Workloads of the bench, and estimators that are wrong, in virtual time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path
from random import Random

from simulation import HotLoop, Trace

from benchmarks.contestants import INTERVALS, OURS
from benchmarks.workloads import CYCLES
from otel_gil._records.record import ROW, ROWS, STATE, State

HOT = "pure-Python hot loop"

Estimator = Callable[[Trace, float, Random], float]
"""The contention that is read for a trace from 0 to a number of seconds."""


def trace_of(workload: str, seconds: float, seed: int) -> Trace:
    """What the player of that name does in virtual time."""
    if workload == HOT:
        return HotLoop(0, 2 * seconds)
    if workload == "idle":
        return Trace([])
    elapsed = 0.0

    def goes_on(pair: tuple[float, float]) -> bool:
        nonlocal elapsed
        elapsed += sum(pair)
        return elapsed < 2 * seconds + 10

    return Trace(takewhile(goes_on, CYCLES[workload](Random(seed))))


Holder = Callable[[float], tuple[int, ...]]
"""Who has the GIL at a moment, by numbers from 1, and then who waits; empty while it is free."""

WINDOW = 10.0

_SUMS = Path(__file__).parents[2] / "src/otel_gil/_native/sums.c"
_AGREEING, _SLOW = map(int, re.findall(r"\b(?:AGREEING|SLOW) = (\d+)", _SUMS.read_text()))
_SUMMED = int(re.findall(r"\bSUMMED = (\d+)", _SUMS.with_name("recorder.h").read_text())[0])


def recorded(holder: Holder, seconds: float, random: Random, interval: float = INTERVALS[OURS]) -> State:
    """What the recorder says of a GIL whose holder at each moment is known, and in `rows_of` of whom."""
    return State._make(STATE.unpack_from(_looked(holder, seconds, random, interval)))


def rows_of(holder: Holder, seconds: float, random: Random) -> tuple[dict[int, float], dict[int, float]]:
    """Seconds that each has had the GIL, and has waited, as the recorder says."""
    data = _looked(holder, seconds, random, INTERVALS[OURS])
    state = State._make(STATE.unpack_from(data))
    rows = list(ROW.iter_unpack(data[ROWS:]))
    held, waited = rows[: state.held_rows], rows[state.held_rows :]
    assert len(waited) == state.wait_rows
    return {row[1]: row[6] for row in held}, {row[1]: row[6] for row in waited}


def _looked(holder: Holder, seconds: float, random: Random, interval: float) -> bytes:
    from otel_gil import _recorder

    looks: list[tuple[object, ...]] = []
    last: tuple[object, ...] = ()
    pace = agreeing = 1
    due = 0.0
    while due < seconds:
        now = due + random.uniform(30e-6, 150e-6)
        who, *others = holder(now) or (0,)
        drawn_from, seen = pace, (bool(who), bool(others), who)
        agreeing = agreeing + 1 if seen == last else 1
        last = seen
        pace = _SLOW if agreeing >= _AGREEING else 1
        summed = 1 if pace > 1 else _SUMMED
        due = now + pace * interval * random.gammavariate(summed, 1 / summed)
        waiters = [(other, 1, 0) for other in others]
        looks.append((now, drawn_from, bool(who), len(others), who, 1, 0, due + 0.25, waiters or None))
    return _recorder.look(looks, WINDOW)


def recorder(trace: Trace, seconds: float, random: Random) -> float:
    """The contention that the recorder reads."""
    state = recorded(lambda now: (1,) if trace.granted(now) > now else (), seconds, random)
    return state.blocked / (state.blocked + state.free)


def _probe(draw: Callable[[Random], float], *, credit: bool = True) -> Estimator:
    """Sleeps that begin when the GIL is granted, and a blocked one is worth its length, and the wait if credited."""

    def estimate(trace: Trace, seconds: float, random: Random) -> float:
        now = blocked = total = 0.0
        while now < seconds:
            sleep = draw(random)
            asked = now + sleep + random.uniform(30e-6, 150e-6)
            now = trace.granted(asked)
            worth = sleep + (now - asked if credit else 0.0)
            total += worth
            blocked += worth if now > asked else 0.0
        return blocked / total

    return estimate


def _rounds(trace: Trace, seconds: float, random: Random) -> Iterator[tuple[float, float, float]]:
    """gilknocker's, of 10 ms in 210 ms: the end, the time waited, and the length, which a hold makes longer."""
    now = random.uniform(0, 0.2)
    while now < seconds:
        begin, waited = now, 0.0
        while now - begin < 0.01:
            granted = trace.granted(now)
            waited += granted - now
            now = granted + 0.001 + random.uniform(30e-6, 150e-6)
        yield now, waited, now - begin
        now += 0.2


def _metric(rounds: list[tuple[float, float, float]]) -> float:
    return sum(waited for _, waited, _ in rounds) / sum(length for *_, length in rounds) if rounds else 0.0


def gilknocker(trace: Trace, seconds: float, random: Random) -> float:
    return _metric(list(takewhile(lambda one: one[0] <= seconds, _rounds(trace, seconds, random))))


def dask(trace: Trace, seconds: float, random: Random) -> float:
    """Every 500 ms the metric of the rounds that have ended is weighed by the time since, and reset."""
    rounds = list(_rounds(trace, seconds, random))
    last = total = 0.0
    while last < seconds:
        now = min(trace.granted(last + 0.5), seconds)
        total += (now - last) * _metric([one for one in rounds if last < one[0] <= now])
        last = now
    return total / seconds


NAIVE: dict[str, Estimator] = {
    "sleeps of one length": _probe(lambda _: 0.02),
    "sleeps of uniform length": _probe(lambda random: random.uniform(0, 0.04)),
    "waits that are not credited": _probe(lambda random: random.expovariate(50), credit=False),
    "gilknocker's rounds": gilknocker,
    "Dask's weighing of them": dask,
}
