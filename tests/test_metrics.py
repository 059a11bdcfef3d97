from __future__ import annotations

import logging
from itertools import pairwise
from threading import Event, Thread

import pytest
from measurements import Measured, measured
from opentelemetry.sdk.metrics import MeterProvider, ObservableCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, Gauge, Histogram, InMemoryMetricReader, Sum

from otel_gil import __version__
from otel_gil._metrics import WAIT_BOUNDARIES, GilMetrics
from otel_gil._snapshot import Snapshot, ThreadTime

HELD = (ThreadTime("MainThread", "app.f", 2.0), ThreadTime("_other", "_other", 0.5))
WAITED = (ThreadTime("worker", "app.g", 3.0), ThreadTime("_unknown", "", 1.0))
OBSERVED = Snapshot(
    0.25, 2.5, 5.0, contended=1.5, waiting=2, wait_time=4.0, switches=10, stalls=1, held=HELD, waited=WAITED
)
"""All that the observer knows."""


class _Sampler:
    """Reads what it is told to."""

    forkable = True

    def __init__(self, reading: Snapshot | None = None) -> None:
        self.reading = reading
        self.since: Snapshot | None = None
        self.stopped = False

    def start(self, since: Snapshot | None = None) -> None:
        self.since = since

    def stop(self) -> None:
        self.stopped = True

    def read(self) -> Snapshot | None:
        return self.reading


class _BrokenSampler(_Sampler):
    def read(self) -> Snapshot | None:
        raise ZeroDivisionError


class _UnstartableSampler(_Sampler):
    def start(self, since: Snapshot | None = None) -> None:
        raise RuntimeError("can't start new thread")


def test_instruments(provider: MeterProvider, reader: InMemoryMetricReader) -> None:
    metrics = GilMetrics(provider)
    metrics.start(_Sampler(Snapshot(0.25, 1.0, 3.0)))
    metrics.record_waits([0.0, 0.004, 40.0])
    data = reader.get_metrics_data()
    assert data
    (resource,) = data.resource_metrics
    (scope,) = resource.scope_metrics
    assert (scope.scope.name, scope.scope.version) == ("otel_gil", __version__)
    contention, time, wait = sorted(scope.metrics, key=lambda metric: metric.name)
    assert (contention.name, contention.unit) == ("cpython.gil.contention", "1")
    assert isinstance(contention.data, Gauge)
    assert [point.value for point in contention.data.data_points] == [0.25]
    assert (time.name, time.unit) == ("cpython.gil.time", "s")
    assert isinstance(time.data, Sum)
    assert time.data.is_monotonic
    assert [(point.value, point.attributes) for point in time.data.data_points] == [
        (1.0, {"cpython.gil.state": "blocked"}),
        (3.0, {"cpython.gil.state": "free"}),
    ]
    assert (wait.name, wait.unit) == ("cpython.gil.wait.duration", "s")
    assert isinstance(wait.data, Histogram)
    (point,) = wait.data.data_points
    assert point.explicit_bounds == WAIT_BOUNDARIES
    assert (point.count, point.sum, point.bucket_counts[0], point.bucket_counts[-1]) == (3, 40.004, 1, 1)


