"""The recorder in processes that fork, end and are replaced, in whatever way: what Python's hooks do not see as well."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from marks import with_observer

Run = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = [with_observer, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")]

PRELUDE = """
import ctypes, os, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # CPython's own, of any fork in a process with threads
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from otel_gil import GilInstrumentor, _recorder
sys.path.insert(0, "tests")
from measurements import measured
hold = ctypes.PyDLL(None).usleep
reader = InMemoryMetricReader()
provider = MeterProvider([reader])
GilInstrumentor().instrument(meter_provider=provider, sampler="observer")

def wait(pid):
    end = time.monotonic() + 30
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        assert time.monotonic() < end, f"{pid} hangs"
        time.sleep(.002)

def in_child(fork, check):
    # The checks fail in the child, so its exit code tells.
    pid = fork()
    if not pid:
        try:
            check()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
"""

FORKS = pytest.mark.parametrize("fork", ["os.fork", "ctypes.CDLL(None).fork"])


def succeed(run: Run, code: str) -> str:
    done = run(PRELUDE + code)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@FORKS
def test_nothing_is_unseen_after_a_fork(run: Run, fork: str) -> None:
    """The first collection of a child has the totals that it inherited, and a hold right after the fork is seen."""
    code = f"""
hold(700_000)
before = measured(reader)
assert before.blocked > .5
def check():
    first = measured(reader)
    assert first.blocked >= before.blocked and first.free >= before.free, (first, before)
    hold(700_000)
    after = measured(reader)
    assert after.blocked - first.blocked > .5, (first, after)
    assert _recorder.running()
    pid = os.getpid()
    assert str(pid) in _recorder.path(), (pid, _recorder.path())
time.sleep(.1)
for _ in range(3):
    in_child({fork}, check)
mine = measured(reader)
assert mine.blocked - before.blocked < .4, (mine, before)  # what its children did is not the parent's
"""
    succeed(run, code)


def test_forks_in_two_threads_under_load(run: Run) -> None:
    """No child hangs or dies, and no record, file or thread is left in the parent."""
    code = """
stop = False
def load():
    while not stop:
        sum(range(1000))
busy = [threading.Thread(target=load) for _ in range(2)]
failed = []
def forks():
    for i in range(200):
        pid = os.fork()
        if not pid:
            os._exit(0 if i % 2 or _recorder.state() else 3)
        end = time.monotonic() + 30
        while (found := os.waitpid(pid, os.WNOHANG)) == (0, 0):
            if time.monotonic() > end:
                os.kill(pid, 9)
                failed.append("hangs")
            time.sleep(.001)
        if found[1]:
            failed.append(found)
time.sleep(.2)
files = len(os.listdir("/proc/self/fd"))
both = [threading.Thread(target=forks) for _ in range(2)]
for thread in busy + both: thread.start()
for thread in both: thread.join()
stop = True
for thread in busy: thread.join()
assert not failed, failed
assert _recorder.running()
assert len(os.listdir("/proc/self/fd")) == files
time.sleep(.3)  # to the end of threads that have been joined
assert len(os.listdir("/proc/self/task")) == 3, os.listdir("/proc/self/task")  # it, recorder and probe
"""
    succeed(run, code)


def test_a_child_that_executes_another_program(run: Run) -> None:
    """It has no record any more, if it had one at all."""
    code = """
from otel_gil._records import files
for _ in range(20):
    pid = os.fork()
    if not pid:
        os.execv(sys.executable, [sys.executable, "-S", "-c", "import time; time.sleep(.05)"])
    time.sleep(.02)
    with_pid = [record for record in files.records() if record.head.pid == pid and "time.sleep(.05)" in record.head.command]
    assert not with_pid, with_pid
    wait(pid)
    assert pid not in {record.head.pid for record in files.records()}
"""
    succeed(run, code)


def test_a_program_that_executes_itself(run: Run) -> None:
    """Its files are closed, and its record is dead: the new one has one of its own."""
    code = """
if len(sys.argv) < 2:
    time.sleep(.2)
    os.execv(sys.executable, [sys.executable, "-c", open("/proc/self/cmdline").read().split("\\0")[2], _recorder.path()])
time.sleep(.3)
from otel_gil._records import files
assert _recorder.path() != sys.argv[1] and os.path.exists(_recorder.path())
assert sys.argv[1] not in {record.path for record in files.records()}
"""
    succeed(run, code)


@pytest.mark.parametrize(
    "end", ["pass", "sys.exit(3)", "os._exit(3)", "os.kill(os.getpid(), 9)", "os.abort()", "raise SystemExit(3)"]
)
def test_exits(run: Run, end: str) -> None:
    """Whatever the recorder does just then: with a look each millisecond, and threads that go on."""
    code = """
GilInstrumentor().uninstrument()
GilInstrumentor().instrument(meter_provider=MeterProvider([InMemoryMetricReader()]), sampler="observer", sampling_interval=1)
def spin():
    while True: pass
for _ in range(2): threading.Thread(target=spin, daemon=True).start()
time.sleep(.05)
"""
    codes = set()
    for _ in range(8):
        done = run(PRELUDE + code + end)
        assert done.stderr == ""
        codes.add(done.returncode)
    if "kill" in end:
        assert codes == {-signal.SIGKILL}
    elif "abort" in end:
        assert codes == {-signal.SIGABRT}
    else:
        assert codes == {0 if end == "pass" else 3}


def test_no_files_to_spare(run: Run) -> None:
    """At the start, and at a fork: it measures all the same, only nobody else can read it."""
    code = """
import resource
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
time.sleep(.1)
def check():
    time.sleep(.2)
    first = measured(reader)
    hold(950_000)  # as the first look into it may be late
    assert measured(reader).blocked - first.blocked > .4
resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
in_child(os.fork, check)
check()
GilInstrumentor().uninstrument()
GilInstrumentor().instrument(meter_provider=provider, sampler="observer")
check()
assert _recorder.path() == ""
"""
    succeed(run, code)


def test_no_threads_to_spare(run: Run) -> None:
    """A child without a recorder has no metrics, and no totals that stand still."""
    code = """
import logging
logging.disable()
real = _recorder.start
def check():
    assert measured(reader).blocked is None
_recorder.running = lambda: False
def fail(*_): raise RuntimeError("a thread can't be started")
_recorder.start = fail
in_child(os.fork, check)
"""
    succeed(run, code)
