"""The probe, in real time. Tolerances are wide: machines are shared, precise figures are for benchmarks/."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from types import SimpleNamespace

import pytest

from otel_gil._snapshot import Snapshot
from otel_gil._samplers import poisson

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the Poisson sampler needs Linux")

Hold = Callable[[float], None]
Eventually = Callable[[Callable[[], bool]], None]


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def sampler(waits: list[float], eventually: Eventually) -> Iterator[poisson.PoissonSampler]:
    sampler = poisson.PoissonSampler(0.01, 10.0, waits.extend)
    sampler.start()
    eventually(lambda: sampler.read() is not None)
    yield sampler
    sampler.stop()


def _reading(sampler: poisson.PoissonSampler) -> Snapshot:
    reading = sampler.read()
    assert reading is not None
    return reading


def test_first_reading_after_a_hold_has_all_of_it(sampler: poisson.PoissonSampler, hold: Hold) -> None:
    for _ in range(2):
        before = _reading(sampler)
        hold(2.0)
        after = _reading(sampler)
        assert after.blocked - before.blocked > 1.8
        assert after.free - before.free < 0.2
        time.sleep(0.05)
        assert _reading(sampler).blocked >= after.blocked
    assert after.contention > 0.9


def test_idle(sampler: poisson.PoissonSampler, waits: list[float], eventually: Eventually) -> None:
    time.sleep(2.0)
    reading = _reading(sampler)
    assert reading.contention < 0.2
    assert 1.5 < reading.blocked + reading.free
    eventually(lambda: len(waits) >= 64)
    assert waits.count(0.0) > 0.8 * len(waits)


def test_hot_loop(sampler: poisson.PoissonSampler) -> None:
    before = _reading(sampler)
    end = time.monotonic() + 2
    while time.monotonic() < end:
        pass
    after = _reading(sampler)
    blocked, free = after.blocked - before.blocked, after.free - before.free
    assert blocked / (blocked + free) > 0.8
    assert blocked + free == pytest.approx(2, abs=0.3)


def test_readers_in_threads(sampler: poisson.PoissonSampler, hold: Hold) -> None:
    """Eight threads read while the GIL is held now and then: nobody sees a total fall, or a ratio out of range."""
    readings: list[list[Snapshot]] = [[] for _ in range(8)]
    end = time.monotonic() + 3

    def read(into: list[Snapshot]) -> None:
        while time.monotonic() < end:
            into.append(_reading(sampler))
            time.sleep(0.001)

    threads = [threading.Thread(target=read, args=[into]) for into in readings]
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        hold(0.2)
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    for into in readings:
        assert all(0 <= reading.contention <= 1 for reading in into)
        assert all(a.blocked <= b.blocked and a.free <= b.free for a, b in pairwise(into))


def test_blocked_plus_free_is_the_time_that_passed(sampler: poisson.PoissonSampler, hold: Hold) -> None:
    before, begin = _reading(sampler), time.monotonic()
    for _ in range(20):
        hold(0.05)
        time.sleep(0.05)
    after, end = _reading(sampler), time.monotonic()
    observed = after.blocked + after.free - before.blocked - before.free
    assert observed == pytest.approx(end - begin, abs=0.3)


def test_a_busy_machine_is_no_contention(sampler: poisson.PoissonSampler) -> None:
    """Every core busy with work that has nothing to do with this GIL."""
    busy = "import sys, time\nend = time.monotonic() + 3\nwhile time.monotonic() < end: pass"
    before = _reading(sampler)
    pids = [
        os.spawnl(os.P_NOWAIT, sys.executable, sys.executable, "-c", busy) for _ in range(2 * (os.cpu_count() or 1))
    ]
    for pid in pids:
        os.waitpid(pid, 0)
    after = _reading(sampler)
    blocked, free = after.blocked - before.blocked, after.free - before.free
    assert blocked / (blocked + free) < 0.2


def test_goes_on_from_a_parent(eventually: Eventually) -> None:
    sampler = poisson.PoissonSampler(0.01, 10.0, lambda _: None)
    sampler.start(Snapshot(0.5, 5.0, 7.0))
    eventually(lambda: sampler.read() is not None)
    reading = _reading(sampler)
    assert reading.blocked >= 5
    assert reading.free >= 7
    sampler.stop()


def test_a_hold_right_after_the_start(hold: Hold, eventually: Eventually) -> None:
    sampler = poisson.PoissonSampler(0.01, 10.0, lambda _: None)
    sampler.start()
    hold(1.0)
    eventually(lambda: sampler.read() is not None)
    assert _reading(sampler).blocked > 0.8
    sampler.stop()


def test_stop_leaves_no_thread_and_no_reading(eventually: Eventually) -> None:
    threads = len(os.listdir("/proc/self/task"))
    sampler = poisson.PoissonSampler(0.01, 10.0, lambda _: None)
    sampler.start()
    eventually(lambda: sampler.read() is not None)
    sampler.stop()
    assert sampler.read() is None
    eventually(lambda: len(os.listdir("/proc/self/task")) <= threads)


def test_a_failure_is_logged_once_and_leaves_no_reading(
    eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Iterable[float]) -> None:
        raise ZeroDivisionError

    sampler = poisson.PoissonSampler(0.001, 10.0, fail)
    sampler.start()
    eventually(lambda: bool(caplog.records))
    eventually(lambda: sampler.read() is None)
    assert len(caplog.records) == 1
    sampler.stop()


def test_a_thread_that_can_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("otel_gil._samplers.thread._start_new_thread", fail)
    sampler = poisson.PoissonSampler(0.01, 10.0, lambda _: None)
    with pytest.raises(RuntimeError):
        sampler.start()
    assert sampler.read() is None
    sampler.stop()


def test_a_kernel_that_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert poisson.unavailable() is None
    monkeypatch.setattr(poisson, "getrusage", lambda _: SimpleNamespace(ru_nvcsw=0))
    assert poisson.unavailable() == "this kernel does not count voluntary context switches"


def test_another_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert poisson.unavailable() == "darwin does not count the context switches of a single thread"


def test_another_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "implementation", SimpleNamespace(name="pypy"))
    assert poisson.unavailable() == "how pypy waits for its lock is not known"


def test_without_proc_a_hold_is_there_as_soon_as_the_probe_is(
    sampler: poisson.PoissonSampler, hold: Hold, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poisson, "_voluntary_switches", lambda _: None)
    before = _reading(sampler)
    hold(1.0)
    eventually(lambda: _reading(sampler).blocked - before.blocked > 0.8)


def test_voluntary_switches() -> None:
    assert (poisson._voluntary_switches(threading.get_native_id()) or 0) > 0
    assert poisson._voluntary_switches(0) is None