def test_instruments_of_the_observer(provider: MeterProvider, reader: InMemoryMetricReader) -> None:
    metrics = GilMetrics(provider)
    metrics.start(_Sampler(OBSERVED))
    data = reader.get_metrics_data()
    assert data
    found = {metric.name: metric for metric in data.resource_metrics[0].scope_metrics[0].metrics}
    units = {
        "cpython.gil.contended.time": "s",
        "cpython.gil.held.time": "s",
        "cpython.gil.wait.time": "s",
        "cpython.gil.waiting": "{thread}",
        "cpython.gil.switches": "{switch}",
        "cpython.gil.stalls": "{stall}",
    }
    assert found.keys() == {"cpython.gil.contention", "cpython.gil.time", *units}
    points: dict[str, list[tuple[float, dict[str, object]]]] = {}
    for name, unit in units.items():
        metric = found[name]
        assert metric.unit == unit
        assert isinstance(metric.data, Gauge if name == "cpython.gil.waiting" else Sum)
        assert not isinstance(metric.data, Sum) or metric.data.is_monotonic
        points[name] = [(point.value, dict(point.attributes or {})) for point in metric.data.data_points]
    assert points == {
        "cpython.gil.contended.time": [(1.5, {})],
        "cpython.gil.held.time": [
            (2.0, {"thread.name": "MainThread", "code.function.name": "app.f"}),
            (0.5, {"thread.name": "_other", "code.function.name": "_other"}),
        ],
        "cpython.gil.wait.time": [
            (3.0, {"thread.name": "worker", "code.function.name": "app.g"}),
            (1.0, {"thread.name": "_unknown"}),
        ],
        "cpython.gil.waiting": [(2, {})],
        "cpython.gil.switches": [(10, {})],
        "cpython.gil.stalls": [(1, {})],
    }


@pytest.mark.parametrize(
    ("reading", "held", "waited"),
    [
        (OBSERVED._replace(held=(), waited=None), None, {(None, None): 4.0}),  # nobody is to be told: only how many
        (OBSERVED._replace(waited=None), HELD, {(None, None): 4.0}),
        (OBSERVED._replace(contended=None, waiting=None, wait_time=None, waited=None), HELD, None),
        (OBSERVED._replace(wait_time=0.0, waited=()), HELD, None),  # nobody has waited yet
    ],
    ids=["holders are not asked for", "who it is can't be known", "waiting can't be known", "nobody waited"],
)
def test_who_waited_where_that_is_not_known(
    reading: Snapshot,
    held: tuple[ThreadTime, ...] | None,
    waited: dict[tuple[None, None], float] | None,
    provider: MeterProvider,
    reader: InMemoryMetricReader,
) -> None:
    metrics = GilMetrics(provider)
    metrics.start(_Sampler(reading))
    found = measured(reader)
    assert found.held == (held and {(time.thread, time.function): time.seconds for time in held})
    assert found.waited == waited


def test_boundaries() -> None:
    assert WAIT_BOUNDARIES[0] == 0.0001
    assert 0.005 in WAIT_BOUNDARIES
    assert WAIT_BOUNDARIES[-1] == 30
    assert all(a < b for a, b in pairwise(WAIT_BOUNDARIES))


@pytest.mark.parametrize("sampler", [None, _Sampler()])
def test_absent_without_a_reading(
    sampler: _Sampler | None, provider: MeterProvider, reader: InMemoryMetricReader
) -> None:
    metrics = GilMetrics(provider)
    if sampler:
        metrics.start(sampler)
    assert measured(reader) == Measured()


