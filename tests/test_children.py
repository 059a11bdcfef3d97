"""A process that serves metrics, and whose children are in no scrape."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter,
    InMemoryMetricReader,
    MetricReader,
    PeriodicExportingMetricReader,
)

from otel_gil import _children
from otel_gil._children import ChildrenWatch, running_python

Eventually = Callable[[Callable[[], bool]], None]
Run = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def start() -> Iterator[Callable[..., int]]:
    """Starts a child process, and gives its pid."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str, **environ: str) -> int:
        started.append(subprocess.Popen(command, env={**os.environ, **environ}))
        return started[-1].pid

    yield start
    for process in started:
        process.kill()
        process.wait()


SLEEP = (sys.executable, "-c", "import time; time.sleep(60)")


def test_a_child_that_runs_python_is_found_when_it_has_run_for_a_second(
    start: Callable[..., int], eventually: Eventually
) -> None:
    before = running_python(os.getpid())
    begin = time.monotonic()
    pid = start(*SLEEP)
    other = start("sleep", "60")
    assert pid not in running_python(os.getpid())
    eventually(lambda: pid in running_python(os.getpid()))
    assert time.monotonic() - begin > 0.9
    assert set(running_python(os.getpid())) == {*before, pid}
    assert other not in running_python(os.getpid())


def test_nothing_is_found_of_a_process_that_is_gone() -> None:
    assert running_python(2**22 + 1) == []


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(method: str, run: Run) -> None:
    """Its helpers do not count, which it has for good."""
    code = """
import multiprocessing, os, sys, time
from otel_gil._children import running_python

def main():
    context = multiprocessing.get_context(sys.argv[1])
    with context.Pool(2) as pool:
        pids = set()
        while len(pids) < 2:
            pids |= set(pool.starmap(os.getpid, [()] * 4, chunksize=1))
        end = time.monotonic() + 20
        while set(running_python(os.getpid())) != pids:
            assert time.monotonic() < end, (pids, running_python(os.getpid()))
            time.sleep(0.1)
        pool.close()
        pool.join()
    time.sleep(1)
    assert running_python(os.getpid()) == []
    print("as it should be")

main()
"""
    code = code.replace("main()\n\n", "").replace("\nmain()\n", "\nif __name__ == '__main__':\n    main()\n")
    done = run(code, method)
    assert (done.returncode, done.stdout) == (0, "as it should be\n"), done.stderr


@pytest.fixture
def scraped(monkeypatch: pytest.MonkeyPatch) -> Iterator[MeterProvider]:
    monkeypatch.setattr(_children, "_warned", set())
    provider = MeterProvider([PrometheusMetricReader()], shutdown_on_exit=False)
    yield provider
    provider.shutdown()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Puts the clock of the watch forward."""
    now = 1000.0

    def pass_(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(_children, "_monotonic", lambda: now)
    return pass_


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_warns_once(
    scraped: MeterProvider,
    start: Callable[..., int],
    eventually: Eventually,
    clock: Callable[[float], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch = ChildrenWatch(scraped)
    watch.look()
    assert not warned(caplog)
    pid = start(*SLEEP)
    eventually(lambda: pid in running_python(os.getpid()))
    watch.look()
    assert not warned(caplog), "it looks every 5 s at the most"
    for _ in range(3):
        clock(6.0)
        watch.look()
    ChildrenWatch(scraped).look()  # of another provider
    (message,) = warned(caplog)
    assert f"this process (pid {os.getpid()}) serves are of this process only" in message
    assert str(pid) in message.partition("Nobody can scrape")[2]
    assert "OTEL_METRICS_EXPORTER=otlp" in message


@pytest.mark.parametrize(
    "environ", [{"OTEL_EXPORTER_PROMETHEUS_PORT": "9465"}, {"OTEL_METRICS_EXPORTER": "otlp"}], ids=str
)
def test_a_child_that_exports_for_itself(
    environ: dict[str, str],
    scraped: MeterProvider,
    start: Callable[..., int],
    eventually: Eventually,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pid = start(*SLEEP, **environ)
    eventually(lambda: pid in running_python(os.getpid()))
    ChildrenWatch(scraped).look()
    assert not warned(caplog)


@pytest.mark.parametrize("reader", ["none", "InMemory", "Periodic"])
def test_a_process_that_only_sends(
    reader: str, start: Callable[..., int], eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    readers: list[MetricReader] = []
    if reader == "InMemory":
        readers = [InMemoryMetricReader()]
    elif reader == "Periodic":
        readers = [PeriodicExportingMetricReader(ConsoleMetricExporter(out=sys.stderr), 3_600_000)]
    provider = MeterProvider(readers, shutdown_on_exit=False)
    pid = start(*SLEEP)
    eventually(lambda: pid in running_python(os.getpid()))
    ChildrenWatch(provider).look()
    provider.shutdown()
    assert not warned(caplog)


def test_a_process_that_sends_as_well(
    start: Callable[..., int], eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    """Its workers do, too, when they are forked."""
    sends = PeriodicExportingMetricReader(ConsoleMetricExporter(out=sys.stderr), 3_600_000)
    provider = MeterProvider([PrometheusMetricReader(), sends], shutdown_on_exit=False)
    pid = start(*SLEEP)
    eventually(lambda: pid in running_python(os.getpid()))
    ChildrenWatch(provider).look()
    provider.shutdown()
    assert not warned(caplog)


def test_a_child_without_an_environment_and_with_a_name_of_any_bytes(
    scraped: MeterProvider, eventually: Eventually, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "prometheus")
    code = "import ctypes, time; ctypes.CDLL(None).prctl(15, b'worker-\\xc3)'); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], env={}) as child:
        try:
            eventually(lambda: child.pid in running_python(os.getpid()))
            ChildrenWatch(scraped).look()
            assert str(child.pid) in warned(caplog)[0]
        finally:
            child.kill()


def test_a_look_that_takes_long_is_rare(scraped: MeterProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    looks: list[float] = []

    def look(_: object) -> bool:
        looks.append(now[0])
        now[0] += 0.03
        return False

    monkeypatch.setattr(_children, "_monotonic", lambda: now[0])
    monkeypatch.setattr(_children, "_is_scraped", look)
    watch = ChildrenWatch(scraped)
    while now[0] < 1065:
        watch.look()
        now[0] += 1
    assert len(looks) == 3


def test_nobody_waits_for_the_applications_children(scraped: MeterProvider) -> None:
    process = subprocess.Popen([sys.executable, "-c", "exit(7)"])
    time.sleep(0.3)
    assert _children._has_children()
    ChildrenWatch(scraped).look()
    assert process.wait() == 7


def test_what_goes_wrong_is_not_the_applications_problem(
    scraped: MeterProvider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looked: list[bool] = []

    def fail(_: object) -> bool:
        looked.append(True)
        raise ZeroDivisionError

    monkeypatch.setattr(_children, "_is_scraped", fail)
    watch = ChildrenWatch(scraped)
    watch.look()
    watch.look()
    assert looked == [True]
    assert not warned(caplog)


def test_dasks_workers_serve_their_own_metrics(
    scraped: MeterProvider,
    start: Callable[..., int],
    eventually: Eventually,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pid = start(*SLEEP)
    eventually(lambda: pid in running_python(os.getpid()))
    monkeypatch.setattr(_children, "_dask_workers", lambda: {pid})
    ChildrenWatch(scraped).look()
    assert not warned(caplog)
