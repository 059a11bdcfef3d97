from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from importlib.metadata import entry_points
from itertools import pairwise

import pytest
from marks import with_gilknocker, with_observer
from measurements import MEASURED, OBSERVED, OF_WAITERS, Measured, measured
from opentelemetry.sdk.metrics import MeterProvider, ObservableCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader

import otel_gil
from otel_gil import GilInstrumentor, environment_variables
from otel_gil._instrumentor import _metrics_of
from otel_gil._samplers import observer

Eventually = Callable[[Callable[[], bool]], None]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def test_entry_points() -> None:
    (instrumentor,) = entry_points(group="opentelemetry_instrumentor", name="gil")
    assert instrumentor.value == "otel_gil:GilInstrumentor"
    assert instrumentor.load() is GilInstrumentor
    (variables,) = entry_points(group="opentelemetry_environment_variables", name="gil")
    assert variables.load() is environment_variables


def test_no_extra_that_would_keep_the_loader_from_us() -> None:
    assert instrumentor_extras() == {"dask", "dev", "gilknocker", "prometheus"}


def instrumentor_extras() -> set[str]:
    (entry_point,) = entry_points(group="opentelemetry_instrumentor", name="gil")
    assert entry_point.dist
    return set(entry_point.dist.metadata.get_all("Provides-Extra") or ())


@pytest.mark.parametrize(
    ("sampler", "longest", "long"),
    [
        pytest.param("poisson", 2.8, 100, marks=pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")),
        pytest.param("observer", 1.0, 3, marks=with_observer),  # asks every .2 s on average
    ],
)
def test_instrument(
    sampler: str,
    longest: float,
    long: int,
    provider: MeterProvider,
    reader: InMemoryMetricReader,
    hold: Callable[[float], None],
    eventually: Eventually,
) -> None:
    """A hold of three seconds is seen as it is, and its waits: also those of the requests that could not be made."""

    def waits_of_the_hold() -> int:
        waits = measured(reader).waits
        return sum(count for bound, count in zip(waits.explicit_bounds, waits.bucket_counts[1:]) if bound >= 0.25)

    assert measured(reader) == Measured()
    GilInstrumentor().instrument(meter_provider=provider, sampler=sampler, sampling_interval=5, contention_window=2000)
    eventually(lambda: measured(reader).waits is not None)  # so that it has begun to ask
    before = measured(reader)
    hold(3.0)
    after = measured(reader)
    assert after.blocked - before.blocked > 2.8
    assert after.contention > 0.9
    eventually(lambda: measured(reader).waits.max > longest)
    eventually(lambda: waits_of_the_hold() > long)
    GilInstrumentor().uninstrument()
    assert measured(reader)[:3] == (None, None, None)


@pytest.mark.parametrize(
    "sampler",
    ["poisson", pytest.param("gilknocker", marks=with_gilknocker), pytest.param("observer", marks=with_observer)],
)
def test_totals_go_on_after_uninstrument(
    sampler: str, provider: MeterProvider, reader: InMemoryMetricReader, eventually: Eventually
) -> None:
    last = Measured(0, 0, 0)
    for _ in range(2):
        GilInstrumentor().instrument(meter_provider=provider, sampler=sampler)
        eventually(lambda: measured(reader).free is not None)
        time.sleep(0.5)
        now = measured(reader)
        assert now.free > last.free
        assert now.blocked >= last.blocked
        last = now
        GilInstrumentor().uninstrument()


def test_none_gives_nothing(provider: MeterProvider, reader: InMemoryMetricReader) -> None:
    threads = len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 0
    GilInstrumentor().instrument(meter_provider=provider, sampler="none")
    time.sleep(0.1)
    assert measured(reader) == Measured()
    if sys.platform == "linux":
        assert len(os.listdir("/proc/self/task")) <= threads


def test_bad_arguments_are_errors(provider: MeterProvider) -> None:
    with pytest.raises(ValueError, match="^sampler='fast' is not one of auto, observer, poisson, gilknocker, none$"):
        GilInstrumentor().instrument(meter_provider=provider, sampler="fast")
    with pytest.raises(ValueError, match="^sampling_interval=0 is not a number of milliseconds from 1 to 1000$"):
        GilInstrumentor().instrument(meter_provider=provider, sampling_interval=0)
    assert not GilInstrumentor().is_instrumented_by_opentelemetry


def test_an_unknown_argument_is_a_warning(provider: MeterProvider, caplog: pytest.LogCaptureFixture) -> None:
    GilInstrumentor().instrument(meter_provider=provider, sampler="none", sampling_intervall=5, tracer_provider=None)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == (
        "instrument() has no argument 'sampling_intervall': it is ignored; is 'sampling_interval' meant?"
    )


def test_an_argument_like_none_that_there_is(provider: MeterProvider, caplog: pytest.LogCaptureFixture) -> None:
    GilInstrumentor().instrument(meter_provider=provider, sampler="none", excluded_urls="health")
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "instrument() has no argument 'excluded_urls': it is ignored; there are meter_provider, logger_provider, sampler, "
    )