def test_a_sampler_that_fails_is_logged_once(
    provider: MeterProvider, reader: InMemoryMetricReader, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = GilMetrics(provider)
    metrics.start(_BrokenSampler())
    for _ in range(3):
        assert measured(reader) == Measured()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info


def test_a_sampler_that_can_not_start_is_logged_once(
    provider: MeterProvider, reader: InMemoryMetricReader, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = GilMetrics(provider)
    metrics.start(_UnstartableSampler())
    assert measured(reader) == Measured()
    (record,) = caplog.records
    assert "can't be started" in record.getMessage()
    metrics.stop()


def test_totals_go_on_in_the_next_sampler(provider: MeterProvider) -> None:
    metrics = GilMetrics(provider)
    first, silent, last = _Sampler(Snapshot(0.5, 1.0, 1.0)), _Sampler(), _Sampler()
    for sampler in (first, silent, last):
        metrics.start(sampler)
        metrics.stop()
        assert sampler.stopped
    assert first.since is None
    assert silent.since == Snapshot(0.5, 1, 1)
    assert last.since == Snapshot(0.5, 1, 1)


def test_totals_that_the_next_sampler_does_not_know_are_kept(provider: MeterProvider) -> None:
    """As where the observer gives way to another sampler, and that to an observer."""
    metrics = GilMetrics(provider)
    last = _Sampler()
    for sampler in (_Sampler(OBSERVED), _Sampler(Snapshot(0.5, 3.0, 6.0)), last):
        metrics.start(sampler)
        metrics.stop()
    assert last.since == OBSERVED._replace(contention=0.5, blocked=3.0, free=6.0, waiting=None)


def test_fork_hooks(provider: MeterProvider) -> None:
    metrics = GilMetrics(provider)
    sampler = _Sampler(Snapshot(0.5, 1.0, 1.0))
    metrics.start(sampler)
    metrics.before_fork()
    metrics.after_fork_in_parent()
    assert sampler.since is None
    assert metrics.read()  # would wait for ever, had the lock not been given back
    metrics.record_waits([1.0])
    metrics.before_fork()
    metrics.after_fork_in_child()
    assert sampler.since == Snapshot(0.5, 1, 1)
    assert metrics.read()
    assert not metrics._waits, "the parent records them"


def test_a_fork_does_not_wait_for_ever(provider: MeterProvider) -> None:
    """Nor gives back a lock that it did not get."""
    metrics = GilMetrics(provider)
    with metrics._reading:
        metrics.before_fork()
        metrics.after_fork_in_parent()
        assert metrics._reading.locked()
    assert not metrics._reading.locked()


def test_waits_that_nobody_collects_are_bounded(provider: MeterProvider) -> None:
    metrics = GilMetrics(provider)
    metrics.record_waits([0.0] * 100_000)
    assert len(metrics._waits) == 1 << 16


def test_readers_see_one_truth() -> None:
    """Readers of both temporalities, eight threads of them: what one collects takes nothing from another."""
    readers = [
        InMemoryMetricReader(preferred_temporality={ObservableCounter: temporality})
        for temporality in [AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA] * 4
    ]
    provider = MeterProvider(readers)
    metrics = GilMetrics(provider)

    class Growing(_Sampler):
        steps = 0

        def read(self) -> Snapshot:
            self.steps += 1
            return Snapshot(0.25, self.steps * 0.25, self.steps * 0.75)

    sampler = Growing()
    metrics.start(sampler)
    collected: list[list[Measured]] = [[] for _ in readers]

    def collect(n: int) -> None:
        for _ in range(100):
            collected[n].append(measured(readers[n]))

    threads = [Thread(target=collect, args=[n]) for n in range(len(readers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sampler.read = lambda: Snapshot(0.25, 10_000.0, 30_000.0)  # type: ignore[method-assign]
    for n, reader in enumerate(readers):
        collected[n].append(measured(reader))
        blocked = [m.blocked for m in collected[n]]
        assert None not in blocked
        if n % 2:
            assert min(blocked) >= 0
            assert sum(blocked) == pytest.approx(10_000)
        else:
            assert blocked == sorted(blocked)
            assert blocked[-1] == 10_000
    provider.shutdown()


def test_two_threads_fork_at_once(provider: MeterProvider) -> None:
    """The second of them waits for the first one, but not for ever; and what each has locked, it unlocks."""
    metrics = GilMetrics(provider)
    metrics.start(_Sampler(Snapshot(0.25, 1.0, 3.0)))
    turns = [Event(), Event()]

    def fork() -> None:
        metrics.before_fork()
        turns[0].set()
        turns[1].wait(20)
        metrics.after_fork_in_parent()

    other = Thread(target=fork)
    metrics.before_fork()
    other.start()
    assert turns[0].wait(20)
    metrics.after_fork_in_parent()
    reader = Thread(target=metrics.read, daemon=True)
    reader.start()
    reader.join(20)
    assert not reader.is_alive()
    turns[1].set()
    other.join(20)
    assert metrics.read() is not None
