"""Four threads that wait for the GIL to parse JSON, then four that hash without it.

Run it as it is, with `pip install otel-gil opentelemetry-sdk`, and it prints a contention of about 1 and about 0:

    python quickstart.py

Or leave it to OpenTelemetry, with `pip install 'otel-gil[prometheus]'`, and see the same within a minute:

    opentelemetry-instrument --metrics_exporter prometheus --traces_exporter none --logs_exporter none \\
        python quickstart.py 60 &
    watch "curl -s localhost:9464/metrics | grep '^cpython_gil_contention'"
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Sum

from otel_gil import GilInstrumentor

DOCUMENT = json.dumps([{"id": i, "name": f"user {i}", "tags": ["a", "b", "c"]} for i in range(2_000)])
BUFFER = bytes(4_000_000)


def repeat(work: Callable[[], object], seconds: float) -> None:
    """Repeat the work."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        work()


def gil_time(reader: InMemoryMetricReader) -> dict[object, float]:
    """Seconds by state: blocked and free."""
    exported = reader.get_metrics_data()
    assert exported
    metrics = [m for r in exported.resource_metrics for s in r.scope_metrics for m in s.metrics]
    data = next(m.data for m in metrics if isinstance(m.data, Sum) and m.name == "cpython.gil.time")
    return {(p.attributes or {})["cpython.gil.state"]: p.value for p in data.data_points}


if __name__ == "__main__":
    reader = InMemoryMetricReader()
    alone = not GilInstrumentor().is_instrumented_by_opentelemetry
    if alone:
        GilInstrumentor().instrument(meter_provider=MeterProvider([reader]))
    for name, work in ("JSON", lambda: json.loads(DOCUMENT)), ("hashing", lambda: hashlib.sha256(BUFFER)):
        time.sleep(0.5)
        before = gil_time(reader) if alone else {}
        seconds = float(sys.argv[1]) / 2 if sys.argv[1:] else 4.0
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(repeat, [work] * 4, [seconds] * 4))
        if alone:
            spent = {state: seconds - before[state] for state, seconds in gil_time(reader).items()}
            print(f"{name}: contention {spent['blocked'] / sum(spent.values()):.2f}")
