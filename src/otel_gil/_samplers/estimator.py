"""The arithmetic of the Poisson probe: pure functions over immutable values, with no clock of their own.

A probe thread sleeps for exponentially distributed times and asks for the GIL whenever it wakes. Such
arrivals see time averages (PASTA): the share of them that find the GIL taken is the share of time in which
it is taken, whatever the period of the workload. Between two grants of the GIL there are two kinds of time:

* the **wait**, from the end of the sleep to the grant, when the kernel says that the probe was blocked. It
  was watched from start to end, and all of it is blocked time.
* the **sleep**, which nobody watched. It is apportioned by the share of the arrivals before it that were blocked,
  of which the latest count most. Each arrival is worth the mean of the sleep that it ended, no more and no less,
  also where that mean changes with what was seen (see `MEMORY`): so the estimate is unbiased. Every sleep is
  apportioned the moment it begins, so that no reading is ever taken back.

Hence the totals only grow, blocked + free is the time observed, and always and never blocked read exactly 1
and 0. Times are seconds of a monotonic clock.
"""

from __future__ import annotations

import math
import sys
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from otel_gil._snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from random import Random

_QUANTILES = 64
"""Sleeps that are drawn together, one from each quantile. Fewer would follow each other too regularly: they bias the
readings of workloads with a rhythm, by .01 where there are 8."""

MEMORY = 3
"""Mean sleeps, at pace 1, over which the share of blocked arrivals forgets. A longer memory lags behind a workload
that changes (10: a hot loop of 3 s reads .95), none makes the credit of an arrival too random.

An arrival after a sleep of mean m moves the share by m/memory of the way to itself. Its weight in the share of each
later sleep, times the mean of that sleep, adds up to m, whatever means are chosen in the light of what was seen."""

AGREEING = 64
"""Arrivals in a row that must have seen the same for the slower pace: more than a second of always or never."""

SLOW = 3
"""Sampling intervals of a mean sleep at the slower pace; `MEMORY` at most."""

_LATEST = 0.01
"""Seconds to learn from one arrival at most: a very late one (a paused machine) says nothing of the usual."""

_LATENCY = 100e-6
"""Wake-up latency to begin with; the arrivals that were not blocked soon teach the real one."""

_SLOWEST_SWITCH = 0.25
"""A thread that waits for the GIL wakes every switch interval to ask for it. Where it woke so seldom that each
turn would have taken this much longer, the process was stopped (SIGSTOP, a frozen container), not blocked."""

_MOST_CORRECTIONS = 1000
"""Bound on the missing arrivals added for one wait: 20 s or more at the default interval."""


class State(NamedTuple):
    """All that the arrivals up to one grant of the GIL have taught.

    Attributes:
        now: the moment of the grant.
        switches: voluntary context switches of the probe thread up to the last grant for which they were asked.
        unasked: grants since.
        blocked, free: seconds, as in `Snapshot`.
        arrivals: how many there were.
        run: how many of the last ones were all blocked; negative where all were not.
        share: of the recent ones, how many were blocked, in [0, 1]; 0 while there are none.
        latency: usual seconds from the end of a sleep to the grant of a free GIL.
        history: points (blocked, free) from one window ago or before up to now.
    """

    now: float
    switches: int
    unasked: int
    blocked: float
    free: float
    arrivals: int
    run: int
    share: float
    latency: float
    history: tuple[tuple[float, float], ...]


def begin(now: float, switches: int, blocked: float = 0.0, free: float = 0.0) -> State:
    """The state of a probe that starts now, its totals going on from those of a parent process."""
    return State(now, switches, 0, blocked, free, 0, 0, 0.0, _LATENCY, ((blocked, free),))


def calm(before: State, after: State) -> float:
    """Seconds after the end of a sleep in which a grant needs no asking for context switches.

    Where no request of a whole block was blocked, an early one of the next is very likely not, and it is cheaper not to
    ask. What is missed is found out, and counted, at the next asking: the last grant of the block at the latest.
    """
    quiet = after.switches - before.switches == after.arrivals - before.arrivals
    return 1.5 * after.latency if quiet else 0.0


def pace(state: State) -> int:
    """How many sampling intervals the mean sleep of the next block lasts: 1 or 3.

    Where always or never blocked the sampling error is next to nothing, and fewer arrivals will do.
    """
    return SLOW if abs(state.run) >= AGREEING else 1


def intervals(random: Random) -> list[float]:
    """Some sleeps to come, in units of their mean: exponential, one from each quantile, in random order."""
    n = _QUANTILES
    drawn = [-math.log1p(-(k + random.random()) / n) for k in range(n)]
    drawn.sort(key=lambda _: random.random())
    return drawn


def blocked_for(overdue: float, switches: int) -> float | None:
    """Seconds that the probe has been blocked, or None where it has not been.

    The sleep itself is one voluntary context switch. A second means that the thread had to wait for the GIL; a
    preemption by the operating system, on a busy machine, is an involuntary one.

    Args:
        overdue: seconds since the sleep should have ended.
        switches: voluntary context switches since it began.
    """
    if switches <= 1:
        return None
    waited = max(overdue, 0.0)
    if waited > _SLOWEST_SWITCH:
        waited = min(waited, (switches - 1) * (sys.getswitchinterval() + _SLOWEST_SWITCH))
    return waited


def rest(state: State, now: float, switches: int) -> State:
    """The state after time that was no sleep, but the bookkeeping after a block, in which the GIL can be lost too."""
    waited = blocked_for(now - state.now, 1 + switches - state.switches - state.unasked) or 0.0
    blocked, free = _apportion(state, now - state.now - waited)
    return state._replace(now=now, switches=switches, unasked=0, blocked=blocked + waited, free=free)


