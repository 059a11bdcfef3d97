"""The Poisson probe: a thread that asks for the GIL at random moments, and lets the kernel say if it had to wait.

The default on Linux where there is no recorder. Standard library only. What the readings mean and why they are right
is in `otel_gil._samplers.estimator`; this file only sleeps, notes and publishes.

What it can't see: a wait shorter than the wake-up of a thread is counted, but not measured. Time in which the
process is stopped is not observed. Where /proc is not mounted, a hold in progress is counted when it ends.
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from otel_gil._samplers import estimator
from otel_gil._samplers.thread import SamplerThread
from otel_gil._snapshot import Snapshot
from otel_gil._unpatched import original

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from otel_gil._samplers.estimator import State

if sys.platform == "linux":
    from resource import RUSAGE_THREAD, getrusage

INTERVAL = 0.02
"""Mean seconds between two requests, where no other is asked for."""

_sleep = original("time", "sleep")
_monotonic = original("time", "monotonic")

# Woken from sleep, Python is slow: the arithmetic is done for a block of arrivals at once, though not for so many that
# a reader, who does it for those so far, is kept long, nor so late that waits in long holds are not recorded.
_BLOCK_ARRIVALS = 32
_BLOCK_SECONDS = 1.5

_SLEEPS = 20
"""Not one: on a busy machine a sleep can be over before it begins, and is no switch."""


def unavailable() -> str | None:
    """Why this sampler can't measure here; None where it can."""
    if sys.platform != "linux":
        return f"{sys.platform} does not count the context switches of a single thread"
    if sys.implementation.name != "cpython":
        return f"how {sys.implementation.name} waits for its lock is not known"
    before = getrusage(RUSAGE_THREAD).ru_nvcsw
    for _ in range(_SLEEPS):
        _sleep(0.001)
        if getrusage(RUSAGE_THREAD).ru_nvcsw != before:
            return None
    return "this kernel does not count voluntary context switches"


class _Block(NamedTuple):
    """The sleeps that the probe is going through, and the grants of the GIL so far, which it alone appends."""

    state: State
    pace: int
    sleeps: list[float]
    grants: list[tuple[float, int | None]]


class PoissonSampler:
    """Reads the contention of the GIL from exponentially distributed requests for it.

    Args:
        interval: mean seconds between two requests; thrice that while the GIL is always or never blocked.
        window: seconds that the contention is taken over.
        record_waits: is given, by the probe thread, the seconds that requests had to wait.
    """

    forkable = True

    def __init__(self, interval: float, window: float, record_waits: Callable[[Iterable[float]], None]) -> None:
        self._interval = interval
        self._window = window
        self._record_waits = record_waits
        self._thread: SamplerThread | None = None
        self._since: Snapshot | None = None
        self._started = 0.0
        self._block: _Block | None = None

    def start(self, since: Snapshot | None = None) -> None:
        """Start the probe; in a forked child, with the totals to go on from."""
        self._since = since and Snapshot(*since[:3])
        self._started = _monotonic()
        self._block = None
        self._thread = SamplerThread(self._probe)

    def stop(self) -> None:
        """Stop the probe."""
        if self._thread:
            self._thread.stop()

    def read(self) -> Snapshot | None:
        """What is known now, a hold in progress included; None after a failure.

        Before the first arrival it is the totals that it goes on from, and None where there are none.
        """
        if not self._thread or not self._thread.running:
            return None
        if not self._block:
            return self._since
        while True:
            block = self._block
            grants = tuple(block.grants)
            state, _ = estimator.fold(block.state, block.pace, block.sleeps, grants, self._window)
            sleep = block.sleeps[len(grants)] if len(grants) < len(block.sleeps) else None
            now = _monotonic()
            switches = None
            if sleep is not None and now > state.now + sleep + state.latency:
                switches = _voluntary_switches(self._thread.native_id)
                if block is not self._block or len(grants) != len(block.grants):
                    continue  # the probe was granted the GIL while we asked
            return estimator.read(state, sleep, now, switches, self._window) or self._since

    def _probe(self, thread: SamplerThread) -> None:
        random = Random()
        blocked, free = (self._since.blocked, self._since.free) if self._since else (0.0, 0.0)
        # The thread's first turn is a wait, too: there can be a hold right after the start.
        state = estimator.begin(self._started, 0, blocked, free)
        state = estimator.rest(state, _monotonic(), getrusage(RUSAGE_THREAD).ru_nvcsw)
        units: list[float] = []
        pace = 1
        calm = 0.0
        while True:
            units = units or estimator.intervals(random)
            mean = pace * self._interval
            block = _Block(state, pace, [mean * unit for unit in units[:_BLOCK_ARRIVALS]], [])
            self._block = block
            grants = block.grants
            now = state.now
            end = now + _BLOCK_SECONDS
            for left, sleep in zip(reversed(range(len(block.sleeps))), block.sleeps, strict=True):
                early = now + sleep + calm
                _sleep(sleep)
                now = _monotonic()
                if not thread.running:
                    return
                if now < early and left and now < end:
                    grants.append((now, None))
                else:
                    grants.append((now, getrusage(RUSAGE_THREAD).ru_nvcsw))
                    if now >= end:
                        break
            del block.sleeps[len(grants) :]  # no reader must think that another one has begun
            state, waits = estimator.fold(block.state, pace, block.sleeps, grants, self._window)
            calm = estimator.calm(block.state, state)
            self._record_waits(estimator.recorded(waits, pace, self._interval, random))
            pace = estimator.pace(state)
            units = units[len(grants) :]
            state = estimator.rest(state, _monotonic(), getrusage(RUSAGE_THREAD).ru_nvcsw)


def _voluntary_switches(thread_id: int | None) -> int | None:
    try:
        status = Path(f"/proc/self/task/{thread_id}/status").read_bytes()
        return int(status.rpartition(b"\nvoluntary_ctxt_switches:")[2].split()[0])
    except (OSError, ValueError, IndexError):
        return None
