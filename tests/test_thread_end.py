"""Children that a thread forks which is not the main one: they end as without us."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
from marks import with_gilknocker, with_observer

from otel_gil import _thread_end

Run = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

PRELUDE = """
import _thread, os, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # CPython's own, of any fork in a process with threads
from opentelemetry.sdk.metrics import MeterProvider
from otel_gil import GilInstrumentor
from otel_gil._instrumentor import read
GilInstrumentor().instrument(meter_provider=MeterProvider(), sampler=sys.argv[1], sampling_interval=1)
end = time.monotonic() + 20
while not read():
    assert time.monotonic() < end
    time.sleep(0.01)

def wait_for(pid):
    end = time.monotonic() + 10
    while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        if time.monotonic() > end:
            os.kill(pid, 9)
            print("the child does not end")
            os.waitpid(pid, 0)
            return 1
        time.sleep(0.001)
    return os.waitstatus_to_exitcode(ended[1])

def in_thread(function):
    codes = []
    thread = threading.Thread(target=lambda: codes.append(function()))
    thread.start()
    thread.join()
    return codes[0]
"""


FORKABLE = pytest.mark.parametrize("sampler", ["poisson", pytest.param("observer", marks=with_observer)])
"""Those that may run while the process forks."""


@pytest.mark.parametrize(
    "sampler",
    ["poisson", pytest.param("gilknocker", marks=with_gilknocker), pytest.param("observer", marks=with_observer)],
)
def test_child_ends_with_the_thread_that_forked(run: Run, sampler: str) -> None:
    code = """
def fork():
    pid = os.fork()
    return wait_for(pid) if pid else sys.stdout.flush()
seconds = []
for _ in range(5):
    begin = time.monotonic()
    assert in_thread(fork) == 0
    seconds.append(time.monotonic() - begin)
assert min(seconds) < 1, seconds  # machines are shared
"""
    done = run(PRELUDE + code, sampler)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@FORKABLE
def test_child_measures_until_then(run: Run, sampler: str) -> None:
    code = """
def fork():
    pid = os.fork()
    if pid:
        return wait_for(pid)
    before = read()
    time.sleep(0.2)
    now = read()
    os._exit(0 if now.blocked + now.free > before.blocked + before.free else 3)
assert in_thread(fork) == 0
"""
    done = run(PRELUDE + code, sampler)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@FORKABLE
def test_grandchildren_end_too(run: Run, sampler: str) -> None:
    """Whether the same thread forks again, which is the main one of its process by now, or another one."""
    code = """
def fork_and_return():
    pid = os.fork()
    return wait_for(pid) if pid else None

def fork_again(how):
    pid = os.fork()
    if pid:
        return wait_for(pid)
    code = how(fork_and_return)
    if code is None:
        return  # the grandchild
    os._exit(code)

for how in (lambda function: function(), in_thread):
    assert in_thread(lambda: fork_again(how)) == 0
"""
    done = run(PRELUDE + code, sampler)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@FORKABLE
def test_other_threads_of_the_child_go_on(run: Run, sampler: str) -> None:
    """As without us, where the thread that forked ends before the others."""
    code = """
def fork():
    done, going_on = os.pipe()
    pid = os.fork()
    if pid:
        os.close(going_on)
        said = os.read(done, 10)
        return wait_for(pid) or said
    def work():
        time.sleep(0.3)
        os.write(going_on, b"done")
    threading.Thread(target=work).start()
assert in_thread(fork) == b"done"
"""
    done = run(PRELUDE + code, sampler)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@FORKABLE
def test_an_exporters_thread_keeps_its_child_alive_without_us_as_well(run: Run, sampler: str) -> None:
    """That is the SDK's. No thread of ours does."""
    code = """
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
exporter = ConsoleMetricExporter(out=open(os.devnull, "w"))
provider = MeterProvider([PeriodicExportingMetricReader(exporter, export_interval_millis=600_000)])
GilInstrumentor().uninstrument()
GilInstrumentor().instrument(meter_provider=provider, sampler=sys.argv[1])

def fork():
    pid = os.fork()
    if not pid:
        return
    end = time.monotonic() + 20
    while len(os.listdir(f"/proc/{pid}/task")) > 2:  # the main one, which is a zombie, and the exporter's
        assert time.monotonic() < end
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
in_thread(fork)
"""
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    done = run(PRELUDE + code, sampler)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_main_threads_children_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[bool] = []
    hooks: list[Callable[[], None]] = []
    monkeypatch.setattr(os, "register_at_fork", lambda after_in_child: hooks.append(after_in_child))
    _thread_end.follow(lambda: called.append(True))
    (hook,) = hooks
    hook()
    assert not hasattr(_thread_end._of_this_thread, "sentinel")
    thread = threading.Thread(target=hook)  # it is as if it had forked
    thread.start()
    thread.join()
    assert called == [True]


@pytest.mark.parametrize("made_in", [(-1, threading.get_ident()), (os.getpid(), -1)], ids=["process", "thread"])
def test_what_is_not_the_threads_end_calls_nothing(made_in: tuple[int, int]) -> None:
    """In a child of the child, the threads that it does not have are cleared: by another thread, in another process."""
    called: list[bool] = []
    sentinel = _thread_end._Sentinel(lambda: called.append(True))
    sentinel._made_in = made_in
    del sentinel
    assert not called


def test_a_child_that_begins_to_measure_itself(run: Run) -> None:
    """Where the parent did not, nobody was there to follow the fork."""
    code = """
def fork(measure):
    pid = os.fork()
    if pid:
        return wait_for(pid)
    measure()

def measure():
    GilInstrumentor().instrument(meter_provider=MeterProvider(), sampling_interval=1)

def measure_and_fork():
    measure()
    code = in_thread(lambda: fork(lambda: None))
    if code:
        os._exit(code)

for how in (measure, measure_and_fork):
    assert in_thread(lambda: fork(how)) == 0
"""
    prelude = PRELUDE.replace(
        "GilInstrumentor().instrument(meter", "if sys.argv[1]: GilInstrumentor().instrument(meter"
    )
    done = run(prelude.replace("while not read():", "while sys.argv[1] and not read():") + code, "")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@FORKABLE
def test_a_child_forked_while_another_thread_collects(run: Run, sampler: str) -> None:
    """The SDK's locks may be taken in the child, for ever. No thread of ours waits for one."""
    code = """
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
reader = InMemoryMetricReader()
provider = MeterProvider([reader])
counter = provider.get_meter("many").create_counter("many")
for k in range(5000):
    counter.add(1, {"k": k})
stop = False
def collect():
    while not stop:
        reader.get_metrics_data()
collector = threading.Thread(target=collect)
collector.start()
time.sleep(0.2)
GilInstrumentor().uninstrument()
GilInstrumentor().instrument(meter_provider=provider, sampler=sys.argv[1], sampling_interval=1)

def fork():
    global stop
    pids = []
    for _ in range(6):
        pid = os.fork()
        if not pid:
            time.sleep(1)
            return
        pids.append(pid)
        time.sleep(0.01)
    stop = True
    return [wait_for(pid) for pid in pids]

codes = in_thread(fork)
collector.join()
assert codes == [0] * 6, codes
"""
    done = run(PRELUDE + code, sampler)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
