"""What a metric reader has got."""

from __future__ import annotations

from typing import Any, NamedTuple

from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData, NumberDataPoint


class Measured(NamedTuple):
    """The metrics of one collection; None where there is no point."""

    contention: Any = None
    blocked: Any = None
    free: Any = None
    waits: Any = None
    held: Any = None  # by names of thread and function


def measured(source: InMemoryMetricReader | MetricsData | None) -> Measured:
    """The metrics of a collection that is made now, or was made."""
    data = source.get_metrics_data() if isinstance(source, InMemoryMetricReader) else source
    found: dict[tuple[str, Any], Any] = {}
    held: dict[tuple[Any, Any], Any] = {}
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            assert scope.scope.name == "otel_gil"
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    if metric.name == "cpython.gil.held.time":
                        attributes = point.attributes or {}
                        holder = (attributes["thread.name"], attributes.get("code.function.name"))
                        assert holder not in held
                        assert isinstance(point, NumberDataPoint)
                        held[holder] = point.value
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
        held or None,
    )
