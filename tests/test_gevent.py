"""gevent, whose patches must neither turn the probe into a greenlet nor falsify it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest
from marks import with_gilknocker, with_observer

Run = Callable[..., "subprocess.CompletedProcess[str]"]

pytest.importorskip("gevent")

PATCH = """
from gevent import monkey
monkey.patch_all()
"""

INSTRUMENT = """
import ctypes, sys, time
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from otel_gil import GilInstrumentor
reader = InMemoryMetricReader()
GilInstrumentor().instrument(meter_provider=MeterProvider([reader]), sampler=sys.argv[1], sampling_interval=2)
"""

USE = """
import gevent
sys.path.insert(0, "tests")
from measurements import measured
hold = ctypes.PyDLL(None).usleep

def collect():
    while time.monotonic() < end:
        collected.append(measured(reader))
        gevent.sleep(0.01)

def measure(work):
    begin = time.monotonic()
    greenlets = [gevent.spawn(collect) for _ in range(3)] + [gevent.spawn(work)]
    gevent.joinall(greenlets, timeout=20, raise_error=True)
    first, last = collected[0], collected[-1]
    blocked, free = last.blocked - first.blocked, last.free - first.free
    return blocked / (blocked + free)

def wait():
    # All greenlets sleep: nobody holds the GIL, though the event loop is busy waiting.
    while time.monotonic() < end:
        time.sleep(0.2)

def busy():
    while time.monotonic() < end:
        hold(200_000)
        time.sleep(0.001)

time.sleep(0.5)
# Wide, as who waits for a core while it has the GIL, on a busy machine, keeps it from others.
for work, low, high in ((wait, 0, 0.49), (busy, 0.51, 1)):
    collected = []
    end = time.monotonic() + 2
    share = measure(work)
    assert low <= share <= high, (work, share)
    assert all(0 <= m.contention <= 1 for m in collected)
GilInstrumentor().uninstrument()
"""


@pytest.mark.parametrize(
    "sampler",
    ["poisson", pytest.param("gilknocker", marks=with_gilknocker), pytest.param("observer", marks=with_observer)],
)
@pytest.mark.parametrize("order", ["patched before", "patched after"])
def test_gevent(order: str, sampler: str, run: Run) -> None:
    code = PATCH + INSTRUMENT if order == "patched before" else INSTRUMENT + PATCH
    done = run(code + USE, sampler)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
