"""The text, read by Prometheus' own parser for Python."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import REGISTRY
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families as parse

from otel_gil._snapshot import Snapshot
from otel_gil._metrics import GilMetrics
from otel_gil._observer import exposition
from otel_gil._snapshot import Held, Snapshot, Stall

SECONDS = st.floats(min_value=0, allow_nan=False, allow_infinity=False)
COUNTS = st.integers(min_value=0)

STALL = Stall(3.2, "MainThread", 7, "app.f", "app.py", 3, '  File "app.py", line 3, in f\n')


@pytest.fixture
def exported() -> Iterator[dict[str, Metric]]:
    """What OpenTelemetry's exporter makes of the metrics of a reading (0.25, 1, 3)."""

    class Sampler:
        forkable = True

        def start(self, since: Snapshot | None = None) -> None: ...
        def stop(self) -> None: ...
        def read(self) -> Snapshot:
            return Snapshot(0.25, 1.0, 3.0)

    provider = MeterProvider([PrometheusMetricReader()])
    GilMetrics(provider).start(Sampler())
    yield {metric.name: metric for metric in REGISTRY.collect()}
    provider.shutdown()


def _samples(metric: Metric) -> list[tuple[str, dict[str, str], float]]:
    return [
        (
            sample.name,
            {name: value for name, value in sample.labels.items() if not name.startswith("otel_scope_")},
            sample.value,
        )
        for sample in metric.samples
    ]


def test_text() -> None:
    reading = Snapshot(
        *(0.98, 41.2, 18.9),
        waiting=2,
        wait_time=7.5,
        switches=1234,
        stalls=1,
        stall=STALL,
        held=(Held("MainThread", "json.decoder.JSONDecoder.raw_decode", 3.1), Held("_other", "", 1e-7)),
    )
    lines = [line for line in exposition.text(reading).splitlines() if not line.startswith("#")]
    assert lines == [
        "cpython_gil_contention 0.98",
        'cpython_gil_time_seconds_total{cpython_gil_state="blocked"} 41.2',
        'cpython_gil_time_seconds_total{cpython_gil_state="free"} 18.9',
        "cpython_gil_held_time_seconds_total"
        '{thread_name="MainThread",code_function_name="json.decoder.JSONDecoder.raw_decode"} 3.1',
        'cpython_gil_held_time_seconds_total{thread_name="_other"} 1e-07',
        "cpython_gil_waiting 2",
        "cpython_gil_wait_time_seconds_total 7.5",
        "cpython_gil_switches_total 1234",
        "cpython_gil_stalls_total 1",
        'cpython_gil_stall_seconds{thread_name="MainThread",code_function_name="app.f"} 3.2',
    ]


def test_what_is_not_known_is_absent() -> None:
    metrics = {metric.name for metric in parse(exposition.text(Snapshot(0.0, 0.0, 0.0)))}
    assert metrics.isdisjoint({"cpython_gil_waiting", "cpython_gil_wait_time_seconds", "cpython_gil_held_time_seconds"})
    assert "cpython_gil_contention" in metrics


@given(
    reading=st.builds(
        Snapshot,
        contention=st.floats(0, 1),
        blocked=SECONDS,
        free=SECONDS,
        waiting=st.none() | COUNTS,
        wait_time=st.none() | SECONDS,
        switches=COUNTS,
        stalls=COUNTS,
        stall=st.none() | st.builds(STALL._replace, seconds=SECONDS, thread=st.text(), function=st.text()),
        held=st.lists(
            st.builds(Held, st.text(), st.text(), SECONDS), unique_by=lambda held: (held.thread, held.function)
        ).map(tuple),
    )
)
def test_nothing_is_lost(reading: Snapshot) -> None:
    """Neither of a number nor of a name, whatever characters it has."""
    parsed = {
        (sample.name, tuple(sample.labels.items())): sample.value
        for metric in parse(exposition.text(reading))
        for sample in metric.samples
    }
    expected: dict[tuple[str, tuple[tuple[str, str], ...]], float | None] = {
        ("cpython_gil_contention", ()): reading.contention,
        ("cpython_gil_time_seconds_total", (("cpython_gil_state", "blocked"),)): reading.blocked,
        ("cpython_gil_time_seconds_total", (("cpython_gil_state", "free"),)): reading.free,
        ("cpython_gil_waiting", ()): reading.waiting,
        ("cpython_gil_wait_time_seconds_total", ()): reading.wait_time,
        ("cpython_gil_switches_total", ()): reading.switches,
        ("cpython_gil_stalls_total", ()): reading.stalls,
    }
    for held in reading.held:
        function = (("code_function_name", held.function),) if held.function else ()
        expected["cpython_gil_held_time_seconds_total", (("thread_name", held.thread), *function)] = held.seconds
    if stall := reading.stall:
        function = (("code_function_name", stall.function),) if stall.function else ()
        expected["cpython_gil_stall_seconds", (("thread_name", stall.thread), *function)] = stall.seconds
    assert parsed == {key: value for key, value in expected.items() if value is not None}


def test_as_the_exporter_of_opentelemetry(exported: dict[str, Metric]) -> None:
    """What both of them give has one name, type, help and value."""
    ours = {metric.name: metric for metric in parse(exposition.text(Snapshot(0.25, 1.0, 3.0)))}
    shared = ours.keys() & exported.keys()
    assert shared == {"cpython_gil_contention", "cpython_gil_time_seconds"}
    for name in shared:
        assert ours[name].documentation == exported[name].documentation
        assert ours[name].type == exported[name].type
        assert _samples(ours[name]) == _samples(exported[name])


def test_all_metrics_are_described() -> None:
    reading = Snapshot(0.0, 0.0, 0.0, 0, 0.0, 0, 0, STALL, held=(Held("", "", 0.0),))
    metrics = list(parse(exposition.text(reading)))
    assert len(metrics) == 8
    for metric in metrics:
        assert metric.documentation.endswith(".")
        counter = all(sample.name.endswith("_total") for sample in metric.samples)
        assert metric.type == ("counter" if counter else "gauge")
