from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any
from urllib.request import urlopen

import dask
import pytest
from distributed import Client, LocalCluster
from distributed.dashboard.components.scheduler import Contention
from distributed.system_monitor import SystemMonitor
from measurements import MEASURED, OBSERVED, OF_WAITERS
from opentelemetry.metrics import get_meter_provider
from opentelemetry.metrics._internal import _ProxyMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from otel_gil import GilInstrumentor, _instrumentor
from otel_gil._samplers import Sampler, choose
from otel_gil._samplers.observer import ObserverSampler
from otel_gil._samplers.poisson import PoissonSampler
from otel_gil.dask import GilPlugin, _plugin, _system_monitor
from otel_gil.dask import _instrumentor as _dask
from otel_gil.dask._instrumentor import DaskInstrumentor

Eventually = Callable[[Callable[[], bool]], None]
Run = Callable[..., "subprocess.CompletedProcess[str]"]

PRELOAD = {f"distributed.{kind}.preload": ["otel_gil.dask"] for kind in ("scheduler", "worker", "nanny")}


@pytest.fixture
def cluster() -> Iterator[Callable[[], Any]]:
    """Starts a cluster of a scheduler and three workers, all in this process."""
    clusters = []

    def start() -> Any:
        cluster = LocalCluster(n_workers=3, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0")
        clusters.append(cluster)
        return cluster

    of_class = dict(vars(SystemMonitor))
    yield start
    for cluster in clusters:
        cluster.close()
    assert not _dask._claims
    assert dict(vars(SystemMonitor)) == of_class
    assert not GilInstrumentor().is_instrumented_by_opentelemetry


@pytest.fixture
def samplers(monkeypatch: pytest.MonkeyPatch) -> list[Sampler]:
    """All that are started."""
    started: list[Sampler] = []

    def note(kind: Any) -> None:
        start = kind.start

        def noted(sampler: Sampler, *args: Any) -> None:
            started.append(sampler)
            start(sampler, *args)

        monkeypatch.setattr(kind, "start", noted)

    note(ObserverSampler)
    note(PoissonSampler)
    return started


def metrics(cluster: Any) -> dict[tuple[str, str], float]:
    """What the scheduler serves under /metrics, by name and what tells the series of a name apart."""
    with urlopen(f"http://127.0.0.1:{cluster.scheduler.http_server.port}/metrics", timeout=20) as response:
        families = text_string_to_metric_families(response.read().decode())
    return {
        (s.name, s.labels.get("cpython_gil_state", s.labels.get("dask_server_address", ""))): s.value
        for family in families
        for s in family.samples
        if "gil" in s.name or s.name == "dask_server_info"
    }


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What otel-gil warned of."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("otel_gil") and record.levelno >= logging.WARNING
    ]


def assert_measured(cluster: Any, eventually: Eventually) -> None:
    """Everything is there, and agrees."""
    eventually(lambda: ("cpython_gil_contention", "") in metrics(cluster))
    # Two readings one after the other: most are made at the same millisecond.
    eventually(
        lambda: (
            (found := metrics(cluster))["dask_scheduler_gil_contention_seconds_total", ""]
            == pytest.approx(found["cpython_gil_time_seconds_total", "blocked"], abs=0.05)
        )
    )
    servers = [cluster.scheduler, *cluster.workers.values()]
    eventually(
        lambda: (
            {address for name, address in metrics(cluster) if name == "dask_server_info"}
            == {server.address for server in servers}
        )
    )
    for server in servers:
        assert isinstance(server.monitor._gilknocker, _system_monitor._StandIn)


def nobody_measures() -> bool:
    """Whether the last claim has been released, and all that follows from that has been done."""
    return not _dask._claims and not _dask._lock.locked()


def assert_as_it_was(cluster: Any) -> None:
    """Nothing of otel-gil is left."""
    for server in [cluster.scheduler, *cluster.workers.values()]:
        assert not isinstance(vars(server.monitor).get("_gilknocker"), _system_monitor._StandIn)
        assert type(vars(SystemMonitor).get("cumulative_gil_contention")) is not property
    assert {name for name, _ in metrics(cluster)} <= {"dask_scheduler_gil_contention_seconds_total"}


