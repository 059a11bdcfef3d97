"""What workers say of themselves, in virtual time where that is possible."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from benchmarks import attribution
from benchmarks.attribution import Task, Worker
from otel_gil._samplers.observer import unavailable


def test_a_hold_is_timed_by_its_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    passed = {"cpu": 0.0, "clock": 0.0}

    def usleep(microseconds: int) -> None:
        passed["clock"] += 1.1 * microseconds / 1e6  # late, as sleeps are
        passed["cpu"] += 1e-5

    monkeypatch.setattr(attribution, "_usleep", usleep)
    monkeypatch.setattr(time, "perf_counter", lambda: passed["clock"])
    monkeypatch.setattr(time, "thread_time", lambda: passed["cpu"])
    assert attribution.hold(0.01) == pytest.approx((0.011, 1e-5))


def test_a_hold_keeps_the_gil_between_its_clocks() -> None:
    """Where others want it. By a clock that Python code reads, it would take one of their switch intervals more."""
    end = threading.Event()

    def spin() -> None:
        while not end.is_set():
            attribution.spin(1000)

    threads = [threading.Thread(target=spin) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        # The best of some, as the machine may have no core for it.
        assert 0.006 <= min(attribution.hold(0.006)[0] for _ in range(10)) < 0.01
    finally:
        end.set()
        for thread in threads:
            thread.join()


def test_what_is_no_task_is_the_rest_of_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = cpu = 0.0

    def task(held: float, computed: float, beside: float) -> Callable[[], tuple[float, float]]:
        def do() -> tuple[float, float]:
            nonlocal clock, cpu
            clock += held
            cpu += computed + beside
            return held, computed

        return do

    monkeypatch.setattr(time, "perf_counter", lambda: clock)
    monkeypatch.setattr(time, "thread_time", lambda: cpu)
    computing, holding = task(2.0, 2.0, 0.5), task(1.0, 0.0, 0.25)
    found = attribution.work(Worker("a", [Task("f", computing), Task("g", holding)]), 6.0)
    assert found == {("a", "f"): 4.0, ("a", "g"): 2.0, ("a", ""): 1.5}


@pytest.mark.parametrize("workload", attribution.WORKLOADS)
def test_all_of_it_is_played(workload: str) -> None:
    workers = attribution.WORKLOADS[workload]
    threads = set(threading.enumerate())
    held = attribution._play(workers, 0.3)
    named = {(worker.thread, task.function) for worker in workers for task in worker.tasks}
    assert named <= set(held) <= named | {(worker.thread, "") for worker in workers}
    assert all(held[holder] > 0 for holder in named)
    assert set(threading.enumerate()) <= threads


def test_what_goes_wrong_is_in_the_answer() -> None:
    assert attribution.played("nothing", 0.1) == {"problem": unavailable() or "ended with 1"}
