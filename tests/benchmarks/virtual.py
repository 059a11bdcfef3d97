"""Workloads of the bench, and estimators that are wrong, in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import takewhile
from random import Random

from simulation import HotLoop, Trace

from benchmarks.contestants import INTERVAL
from benchmarks.workloads import CYCLES
from otel_gil._samplers import estimator
from otel_gil._observer.tally import Seen, Tally
from otel_gil._snapshot import Snapshot

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


def observed(holder: Callable[[float], Seen | None], seconds: float, random: Random, interval: float) -> Snapshot:
    """What the observer says of a GIL whose holder at each moment is known. Threads are called by their numbers."""
    tally = Tally(0.0, 10.0)
    tally.name({n: str(n) for n in range(10)})
    now = 0.0
    units: list[float] = []
    while now < seconds:
        units = units or estimator.intervals(random)
        pace = tally.pace
        sleep = int(pace * interval * units.pop() * 1e3 + random.random()) / 1e3
        now += sleep + random.uniform(30e-6, 150e-6)
        tally.look(now, sleep, pace, holder(now), 0)
    snapshot = tally.snapshot(0, 0, 0, None)
    assert snapshot
    return snapshot


def observer(trace: Trace, seconds: float, random: Random) -> float:
    """The contention that the observer reads."""
    snapshot = observed(lambda now: (1, "f") if trace.granted(now) > now else None, seconds, random, INTERVAL)
    return snapshot.blocked / (snapshot.blocked + snapshot.free)


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