def fold(
    state: State, pace: int, sleeps: Sequence[float], grants: Iterable[tuple[float, int | None]], window: float
) -> tuple[State, list[float]]:
    """The state after some arrivals, and how long each of them waited.

    Args:
        state: where the first sleep began.
        pace: sampling intervals that the mean sleep lasts.
        sleeps: seconds of each sleep, at least as many as there are grants.
        grants: when the GIL was granted after each sleep, with the voluntary context switches up to then; None in
            place of them, where they were not asked for, is taken for a request that was not blocked.
        window: seconds of history to keep.
    """
    now, last_switches, unasked, blocked, free, arrivals, run, share, latency, history = state
    points = list(history)
    resolution = window / 40
    next_point = sum(history[-1]) + resolution
    waits = []
    gain = pace / MEMORY
    for sleep, (grant, switches) in zip(sleeps, grants, strict=False):
        due = now + sleep + latency
        if switches is None:
            waited = None
            unasked += 1
        else:
            waited = blocked_for(grant - due, switches - last_switches - unasked)
            last_switches = switches
            unasked = 0
        slept = grant - now if waited is None or grant < due else due - now
        if arrivals:  # before the first nothing is known of a sleep, and it is not observed time
            blocked += share * slept
            free += (1 - share) * slept
        else:
            share = 0.0 if waited is None else 1.0
        if waited is None:
            share -= gain * share
            run = run - 1 if run < 0 else -1
            waits.append(0.0)
            late = grant - due + latency
            latency += ((late if late < _LATEST else _LATEST) - latency) / 64
        else:
            share += gain * (1 - share)
            run = run + 1 if run > 0 else 1
            waits.append(waited)
            if waited > resolution:
                points.append((blocked, free))
            blocked += waited
        arrivals += 1
        if blocked + free > next_point:
            points.append((blocked, free))
            next_point = blocked + free + resolution
        now = grant
    start = blocked + free - window
    while len(points) > 1 and sum(points[1]) <= start:
        del points[0]
    return State(now, last_switches, unasked, blocked, free, arrivals, run, share, latency, tuple(points)), waits


def read(state: State, sleep: float | None, now: float, switches: int | None, window: float) -> Snapshot | None:
    """What is known now, in the middle of a sleep or of the wait after it; None before anything is.

    Whatever the end of that sleep will turn out to be, the next state's totals are not below these.

    Args:
        state: where the sleep began.
        sleep: seconds that it should last, or None where no sleep has begun.
        now: the moment of the reading.
        switches: voluntary context switches of the probe up to now; None where they are not known.
        window: seconds that the contention is taken over.
    """
    slept = waited = 0.0
    if sleep is not None:
        due = state.now + sleep + state.latency
        slept = min(now, due) - state.now
        if now > due and switches is not None:
            waited = blocked_for(now - due, switches - state.switches - state.unasked) or 0.0
    blocked, free = _apportion(state, slept)
    share = contention(state.history, (blocked, free), waited, window)
    return None if share is None else Snapshot(share, blocked + waited, free)


def recorded(waits: Iterable[float], pace: int, interval: float, random: Random) -> Iterable[float]:
    """What the distribution of waits is made of: one arrival every three sampling intervals, whatever the pace.

    At pace 1 it is every third one; to record one costs more than to measure it.

    Args:
        waits: seconds, 0 for an arrival that did not wait.
        pace: sampling intervals that the mean sleep lasted.
        interval: mean seconds between arrivals at pace 1.
        random: chooses which of three.
    """
    step = SLOW // pace
    return islice(corrected(waits, pace * interval), random.randrange(step), None, step)


def corrected(waits: Iterable[float], mean: float) -> Iterable[float]:
    """The waits with those of the arrivals that are missing because the probe could not ask again meanwhile.

    A wait of w kept about w/mean further arrivals from happening, which would have waited w - mean,
    w - 2 mean, … (coordinated omission).

    Args:
        waits: seconds, 0 for an arrival that did not wait.
        mean: mean seconds between arrivals.
    """
    for wait in waits:
        yield wait
        for k in range(1, min(math.ceil(wait / mean), _MOST_CORRECTIONS + 1)):
            yield wait - k * mean


def _apportion(state: State, slept: float) -> tuple[float, float]:
    """Seconds blocked and free after a sleep."""
    if slept <= 0 or not state.arrivals:
        return state.blocked, state.free
    share = state.share
    return state.blocked + share * slept, state.free + (1 - share) * slept


def contention(
    history: Sequence[tuple[float, float]], asleep: tuple[float, float], waited: float, window: float
) -> float | None:
    """Share of blocked time in the last window of a path through points (blocked, free), to which a wait is added."""
    if waited >= window:
        return 1.0
    start = sum(asleep) + waited - window
    after = 1
    while after < len(history) and sum(history[after]) <= start:
        after += 1
    blocked, free = history[after - 1]
    if blocked + free < start:
        next_blocked, next_free = history[after] if after < len(history) else asleep
        part = (start - blocked - free) / (next_blocked + next_free - blocked - free)
        blocked += part * (next_blocked - blocked)
        free += part * (next_free - free)
    blocked = asleep[0] + waited - blocked
    elapsed = blocked + asleep[1] - free
    return min(max(blocked / elapsed, 0.0), 1.0) if elapsed > 0 else None  # beyond are rounding errors
