from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest
from marks import with_gilknocker, with_observer

from otel_gil._samplers.thread import SamplerThread, signals_blocked

Run = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="no masks of signals here")

FAULTS = {signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGTRAP, signal.SIGSYS}


def mask() -> set[int]:
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))


@pytest.mark.parametrize("sampler", ["poisson", pytest.param("observer", marks=with_observer)])
def test_a_signal_that_the_application_blocks_later_does_not_end_it(run: Run, sampler: str) -> None:
    """Not even before the thread has had the GIL for the first time."""
    code = """
import os, signal, sys, time
from opentelemetry.sdk.metrics import MeterProvider
from otel_gil import GilInstrumentor
sys.setswitchinterval(1000)  # no thread gets the GIL before this one gives it up
GilInstrumentor().instrument(meter_provider=MeterProvider(), sampler=sys.argv[1])
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
os.kill(os.getpid(), signal.SIGUSR1)
sys.setswitchinterval(0.005)
time.sleep(0.2)
assert signal.sigpending() == {signal.SIGUSR1}
print("alive")
"""
    done = run(code, sampler)
    assert (done.returncode, done.stdout, done.stderr) == (0, "alive\n", "")


@with_gilknocker
def test_gilknockers_threads_get_no_signals(run: Run) -> None:
    code = """
import os, signal, time
from opentelemetry.sdk.metrics import MeterProvider
from otel_gil import GilInstrumentor
GilInstrumentor().instrument(meter_provider=MeterProvider(), sampler="gilknocker")
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
os.kill(os.getpid(), signal.SIGUSR1)
time.sleep(0.5)
assert signal.sigpending() == {signal.SIGUSR1}
print("alive")
"""
    done = run(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "alive\n", "")


def test_the_thread_gets_no_signals_but_its_own_faults() -> None:
    masks: list[set[int]] = []
    thread = SamplerThread(lambda _: masks.append(mask()))
    assert thread.stop(10)
    everything = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
    assert masks == [everything - FAULTS | mask()]


def test_the_mask_is_restored() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    try:
        before = mask()
        SamplerThread(lambda _: None).stop(10)
        assert mask() == before
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])


def test_the_mask_is_restored_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("otel_gil._samplers.thread._start_new_thread", fail)
    before = mask()
    with pytest.raises(RuntimeError, match="can't start new thread"):
        SamplerThread(lambda _: None)
    assert mask() == before


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="handlers run in the main thread")
def test_the_mask_is_restored_where_a_handler_raises() -> None:
    """As Ctrl-C does. The signal itself is not lost."""

    class Interrupted(Exception):
        pass

    def handle(*_: object) -> None:
        raise Interrupted

    previous = signal.signal(signal.SIGUSR1, handle)
    try:
        before = mask()
        with pytest.raises(Interrupted), signals_blocked():
            os.kill(os.getpid(), signal.SIGUSR1)
        assert mask() == before
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_a_thread_whose_maker_was_interrupted_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    running: list[SamplerThread] = []
    ended = threading.Event()

    def run(thread: SamplerThread) -> None:
        running.append(thread)
        while thread.running:
            time.sleep(0.001)
        ended.set()

    def handle(*_: object) -> None:
        raise KeyboardInterrupt

    original = signal.getsignal(signal.SIGUSR1)
    start = sys.modules["otel_gil._samplers.thread"]._start_new_thread

    def start_and_interrupt(*args: object) -> None:
        start(*args)
        os.kill(os.getpid(), signal.SIGUSR1)

    monkeypatch.setattr("otel_gil._samplers.thread._start_new_thread", start_and_interrupt)
    signal.signal(signal.SIGUSR1, handle)
    try:
        with pytest.raises(KeyboardInterrupt):
            SamplerThread(run)
    finally:
        signal.signal(signal.SIGUSR1, original)
    assert ended.wait(10)