def test_two_readers_at_their_own_pace(hold: Callable[[float], None], eventually: Eventually) -> None:
    """Every 0.1 s cumulative, every second delta, while the GIL is held now and then: the totals agree."""
    fast = InMemoryMetricReader()
    slow = InMemoryMetricReader(preferred_temporality={ObservableCounter: AggregationTemporality.DELTA})
    provider = MeterProvider([fast, slow])
    GilInstrumentor().instrument(meter_provider=provider, sampling_interval=5)
    eventually(lambda: measured(fast).free is not None)
    collected: dict[InMemoryMetricReader, list[Measured]] = {fast: [], slow: []}
    stop = threading.Event()

    def collect(reader: InMemoryMetricReader, interval: float) -> None:
        while not stop.wait(interval):
            collected[reader].append(measured(reader))

    threads = [threading.Thread(target=collect, args=args) for args in [(fast, 0.1), (slow, 1.0)]]
    for thread in threads:
        thread.start()
    for _ in range(10):
        hold(0.25)
        time.sleep(0.1)
    stop.set()
    for thread in threads:
        thread.join()
    for reader in collected:
        collected[reader].append(measured(reader))
    GilInstrumentor().uninstrument()
    provider.shutdown()
    cumulative, deltas = collected[fast], collected[slow]
    assert all(a.blocked <= b.blocked and a.free <= b.free for a, b in pairwise(cumulative))
    assert all(m.blocked >= 0 and m.free >= 0 for m in deltas)
    assert sum(m.blocked for m in deltas) == pytest.approx(cumulative[-1].blocked, abs=0.2)
    assert sum(m.free for m in deltas) == pytest.approx(cumulative[-1].free, abs=0.2)
    assert cumulative[-1].blocked > 2


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_thousand_times_leaks_nothing(
    provider: MeterProvider, reader: InMemoryMetricReader, eventually: Eventually
) -> None:
    def cycle(times: int) -> None:
        for _ in range(times):
            GilInstrumentor().instrument(meter_provider=provider, sampling_interval=1)
            reader.get_metrics_data()
            GilInstrumentor().uninstrument()

    def counted() -> tuple[int, int]:
        return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))

    cycle(20)
    gc.collect()
    before = counted()
    tracemalloc.start()
    cycle(20)
    gc.collect()
    memory = tracemalloc.get_traced_memory()[0]
    cycle(960)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - memory
    tracemalloc.stop()
    eventually(lambda: all(now <= then for now, then in zip(counted(), before, strict=True)))
    assert grown < 200_000


def test_a_provider_is_not_kept() -> None:
    known = len(_metrics_of)
    for _ in range(3):
        provider = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
        GilInstrumentor().instrument(meter_provider=provider)
        GilInstrumentor().uninstrument()
        provider.shutdown()
        del provider
    gc.collect()
    assert len(_metrics_of) <= known


def test_import_is_light(run: Run) -> None:
    """Neither the SDK nor gilknocker, and nothing that the API and the instrumentation packages don't import."""
    code = """
import sys
import opentelemetry.metrics, opentelemetry.instrumentation.instrumentor
before = set(sys.modules)
import otel_gil
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(new - {"otel_gil"}))
print(any(name.startswith("opentelemetry.sdk") for name in sys.modules))
"""
    new, sdk = run(code).stdout.splitlines()
    assert set(new.split()) <= {"resource", "random", "_random", "bisect", "_bisect", "math", "_sha512", "_sha2", "hashlib"} | {
        "_hashlib", "_blake2", "_sha256", "signal", "atexit", "struct", "_struct",
    }  # fmt: skip
    assert sdk == "False"


def test_without_an_sdk_nothing_breaks(run: Run) -> None:
    code = "import time, otel_gil; otel_gil.GilInstrumentor().instrument(sampling_interval=1); time.sleep(0.5)"
    done = run(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_provider_set_later_gets_the_metrics(run: Run) -> None:
    """All that the sampler knows."""
    observed = observer.unavailable() is None
    expected = MEASURED | (OBSERVED if observed else set())
    code = """
import sys, time, otel_gil
from opentelemetry import metrics
otel_gil.GilInstrumentor().instrument(sampling_interval=1)
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
def names():
    data = reader.get_metrics_data()
    return {m.name for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics} if data else set()
end = time.monotonic() + 20
while not names() >= set(sys.argv[1:]) and time.monotonic() < end:
    time.sleep(0.1)
print(*names())
"""
    done = run(code, *expected)
    assert done.stderr == ""
    assert expected <= set(done.stdout.split()) <= expected | (OF_WAITERS if observed else set())


def test_version() -> None:
    assert entry_points(group="opentelemetry_instrumentor", name="gil")["gil"].dist.version == otel_gil.__version__  # type: ignore[union-attr]
