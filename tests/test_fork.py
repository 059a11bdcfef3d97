"""Forks: the child measures, and its totals go on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from marks import with_gilknocker, with_observer

Run = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = pytest.mark.skipif(not hasattr(sys, "getdlopenflags"), reason="needs os.fork")

PRELUDE = """
import ctypes, os, sys, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # CPython's own, of any fork in a process with threads
from opentelemetry.sdk.metrics import MeterProvider, ObservableCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from otel_gil import GilInstrumentor
sys.path.insert(0, "tests")
from measurements import measured
hold = ctypes.PyDLL(None).usleep
cumulative = InMemoryMetricReader()
delta = InMemoryMetricReader(preferred_temporality={ObservableCounter: AggregationTemporality.DELTA})
provider = MeterProvider([cumulative, delta])
# No hold here is a stall, of which the observer would tell.
GilInstrumentor().instrument(meter_provider=provider, sampler=sys.argv[1], sampling_interval=1, stall_threshold=60_000)

def ready():
    end = time.monotonic() + 20
    while (m := measured(cumulative)).free is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    return m

def held():
    # After a hold, seen by both readers.
    ready()
    hold(1_000_000)
    before, _ = measured(cumulative), measured(delta)
    return before

def goes_on(before):
    # In a child: neither reader sees the totals fall.
    after = ready()
    first = measured(delta)
    assert after.blocked >= before.blocked > 0.7 and after.free >= before.free, (before, after)
    assert first.blocked >= 0 and first.free >= 0, first
    return after
"""

SAMPLERS = pytest.mark.parametrize(
    "sampler",
    ["poisson", pytest.param("gilknocker", marks=with_gilknocker), pytest.param("observer", marks=with_observer)],
)


@SAMPLERS
def test_child_goes_on(run: Run, sampler: str) -> None:
    code = """
before = held()
pid = os.fork()
if not pid:
    after = goes_on(before)
    assert after.blocked - before.blocked < 0.5, (before, after)
    begin = ready().blocked
    hold(1_000_000)
    time.sleep(0.3)
    assert ready().blocked - begin > 0.6
    sys.exit(7)
hold(500_000)
_, status = os.waitpid(pid, 0)
assert os.waitstatus_to_exitcode(status) == 7
assert ready().blocked - before.blocked > 0.2
"""
    done = run(PRELUDE + code, sampler)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@SAMPLERS
def test_first_collection_of_a_child_has_the_totals(run: Run, sampler: str) -> None:
    """Without a wait for its first sample."""
    code = """
before = held()
for _ in range(20):
    pid = os.fork()
    if not pid:
        first = measured(cumulative)
        assert first.blocked >= before.blocked and first.free >= before.free and first.contention > 0, (before, first)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
"""
    done = run(PRELUDE + code, sampler)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@SAMPLERS
def test_child_of_a_child_goes_on(run: Run, sampler: str) -> None:
    """As daemons fork: twice, with no time for a reading between."""
    code = """
before = held()
pid = os.fork()
if not pid:
    pid = os.fork()
    if not pid:
        goes_on(before)
        sys.exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = run(PRELUDE + code, sampler)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@SAMPLERS
def test_child_ends_at_once(run: Run, sampler: str) -> None:
    """However it ends, with nothing printed."""
    code = """
ready()
for end in (lambda: os._exit(0), lambda: sys.exit(0), lambda: None):
    begin = time.monotonic()
    pid = os.fork()
    if not pid:
        end()
        break
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert time.monotonic() - begin < 5
"""
    done = run(PRELUDE + code, sampler)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("sampler", ["poisson", pytest.param("observer", marks=with_observer)])
def test_forks_while_all_are_busy(run: Run, sampler: str) -> None:
    """No child finds a lock that a thread, which it does not have, will never give back."""
    code = """
import threading
ready()
stop = threading.Event()
def collect():
    while not stop.is_set():
        metrics.read()
        metrics.record_waits([0.0] * 50)
from otel_gil._instrumentor import _metrics_of
(metrics,) = _metrics_of.values()
threads = [threading.Thread(target=collect) for _ in range(2)]
for thread in threads:
    thread.start()
for _ in range(100):
    pid = os.fork()
    if not pid:
        metrics.read()
        metrics.record_waits([0.0])
        os._exit(0)
    end = time.monotonic() + 20
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > end:
            os.kill(pid, 9)
            stop.set()
            sys.exit("a child hangs")
        time.sleep(0.001)
stop.set()
"""
    done = run(PRELUDE + code, sampler)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
