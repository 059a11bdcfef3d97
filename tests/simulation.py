"""A GIL, a probe and readers in virtual time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate, chain
from random import Random

from otel_gil._samplers import estimator
from otel_gil._samplers.estimator import State
from otel_gil._snapshot import Snapshot

SWITCH_INTERVAL = 0.005


class Trace:
    """When the GIL is held: by turns it is free for `gap` seconds and held for `hold`, and free in the end."""

    def __init__(self, holds: Iterable[tuple[float, float]]) -> None:
        self._edges = list(accumulate(chain.from_iterable(holds)))

    def granted(self, asked: float) -> float:
        """When a thread that asks for the GIL then is given it."""
        after = bisect_right(self._edges, asked)
        return self._edges[after] if after % 2 and after < len(self._edges) else asked

    def held(self, begin: float, end: float) -> float:
        """Seconds between these moments in which the GIL is held."""
        edges = self._edges
        return sum(max(0.0, min(end, b) - max(begin, a)) for a, b in zip(edges[::2], edges[1::2], strict=False))


class HotLoop(Trace):
    """The GIL is never free between two moments, and changes hands after a switch interval."""

    def __init__(self, begin: float, end: float) -> None:
        super().__init__([(begin, end - begin)])
        self._begin = begin
        self._end = end

    def granted(self, asked: float) -> float:
        return asked + SWITCH_INTERVAL if self._begin <= asked < self._end else asked


def repeated(gap: float, hold: float, seconds: float) -> Trace:
    """Holds and gaps of one length."""
    return Trace([(gap, hold)] * int(seconds / (gap + hold) + 1))


@dataclass
class Simulation:
    """A probe in virtual time.

    It does what the thread of `PoissonSampler` does. The readings at `moments` are what a reader with a look at
    the kernel's counters sees then; those without one (`kernel` false) get no counter.
    """

    trace: Trace
    interval: float = 0.02
    window: float = 10.0
    seed: int = 0
    kernel: bool = True
    moments: list[float] = field(default_factory=list)
    latency: tuple[float, float] = (30e-6, 150e-6)
    start: State = field(default_factory=lambda: estimator.begin(0.0, 0))

    def run(self, seconds: float) -> Snapshot:
        """Let time pass; the reading at the end of it."""
        self.readings: list[tuple[float, Snapshot]] = []
        self.waits: list[float] = []
        self.recorded: list[float] = []
        self.observed_from = 0.0
        self._probe([*sorted(moment for moment in self.moments if moment < seconds), seconds])
        return self.readings[-1][1]

    def _probe(self, moments: list[float]) -> None:
        random = Random(self.seed)
        state = self.start
        now = state.now
        units: list[float] = []
        pace = 1
        calm = 0.0
        while True:
            units = units or estimator.intervals(random)
            end = now + 1.5
            block = [pace * self.interval * unit for unit in units[:32]]
            grants: list[tuple[float, int | None]] = []
            switches = state.switches
            for sleep in block:
                early = now + sleep + calm
                asked = now + sleep + random.uniform(*self.latency)
                granted = self.trace.granted(asked)
                if not state.arrivals and not grants:
                    self.observed_from = granted
                while moments and moments[0] < granted:
                    moment = moments.pop(0)
                    folded, _ = estimator.fold(state, pace, block, grants, self.window)
                    seen = switches + self._switches(asked, moment) if self.kernel else None
                    reading = estimator.read(folded, sleep, moment, seen, self.window)
                    if reading:
                        self.readings.append((moment, reading))
                if not moments:
                    return
                switches += self._switches(asked, granted)
                now = granted
                ask = now >= early or len(grants) == len(block) - 1 or now >= end
                grants.append((now, switches if ask else None))
                if now >= end:
                    break
            before = state
            state, waits = estimator.fold(before, pace, block, grants, self.window)
            calm = estimator.calm(before, state)
            self.waits += waits
            self.recorded += estimator.recorded(waits, pace, self.interval, random)
            pace = estimator.pace(state)
            units = units[len(grants) :]
            state = estimator.rest(state, now, switches)

    @staticmethod
    def _switches(asked: float, now: float) -> int:
        # To go to sleep is the first; each switch interval of waiting for the GIL is one more.
        return 1 if now <= asked else 2 + int((now - asked) / SWITCH_INTERVAL)