def test_preload(
    cluster: Callable[[], Any],
    samplers: list[Sampler],
    eventually: Eventually,
    hold: Callable[[float], None],
) -> None:
    """One sampler, whichever servers of this process come and go."""
    with dask.config.set(PRELOAD):
        local = cluster()
        assert_measured(local, eventually)
        assert isinstance(get_meter_provider(), _ProxyMeterProvider)  # the application can still set one
        before = metrics(local)
        hold(1.0)
        after = metrics(local)
        for series in (
            ("dask_scheduler_gil_contention_seconds_total", ""),
            ("cpython_gil_time_seconds_total", "blocked"),
        ):
            assert after[series] - before[series] == pytest.approx(1.0, abs=0.4)
        with Client(local):
            local.scale(1)
            eventually(lambda: len(local.scheduler.workers) == 1)
            local.scale(3)
            eventually(lambda: len(local.scheduler.workers) == 3)
        assert_measured(local, eventually)
        assert len(samplers) == 1
        local.close()
    assert not any(name.startswith("cpython_gil") for name in REGISTRY._names_to_collectors)
    assert not [s for family in REGISTRY.collect() for s in family.samples if s.name.startswith("cpython_gil")]


def test_gilknocker_is_not_started_again_for_servers_that_close(
    cluster: Callable[[], Any], eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process may end right after, and a gilknocker that has just been stopped can abort it then."""
    starts = []

    class Knocker:
        is_running = False
        contention_metric = 0.0

        def __init__(self, *_: Any, **__: Any) -> None: ...

        def start(self) -> None:
            starts.append(self)
            self.is_running = True

        def stop(self) -> None:
            self.is_running = False

        def reset_contention_metric(self) -> None: ...

    module = ModuleType("gilknocker")
    module.KnockKnock = Knocker  # type: ignore[attr-defined]
    module.__spec__ = ModuleSpec("gilknocker", None)
    monkeypatch.setitem(sys.modules, "gilknocker", module)
    with dask.config.set(PRELOAD):
        local = cluster()
        assert_measured(local, eventually)
        before = len(starts)  # in servers that there were before their preload
        local.close()
    assert len(starts) == before


def test_dashboard_and_worker_metrics(
    cluster: Callable[[], Any], eventually: Eventually, hold: Callable[[float], None]
) -> None:
    with dask.config.set(PRELOAD):
        local = cluster()
    bars: Any = Contention(local.scheduler)
    assert bars.source.data["names"][1::2] == [("Scheduler", "GIL"), ("Workers", "GIL")]

    def shown() -> tuple[float, float]:
        bars.update()
        _, scheduler, _, workers = bars.source.data["values"]
        return scheduler, workers

    def reported() -> list[float]:
        return [worker.metrics["gil_contention"] for worker in local.scheduler.workers.values()]

    def blocked() -> bool:
        hold(0.5)
        return min(*shown(), *reported()) > 0.8

    eventually(blocked)
    assert max(*shown(), *reported()) <= 1
    eventually(lambda: max(*shown(), *reported()) < 0.4)


@pytest.mark.parametrize("workers_at_first", [True, False])
def test_plugin(
    workers_at_first: bool,
    cluster: Callable[[], Any],
    samplers: list[Sampler],
    eventually: Eventually,
) -> None:
    local = cluster()
    with Client(local) as client:
        if not workers_at_first:
            local.scale(0)
            eventually(lambda: not local.scheduler.workers)
        client.register_plugin(GilPlugin())
        local.scale(3)
        eventually(lambda: len(local.scheduler.workers) == 3)
        assert_measured(local, eventually)
        assert len(samplers) == 1
        client.unregister_scheduler_plugin("otel_gil")
        eventually(nobody_measures)
        assert_as_it_was(local)


def test_plugin_registered_again_at_once(cluster: Callable[[], Any], eventually: Eventually) -> None:
    local = cluster()
    with Client(local) as client:
        client.register_plugin(GilPlugin())
        client.unregister_scheduler_plugin("otel_gil")
        client.register_plugin(GilPlugin())
        time.sleep(1.5)
        assert_measured(local, eventually)
        client.unregister_scheduler_plugin("otel_gil")
        eventually(nobody_measures)


def test_plugin_registered_twice(
    cluster: Callable[[], Any], eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    local = cluster()
    with Client(local) as client:
        for _ in range(2):
            client.register_plugin(GilPlugin())
        assert not warnings(caplog)
        client.register_plugin(GilPlugin(), name="another")
        assert warnings(caplog) == [
            "otel_gil.dask.GilPlugin is registered already, as 'otel_gil': another does nothing"
        ]
        assert_measured(local, eventually)
        client.unregister_scheduler_plugin("another")
        assert_measured(local, eventually)
        client.unregister_scheduler_plugin("otel_gil")
        eventually(nobody_measures)
        assert_as_it_was(local)


def test_preload_and_plugin(cluster: Callable[[], Any], eventually: Eventually) -> None:
    with dask.config.set(PRELOAD):
        local = cluster()
    with Client(local) as client:
        client.register_plugin(GilPlugin())
        client.unregister_scheduler_plugin("otel_gil")
        eventually(lambda: not any(claim.startswith("plugin") for claim in _dask._claims))
    assert_measured(local, eventually)


def test_workers_without_otel_gil(
    cluster: Callable[[], Any],
    samplers: list[Sampler],
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The client is told, and workers still start."""
    local = cluster()
    monkeypatch.setattr(_plugin, "dumps", lambda _: b"cotel_gil.not_here\nPlugin\n.")
    with Client(local) as client:
        with pytest.raises(Exception, match="otel_gil.not_here"):
            client.register_plugin(GilPlugin())
        eventually(lambda: not local.scheduler.worker_plugins.keys() & {"otel_gil"})
        assert_as_it_was(local)
        local.scale(4)
        eventually(lambda: len(local.scheduler.workers) == 4)
    assert len(samplers) <= 1


def test_what_the_application_started_goes_on(
    cluster: Callable[[], Any], provider: MeterProvider, samplers: list[Sampler]
) -> None:
    GilInstrumentor().instrument(meter_provider=provider)
    with dask.config.set(PRELOAD):
        local = cluster()
    found = _instrumentor.measuring()
    assert found
    assert found[0] is provider
    assert not any(name.startswith("cpython_gil") for name, _ in metrics(local))  # no second reader
    local.close()
    assert _instrumentor.measuring() == found
    assert len(samplers) == 1
    GilInstrumentor().uninstrument()


def test_no_sampler(cluster: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_PYTHON_GIL_SAMPLER", "none")
    with dask.config.set(PRELOAD):
        assert_as_it_was(cluster())


def test_what_goes_wrong_is_logged(
    cluster: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("as meant")

    monkeypatch.setattr(_system_monitor, "follow", fail)
    with dask.config.set(PRELOAD):
        local = cluster()
    with Client(local) as client:
        assert client.submit(sum, [1, 2]).result() == 3
    assert_as_it_was(local)
    assert "as meant" in caplog.text
    assert warnings(caplog) == ["The GIL is not measured for Dask, whose own metrics are what they were"]


def test_without_the_exporter_dask_is_still_right(
    cluster: Callable[[], Any],
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.prometheus", None)
    with dask.config.set(PRELOAD):
        local = cluster()
    eventually(lambda: metrics(local).get(("dask_scheduler_gil_contention_seconds_total", ""), 0) > 0)
    assert isinstance(local.scheduler.monitor._gilknocker, _system_monitor._StandIn)
    assert not any(name.startswith("cpython_gil") for name, _ in metrics(local))
    (warning,) = warnings(caplog)
    assert warning.startswith("cpython_gil_* is not among Dask's Prometheus metrics: ")
    assert "pip install 'otel-gil[dask]'" in warning


def test_an_sdk_that_is_configured_is_used(run: Run) -> None:
    done = run(
        """
import time, dask
from distributed import LocalCluster
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import generate_latest

if __name__ == "__main__":
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader]))
    preload = ["otel_gil.dask"]
    dask.config.set({"distributed.worker.preload": preload, "distributed.scheduler.preload": preload})
    with LocalCluster(n_workers=1, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        points = {}
        end = time.monotonic() + 20
        while "cpython.gil.wait.duration" not in points and time.monotonic() < end:  # the last to come
            time.sleep(0.5)
            (scope,) = reader.get_metrics_data().resource_metrics[0].scope_metrics
            points = {metric.name: metric.data.data_points for metric in scope.metrics}
        print("gil_contention" in cluster.scheduler.monitor.update(), b"cpython_gil" in generate_latest())
        print(*sorted(points))
        print(*sorted(point.attributes["dask.server.type"] for point in points["dask.server.info"]))
""",
        OTEL_PYTHON_GIL_SAMPLING_INTERVAL="1",  # where waits are recorded in batches of samples
    )
    first, names, servers = done.stdout.splitlines()
    assert (first, servers) == ("True False", "scheduler worker")
    assert set(names.split()) - OBSERVED - OF_WAITERS == MEASURED | {"dask.server.info"}
    assert done.stderr == ""


@pytest.mark.parametrize("imported", ["first", "later"])
def test_auto_takes_the_observer_under_dask(imported: str, run: Run) -> None:
    """The totals go on, also in a forked child, and nothing aborts, though Dask's profiler looks at all threads."""
    code = """
import os, sys, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
if sys.argv[1] == "first":
    import distributed
from otel_gil import GilInstrumentor
from otel_gil.dask._instrumentor import DaskInstrumentor
from otel_gil._instrumentor import measuring, read
GilInstrumentor().instrument(sampling_interval=1)
DaskInstrumentor().instrument()
while not (before := read()):
    time.sleep(0.01)
import distributed
for _ in range(1000):
    sys._current_frames()
time.sleep(0.2)
after = read()
assert after.blocked > before.blocked and after.free > before.free, (before, after)
pid = os.fork()
if not pid:
    first = read()
    assert first.blocked >= after.blocked and first.free >= after.free, (after, first)
    sys._current_frames()
    sys.exit(3)
print(type(measuring()[1].sampler).__name__, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = run(code, imported)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{str(choose()[0]).title()}Sampler 3\n"


def test_entry_point() -> None:
    (instrumentor,) = entry_points(group="opentelemetry_instrumentor", name="gil_dask")
    assert instrumentor.load() is DaskInstrumentor


def test_instrumentor_imports_nothing_of_dask(run: Run) -> None:
    done = run(
        """
import sys
from otel_gil import GilInstrumentor
from otel_gil.dask._instrumentor import DaskInstrumentor
sys.modules["distributed"] = None  # not installed
GilInstrumentor().instrument()
DaskInstrumentor().instrument(skip_dep_check=True)
print([name for name in sys.modules if name.startswith(("dask", "distributed.", "otel_gil.dask._plugin"))])
"""
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("first", ["", "import distributed"])
@pytest.mark.parametrize("gil", [True, False])
def test_instrumentor_waits_for_distributed(first: str, gil: bool, run: Run) -> None:
    """Where the GIL is not measured, as it is switched off, Dask is left alone."""
    done = run(
        f"""
{first}
from otel_gil import GilInstrumentor
from otel_gil.dask._instrumentor import DaskInstrumentor
{"GilInstrumentor().instrument()" if gil else ""}
DaskInstrumentor().instrument()
from distributed.system_monitor import SystemMonitor
def followed():
    return type(vars(SystemMonitor).get("cumulative_gil_contention")) is property
print(followed())
DaskInstrumentor().uninstrument()
print(followed(), GilInstrumentor().is_instrumented_by_opentelemetry)
"""
    )
    assert done.stdout.splitlines() == [str(gil), f"False {gil}"]
    assert done.stderr == ""
