"""What arrives in OTLP from an application that forks, as cumulative values and as differences."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

import pytest
from measurements import MEASURED, OBSERVED, OF_WAITERS
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality

from otel_gil import __version__
from otel_gil._metrics import WAIT_BOUNDARIES
from otel_gil._samplers import observer

from .otlp import Receiver, Times, receiving
from .processes import applications, python

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS = {
    "cpython.gil.contention": ("gauge", "1"),
    "cpython.gil.time": ("sum", "s"),
    "cpython.gil.wait.duration": ("histogram", "s"),
    "cpython.gil.contended.time": ("sum", "s"),
    "cpython.gil.held.time": ("sum", "s"),
    "cpython.gil.wait.time": ("sum", "s"),
    "cpython.gil.waiting": ("gauge", "{thread}"),
    "cpython.gil.switches": ("sum", "{switch}"),
    "cpython.gil.stalls": ("sum", "{stall}"),
}
"""What the metrics are, and their units."""


class Truth(NamedTuple):
    """What a process knows of itself: the moment of the fork, the seconds it held the GIL, and all of its seconds."""

    pid: int
    forked: int
    held: float
    elapsed: float


class Run(NamedTuple):
    """What there is when the application and its child have ended."""

    receiver: Receiver
    exit_code: int
    output: str
    lifetime: float
    truth: dict[str, Truth]

    def growth(self, process: str) -> list[tuple[float, float]]:
        """By how much blocked and free time grew from each export of a process to the next."""
        points = self.receiver.times()[self.truth[process].pid]
        if self.temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA:
            return [(blocked, free) for _, blocked, free in points]
        return [(b.blocked - a.blocked, b.free - a.free) for a, b in zip([self._base(process), *points], points)]

    @property
    def temporality(self) -> int:
        """What was asked for."""
        (temporality,) = {
            metric.sum.aggregation_temporality
            for _, _, metric in self.receiver.metrics()
            if metric.name == "cpython.gil.time"
        }
        return temporality

    def _base(self, process: str) -> Times:
        """What a cumulative value goes on from: in the child, from what the parent exported just before the fork."""
        if process == "parent":
            return Times(0, 0.0, 0.0)
        parent = self.truth["parent"]
        return [times for times in self.receiver.times()[parent.pid] if times.unix_nano <= parent.forked][-1]


@pytest.fixture(scope="module")
def runs() -> Iterator[dict[str, Run]]:
    """Runs the application twice, at the same time, by temporality."""
    with ExitStack() as stack, applications() as start:
        receivers = {temporality: stack.enter_context(receiving()) for temporality in ("cumulative", "delta")}
        running = {
            temporality: start(
                *python("fork"),
                OTEL_METRIC_EXPORT_INTERVAL="500",
                OTEL_PYTHON_GIL_SAMPLING_INTERVAL="10",  # as the child lives for some seconds only
                OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=temporality,
                **receiver.environment,
            )
            for temporality, receiver in receivers.items()
        }
        runs = {}
        for temporality, application in running.items():
            exit_code = application.wait()
            lifetime = time.monotonic() - application.started
            truth = {
                process: Truth(**json.loads((application.folder / process).read_text()))
                for process in ("parent", "child")
            }
            output = application.stdout + application.stderr
            runs[temporality] = Run(receivers[temporality], exit_code, output, lifetime, truth)
        yield runs


@pytest.fixture(params=["cumulative", "delta"])
def run(request: pytest.FixtureRequest, runs: dict[str, Run]) -> Run:
    """One of them."""
    assert runs["cumulative"].temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
    assert runs["delta"].temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
    return runs[request.param]


each_process = pytest.mark.parametrize("process", ["parent", "child"])


def test_nothing_else_happens(run: Run) -> None:
    assert run.exit_code == 0
    assert run.output == ""


def test_parent_and_child_are_told_apart(run: Run) -> None:
    assert run.truth["parent"].pid != run.truth["child"].pid
    assert run.receiver.times().keys() == {truth.pid for truth in run.truth.values()}


def test_scope(run: Run) -> None:
    assert {(scope.name, scope.version) for _, scope, _ in run.receiver.metrics()} == {("otel_gil", __version__)}


@each_process
def test_kinds_and_units(run: Run, process: str) -> None:
    metrics = [metric for pid, _, metric in run.receiver.metrics() if pid == run.truth[process].pid]
    found = {metric.name: (metric.WhichOneof("data"), metric.unit) for metric in metrics}
    observed = observer.unavailable() is None
    expected = MEASURED | (OBSERVED if observed else set())
    assert expected <= found.keys() <= expected | (OF_WAITERS if observed else set())
    for name, kind_and_unit in found.items():
        assert kind_and_unit == KINDS[name]
    assert all(metric.description for metric in metrics)


def test_gauge(run: Run) -> None:
    gauges = [metric for _, _, metric in run.receiver.metrics() if metric.WhichOneof("data") == "gauge"]
    assert {metric.name for metric in gauges} - OF_WAITERS == {"cpython.gil.contention"}
    for metric in gauges:
        for point in metric.gauge.data_points:
            assert not point.attributes
            if metric.name == "cpython.gil.contention":
                assert 0 <= point.as_double <= 1
            else:
                assert point.as_int >= 0


def test_counter_has_both_states_in_every_export(run: Run) -> None:
    counters = [metric.sum for _, _, metric in run.receiver.metrics() if metric.name == "cpython.gil.time"]
    assert counters
    for counter in counters:
        assert counter.is_monotonic
        assert [
            {attribute.key: attribute.value.string_value for attribute in point.attributes}
            for point in counter.data_points
        ] == [{"cpython.gil.state": "blocked"}, {"cpython.gil.state": "free"}]


def test_histogram(run: Run) -> None:
    points = [
        point
        for pid, _, metric in run.receiver.metrics()
        if pid == run.truth["parent"].pid
        for point in metric.histogram.data_points
    ]
    for point in points:
        assert not point.attributes
        assert tuple(point.explicit_bounds) == WAIT_BOUNDARIES
        assert sum(point.bucket_counts) == point.count
    # In holds of .1 s with gaps of .05 s, two of three requests wait for .05 s on average.
    if run.temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE:
        points = points[-1:]
    mean = sum(point.sum for point in points) / sum(point.count for point in points)
    assert mean == pytest.approx(0.033, abs=0.015)


@each_process
def test_counters_never_fall(run: Run, process: str) -> None:
    """Not across the fork either, from where the child's go on from the parent's."""
    growth = run.growth(process)
    assert len(growth) >= 3
    assert all(blocked >= 0 and free >= 0 for blocked, free in growth)


@each_process
def test_counters_are_the_elapsed_time(run: Run, process: str) -> None:
    observed = sum(blocked + free for blocked, free in run.growth(process))
    assert 0.9 * run.truth[process].elapsed <= observed <= run.lifetime


@each_process
def test_share_of_blocked_time(run: Run, process: str) -> None:
    growth = run.growth(process)
    share = sum(blocked for blocked, _ in growth) / sum(blocked + free for blocked, free in growth)
    assert share == pytest.approx(run.truth[process].held / run.truth[process].elapsed, abs=0.15)
