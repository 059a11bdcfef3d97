"""The instruments: what a sampler's snapshot is called in OpenTelemetry."""

from __future__ import annotations

import logging
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter, get_meter_provider

from otel_gil._children import ChildrenWatch
from otel_gil._unpatched import original
from otel_gil.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from otel_gil._samplers import Sampler
    from otel_gil._snapshot import Snapshot, ThreadTime

_logger = logging.getLogger(__name__)

_allocate_lock = original("_thread", "allocate_lock")
_get_ident = original("_thread", "get_ident")

_FORK = 1.0
"""Seconds that a fork waits for a reader, or for another fork."""

_MOST_WAITS = 1 << 16
"""Kept for a collection: those of an hour. Where nobody collects for longer, the oldest are lost."""

STATE = "cpython.gil.state"
THREAD = "thread.name"
FUNCTION = "code.function.name"

WAIT_BOUNDARIES = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.075),
    *(0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 30.0),
)
"""Seconds: from what is less than a thread's wake-up, through the default switch interval of 5 ms, to a long hold."""


class GilMetrics:
    """The instruments of one meter provider, and the sampler that they read; without one they give nothing.

    OpenTelemetry can't take instruments back, so a provider has one of this, for good. Its totals go on from one
    sampler to the next and from parent to child, as a reader that takes differences must not see them fall.
    """

    def __init__(self, meter_provider: MeterProvider | None = None) -> None:
        self._sampler: Sampler | None = None
        self._since: Snapshot | None = None
        self._reading = _allocate_lock()
        self._waits: deque[float] = deque(maxlen=_MOST_WAITS)
        self._held: dict[int, list[Any]] = {}  # by the thread that forks
        meter_provider = meter_provider or get_meter_provider()
        self._children = ChildrenWatch(meter_provider)
        meter = get_meter("otel_gil", __version__, meter_provider)
        meter.create_observable_gauge(
            "cpython.gil.contention",
            [self._contention],
            unit="1",
            description="Share of the last seconds in which a thread that asked for the GIL had to wait for it.",
        )
        meter.create_observable_counter(
            "cpython.gil.time",
            [self._time],
            unit="s",
            description="Time in which a thread that asked for the GIL had to wait for it (blocked), or not (free).",
        )
        self._wait_duration = meter.create_histogram(
            "cpython.gil.wait.duration",
            unit="s",
            description="How long a thread that asks for the GIL at a random moment waits for it.",
            explicit_bucket_boundaries_advisory=WAIT_BOUNDARIES,
        )
        meter.create_observable_counter(
            "cpython.gil.contended.time",
            [self._what("contended")],
            unit="s",
            description="Time in which at least one thread waited for the GIL.",
        )
        meter.create_observable_counter(
            "cpython.gil.held.time",
            [self._held_time],
            unit="s",
            description="Time for which the GIL was held, by whom.",
        )
        meter.create_observable_gauge(
            "cpython.gil.waiting",
            [self._what("waiting")],
            unit="{thread}",
            description="Threads that wait for the GIL at this moment.",
        )
        meter.create_observable_counter(
            "cpython.gil.wait.time",
            [self._wait_time],
            unit="s",
            description="Time that threads have waited for the GIL, who did.",
        )
        meter.create_observable_counter(
            "cpython.gil.switches",
            [self._what("switches")],
            unit="{switch}",
            description="How often the GIL went to another thread.",
        )
        meter.create_observable_counter(
            "cpython.gil.stalls",
            [self._what("stalls")],
            unit="{stall}",
            description="Holds of the GIL longer than the threshold, one in progress included.",
        )

    def start(self, sampler: Sampler) -> None:
        """Start a sampler and read it from now on. One that can't be started is logged, and read no more."""
        self._sampler = sampler  # before it starts: another thread that forks meanwhile must stop it
        try:
            sampler.start(self._since)
        except Exception:
            self._sampler = None
            _logger.exception("The GIL sampler can't be started: its metrics are absent")

    def stop(self) -> None:
        """Stop the sampler, which is read no more."""
        with self._reading:
            self._remember()
            sampler, self._sampler = self._sampler, None
        if sampler:
            sampler.stop()

    @property
    def sampler(self) -> Sampler | None:
        """The sampler that is read; None where nothing is measured."""
        return self._sampler

    def read(self) -> Snapshot | None:
        """What the sampler knows now; None without one, and while it knows nothing."""
        with self._reading:
            return self._snapshot()

    def record_waits(self, waits: Iterable[float]) -> None:
        """Keep seconds that requests for the GIL had to wait, for the next collection to record them.

        The thread of a sampler does not record them itself: to record takes locks of the SDK, and in a child that was
        forked while another thread had one the thread would wait for it for ever.
        """
        self._waits.extend(waits)

    def before_fork(self) -> None:
        """Let no thread read on while the process is copied."""
        # Two threads that fork at once must not both go on: between the two a sampler is started that none may copy.
        held = self._held.setdefault(_get_ident(), [])
        if self._reading.acquire(timeout=_FORK):
            held.append(self._reading)
        self._remember()
        if self._sampler and not self._sampler.forkable:
            self._sampler.stop()
            self._remember()  # what it has found in the end, if it can be read now

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if self._sampler and not self._sampler.forkable:
            self.start(self._sampler)
        for lock in self._held.pop(_get_ident(), ()):
            lock.release()

    def after_fork_in_child(self) -> None:
        """Go on with threads of our own."""
        self._reading = _allocate_lock()
        self._waits.clear()  # which the parent records
        self._held = {}
        sampler, self._sampler = self._sampler, None
        if sampler:
            self.start(sampler)

    def _remember(self) -> None:
        if snapshot := self._snapshot():
            self._since = snapshot.after(self._since)

    def _snapshot(self) -> Snapshot | None:
        try:
            return self._sampler.read() if self._sampler else None
        except Exception:
            _logger.exception("The GIL sampler failed: its metrics are absent from now on")
            sampler, self._sampler = self._sampler, None
            with suppress(Exception):
                sampler.stop()  # type: ignore[union-attr]
            return None

    def _record_waits(self) -> None:
        with suppress(IndexError):  # other threads may collect, too
            while True:
                self._wait_duration.record(self._waits.popleft())

    def _contention(self, _: CallbackOptions) -> Iterable[Observation]:
        if snapshot := self.read():
            yield Observation(snapshot.contention)

    def _time(self, _: CallbackOptions) -> Iterable[Observation]:
        self._record_waits()
        if snapshot := self.read():
            self._children.look()
            yield Observation(snapshot.blocked, {STATE: "blocked"})
            yield Observation(snapshot.free, {STATE: "free"})

    def _held_time(self, _: CallbackOptions) -> Iterable[Observation]:
        if snapshot := self.read():
            yield from map(_observation, snapshot.held)

    def _wait_time(self, _: CallbackOptions) -> Iterable[Observation]:
        snapshot = self.read()
        if snapshot is None or snapshot.wait_time is None:
            return
        if snapshot.waited is None:
            yield Observation(snapshot.wait_time)  # how many waited is known, but not who
        else:
            yield from map(_observation, snapshot.waited)

    def _what(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        """The callback that gives one number of the snapshot, where it is known."""

        def callback(_: CallbackOptions) -> Iterable[Observation]:
            value = getattr(self.read(), name, None)
            return [] if value is None else [Observation(value)]

        return callback


def _observation(time: ThreadTime) -> Observation:
    attributes = {THREAD: time.thread, FUNCTION: time.function}
    return Observation(time.seconds, {name: value for name, value in attributes.items() if value})
