"""What a metric reader has got."""

from __future__ import annotations

from typing import Any, NamedTuple

from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData, NumberDataPoint

MEASURED = {f"cpython.gil.{name}" for name in ("contention", "time", "wait.duration")}
"""What there is with any sampler."""

OBSERVED = {f"cpython.gil.{name}" for name in ("held.time", "switches", "stalls")}
"""What there is with the observer in addition."""

OF_WAITERS = {f"cpython.gil.{name}" for name in ("waiting", "contended.time", "wait.time")}
"""What there is as well where the platform tells who waits; the last when somebody has waited."""


class Measured(NamedTuple):
    """The metrics of one collection; None where there is no point."""

    contention: Any = None
    blocked: Any = None
    free: Any = None
    waits: Any = None
    held: Any = None  # by names of thread and function
    waited: Any = None  # likewise


def measured(source: InMemoryMetricReader | MetricsData | None) -> Measured:
    """The metrics of a collection that is made now, or was made."""
    data = source.get_metrics_data() if isinstance(source, InMemoryMetricReader) else source
    found: dict[tuple[str, Any], Any] = {}
    by_thread: dict[str, dict[tuple[Any, Any], Any]] = {"cpython.gil.held.time": {}, "cpython.gil.wait.time": {}}
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            assert scope.scope.name == "otel_gil"
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    if metric.name in by_thread:
                        attributes = point.attributes or {}
                        who = (attributes.get("thread.name"), attributes.get("code.function.name"))
                        assert who not in by_thread[metric.name]
                        assert isinstance(point, NumberDataPoint)
                        by_thread[metric.name][who] = point.value
                        continue
                    key = (metric.name, (point.attributes or {}).get("cpython.gil.state"))
                    assert key not in found
                    found[key] = point
    number = {key: point.value for key, point in found.items() if isinstance(point, NumberDataPoint)}
    return Measured(
        number.get(("cpython.gil.contention", None)),
        number.get(("cpython.gil.time", "blocked")),
        number.get(("cpython.gil.time", "free")),
        found.get(("cpython.gil.wait.duration", None)),
        *(times or None for times in by_thread.values()),
    )
