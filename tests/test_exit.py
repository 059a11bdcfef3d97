"""The end of an interpreter: as if otel-gil were not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from marks import with_gilknocker, with_observer

Run = Callable[..., "subprocess.CompletedProcess[str]"]

PRELUDE = """
import os, signal, sys, threading, time
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, InMemoryMetricReader
from otel_gil import GilInstrumentor
provider = MeterProvider([InMemoryMetricReader()])
if sys.argv[1] != "without":
    GilInstrumentor().instrument(meter_provider=provider, sampler=sys.argv[1])
time.sleep(0.3)
def spin():
    while True:
        pass
def ends():
    # The time of the exit itself, as a parent sees it.
    sys.stdout.write(f"{time.time()}")
    sys.stdout.flush()
"""

ENDS = {
    "return from main": ("ends()", 0),
    "sys.exit": ("ends(); sys.exit(3)", 3),
    "exception": ("ends(); raise SystemError('as meant')", 1),
    "os._exit": ("ends(); os._exit(4)", 4),
    "a daemon thread still running": ("threading.Thread(target=spin, daemon=True).start(); ends()", 0),
    "SIGTERM": ("ends(); os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", -signal.SIGTERM),
}


@pytest.mark.parametrize(
    "sampler",
    ["poisson", pytest.param("gilknocker", marks=with_gilknocker), pytest.param("observer", marks=with_observer)],
)
@pytest.mark.parametrize("end", ENDS)
def test_exit(end: str, sampler: str, run: Run) -> None:
    code, expected = ENDS[end]
    delays = []
    for _ in range(3):  # the quickest of three, as machines are shared
        done, delay = _timed(run, code, sampler)
        assert done.returncode == expected
        assert done.stderr == "" or (end == "exception" and done.stderr.endswith("SystemError: as meant\n"))
        delays.append(delay)
        if delay < 0.3:
            break
    _, without = _timed(run, code, "without")
    assert min(delays) - without < 0.3


def _timed(run: Run, code: str, sampler: str) -> tuple[subprocess.CompletedProcess[str], float]:
    import time

    done = run(PRELUDE + code, sampler)
    return done, time.time() - float(done.stdout)


NOTHING_MORE_CAN_BE_LOADED = {
    "no file descriptor": "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))",
    "an empty root": "os.mkdir(sys.argv[2]); os.chroot(sys.argv[2]); os.chdir('/')",
}


ON_LINUX = pytest.mark.parametrize("sampler", ["poisson", pytest.param("observer", marks=with_observer)])


@pytest.mark.skipif(sys.platform != "linux", reason="the Poisson sampler needs Linux")
@ON_LINUX
@pytest.mark.parametrize("why", NOTHING_MORE_CAN_BE_LOADED)
def test_where_nothing_more_can_be_loaded(why: str, sampler: str, run: Run, tmp_path: Path) -> None:
    """CPython before 3.14 ends our thread in a way for which glibc needs another library."""
    if why == "an empty root" and os.geteuid():
        pytest.skip("only root may chroot")
    done = run(
        PRELUDE + NOTHING_MORE_CAN_BE_LOADED[why] + "\nends()",
        sampler,
        str(tmp_path / "empty"),
        OTEL_PYTHON_GIL_SAMPLING_INTERVAL="1",
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(sys.platform != "linux", reason="the Poisson sampler needs Linux")
@ON_LINUX
def test_the_last_collection_has_the_metrics(sampler: str, run: Run) -> None:
    """At exit the SDK collects for the last time, and a short program would show nothing otherwise."""
    code = """
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
last = MeterProvider([PeriodicExportingMetricReader(ConsoleMetricExporter(), export_interval_millis=60_000)])
GilInstrumentor().uninstrument()
GilInstrumentor().instrument(meter_provider=last, sampler=sys.argv[1])
time.sleep(0.5)
"""
    done = run(PRELUDE + code, sampler)
    assert done.returncode == 0
    assert "cpython.gil.contention" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    "sampler",
    ["auto", pytest.param("poisson", marks=pytest.mark.skipif(sys.platform != "linux", reason="it needs Linux"))],
)
def test_many_exits_are_quiet(sampler: str) -> None:
    """Programs that end, many at once, while the sampler is as busy as it can be: no crash, nothing printed."""
    code = """
import sys, time
from otel_gil import GilInstrumentor
GilInstrumentor().instrument(sampler=sys.argv[1], sampling_interval=1)
time.sleep(0.05)
"""
    programs = [
        subprocess.Popen([sys.executable, "-c", code, sampler], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(12)
    ]
    for program in programs:
        output, _ = program.communicate(timeout=60)
        assert (program.returncode, output) == (0, b"")
