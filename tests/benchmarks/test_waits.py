"""What workloads say of their waits, in virtual time where that is possible."""

from __future__ import annotations

import threading
import time

import pytest

from benchmarks import waits
from otel_gil._samplers.observer import unavailable


def test_a_sleep_has_waited_where_it_is_longer_than_others() -> None:
    assert waits.late([0.0011, 0.0010, 0.0011, 0.0311, 0.0012]) == pytest.approx(0.03)
    assert waits.late([0.0011] * 4) == 0


def test_holds_beside_a_sleeper(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sleeper waits for the rest of the hold in which it wakes: here, of each 35 ms for 30 ms."""
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        slept = 1.1 * seconds  # late, as sleeps are
        now += slept
        if now % 0.035 > 0.005:
            now += 0.035 - now % 0.035

    def together(threads: dict[str, object]) -> float:
        threads["sleeper"]()  # type: ignore[operator]
        return now

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    monkeypatch.setattr(waits, "together", together)
    found = waits.holds_beside_sleeper(10.0)
    assert found.seconds == now
    assert found.contended == found.threads["sleeper"] == pytest.approx(now * 29.5 / 35, rel=0.02)


def test_holds_beside_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder waits for 5 ms after its sleep, and as long before."""
    now = 0.0

    def hold(seconds: float) -> tuple[float, float]:
        nonlocal now
        now += seconds + 0.005
        return seconds, 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds + 0.0001 + 0.005

    def together(threads: dict[str, object]) -> float:
        threads["holder"]()  # type: ignore[operator]
        return now

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    monkeypatch.setattr(waits, "hold", hold)
    monkeypatch.setattr(waits, "together", together)
    found = waits.holds_beside_loop(10.0)
    assert found.threads == pytest.approx({"holder": 0.1 * now, "loop": 0.3 * now}, rel=0.01)
    assert found.contended == pytest.approx(0.4 * now, rel=0.01)


def test_together() -> None:
    names = []
    begin = time.perf_counter()
    threads = {"a": lambda: names.append(threading.current_thread().name), "b": lambda: time.sleep(0.05)}
    elapsed = waits.together(threads)
    assert names == ["a"]
    assert 0.05 <= elapsed <= time.perf_counter() - begin


@pytest.mark.parametrize("workload", waits.WORKLOADS)
def test_all_of_it_is_played(workload: str) -> None:
    threads = set(threading.enumerate())
    found = waits.WORKLOADS[workload](0.3)
    assert found.seconds >= 0.29
    assert 0 <= found.contended <= 1.01 * found.seconds
    assert found.contended <= 1.01 * sum(found.threads.values()) or found.contended == found.seconds
    assert (found.contended == 0) == (workload in ("one hot loop", "hold 30 ms, free 70 ms"))
    assert set(threading.enumerate()) <= threads


def test_what_goes_wrong_is_in_the_answer() -> None:
    assert waits.played("nothing", 0.1) == {"problem": unavailable() or "ended with 1"}
