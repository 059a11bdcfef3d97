"""Monitors of the GIL, each read through its public interface, at its defaults, as its users read it.

What is needed is imported late: no monitor shares its process with another's modules.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

OURS = "otel-gil"
"""By default: the recorder, with holders, waiters, and the probe."""

POISSON = "otel-gil poisson"
"""The fallback, which was the default before there was a recorder."""

WITHOUT_HOLDERS = "otel-gil, holders none"
"""What it costs is measured, and not how right it is."""

INTERVALS = {OURS: 0.012, POISSON: 0.02}
"""Mean seconds between two samples, by default: those of the theory."""


class UnavailableError(Exception):
    """This monitor can't measure here; the message says why."""


class Contestant(Protocol):
    """A monitor in the process that is measured."""

    def start(self) -> None:
        """Begin to measure.

        Raises:
            UnavailableError, ImportError: it can't.
        """

    def begin(self) -> None:
        """Begin the window."""

    def end(self) -> float | None:
        """The contention that it reads for the window that ends; None where it reads none."""

    def stop(self) -> None:
        """Measure no more."""


class Nothing:
    """No monitor at all."""

    def start(self) -> None: ...
    def begin(self) -> None: ...
    def end(self) -> float | None: ...
    def stop(self) -> None: ...


class OtelGil:
    """otel-gil, read like the query of its README: increase of blocked / increase of both states of the counter.

    Args:
        sampler: its name; by default `auto`, which must take the recorder.
        options: what else `instrument` is given.
    """

    def __init__(self, sampler: str = "auto", **options: Any) -> None:
        self._sampler = sampler
        self._options = options

    def start(self) -> None:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader

        from otel_gil import GilInstrumentor
        from otel_gil._samplers import UNAVAILABLE

        # Another one would be measured for it.
        if reason := UNAVAILABLE["observer" if self._sampler == "auto" else self._sampler]():
            raise UnavailableError(reason)
        self._reader = InMemoryMetricReader()
        provider = MeterProvider([self._reader])
        GilInstrumentor().instrument(meter_provider=provider, sampler=self._sampler, **self._options)

    def begin(self) -> None:
        self._begin = self._seconds()

    def end(self) -> float | None:
        blocked, free = (end - begin for begin, end in zip(self._begin, self._seconds(), strict=True))
        return blocked / (blocked + free)

    def stop(self) -> None:
        from otel_gil import GilInstrumentor

        GilInstrumentor().uninstrument()

    def times(self, metric: str) -> dict[tuple[str, str], float]:
        """Seconds that a counter has for each function of each thread, by the names of both; empty where it has none."""
        return {
            (point.attributes.get("thread.name", ""), point.attributes.get("code.function.name", "")): point.value
            for point in self._points().get(metric, ())
        }

    def _seconds(self) -> tuple[float, float]:
        points = self._points()
        seconds = {point.attributes["cpython.gil.state"]: point.value for point in points.get("cpython.gil.time", ())}
        if not seconds:
            raise UnavailableError("it exported nothing")
        return seconds["blocked"], seconds["free"]

    def _points(self) -> dict[str, Any]:
        """What is exported, by the name of the metric."""
        data: Any = self._reader.get_metrics_data()
        return {
            metric.name: metric.data.data_points
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


class Gilknocker:
    """gilknocker as in its README: reset the metric, and look at it later."""

    def start(self) -> None:
        from gilknocker import KnockKnock

        self._knocker = KnockKnock()
        self._knocker.start()

    def begin(self) -> None:
        self._knocker.reset_contention_metric()

    def end(self) -> float | None:
        contention: float = self._knocker.contention_metric
        return contention

    def stop(self) -> None:
        self._knocker.stop()


class Dask:
    """The counter that Dask's workers and schedulers export, as Prometheus takes its rate.

    A thread with an event loop updates the monitor every 500 ms, and once more for a scrape, as `distributed.core.Server`
    and its /metrics do. The increase is divided by the time between the beginnings of the scrapes, which is what their
    timestamps say. The monitor looks at memory, network and disk as well: what it costs is not for the GIL alone.
    """

    def start(self) -> None:
        import dask
        from distributed.system_monitor import SystemMonitor
        from tornado.ioloop import PeriodicCallback

        import gilknocker  # noqa: F401 - without it the monitor would leave the GIL out, and not say so

        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._monitor: Any = SystemMonitor()
        milliseconds = dask.utils.parse_timedelta(dask.config.get("distributed.admin.system-monitor.interval")) * 1000

        async def update() -> None:
            self._updates = PeriodicCallback(self._monitor.update, milliseconds)
            self._updates.start()

        asyncio.run_coroutine_threadsafe(update(), self._loop).result()

    def begin(self) -> None:
        self._begin = time.time(), self._scrape()

    def end(self) -> float | None:
        end = time.time(), self._scrape()
        return (end[1] - self._begin[1]) / (end[0] - self._begin[0])

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._updates.stop)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._monitor.close()

    def _scrape(self) -> float:
        async def collect() -> float:
            self._monitor.update()
            seconds: float = self._monitor.cumulative_gil_contention
            return seconds

        return asyncio.run_coroutine_threadsafe(collect(), self._loop).result()


class PySpy(Nothing):
    """`py-spy record --gil` from another process: how many of its samples found a thread with the GIL.

    100 a second, its default rate, and its intervals are random: in 10 s there are 1,000 samples, give or take 30. It
    stops the process for each of them.
    """

    _RATE = 100

    def begin(self) -> None:
        scripts = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        program = shutil.which("py-spy", path=scripts)
        if not program:
            raise UnavailableError("py-spy is not installed")
        with tempfile.NamedTemporaryFile(delete=False) as output:
            self._output = Path(output.name)
        command = [program, "record", "--gil", "--format", "raw", "--rate", str(self._RATE)]
        command += ["--output", output.name, "--pid", str(os.getpid())]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        said = ""
        for line in self._process.stdout or ():
            said += line
            if "Sampling process" in line:
                break
        else:
            self._output.unlink()
            raise UnavailableError(f"could not attach: {' '.join(said.split())}")
        self._begin = time.perf_counter()

    def end(self) -> float | None:
        seconds = time.perf_counter() - self._begin
        self._process.send_signal(signal.SIGINT)
        self._process.communicate()
        stacks = self._output.read_text().splitlines()
        self._output.unlink()
        return sum(int(stack.rpartition(" ")[2]) for stack in stacks) / (self._RATE * seconds)


PEERS = ("gilknocker", "Dask")
"""Those in the same process that are somebody else's."""

MONITORS: dict[str, Callable[[], Contestant]] = {
    OURS: OtelGil,
    POISSON: lambda: OtelGil("poisson"),
    "otel-gil on gilknocker": lambda: OtelGil("gilknocker"),
    "gilknocker": Gilknocker,
    "Dask": Dask,
    "py-spy": PySpy,
}

AT_INTERVALS = {f"{OURS}, {milliseconds} ms": milliseconds for milliseconds in (5, 7, 10, 12, 14, 20)}
"""Other intervals than the default: what is given for what is paid."""


def _at(milliseconds: float) -> Callable[[], Contestant]:
    return lambda: OtelGil(sampling_interval=milliseconds)


CONTESTANTS: dict[str, Callable[[], Contestant]] = {
    **MONITORS,
    WITHOUT_HOLDERS: lambda: OtelGil(holders="none"),
    **{name: _at(milliseconds) for name, milliseconds in AT_INTERVALS.items()},
    "nothing": Nothing,
}
