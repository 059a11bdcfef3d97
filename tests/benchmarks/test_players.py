"""The truth of the workloads, in virtual time where they allow it."""

from __future__ import annotations

import threading
import time
from random import Random

import pytest

from benchmarks.workloads import CYCLES, WORKLOADS, union
from otel_gil._cli import workloads


@pytest.fixture
def elapsed(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Virtual time: seconds that were slept, and those in which the GIL was held."""
    passed = {"slept": 0.0, "held": 0.0}

    def sleep(seconds: float) -> None:
        passed["slept"] += 1.1 * seconds  # late, as sleeps are

    def hold(seconds: float) -> None:
        passed["held"] += 1.2 * seconds

    monkeypatch.setattr(time, "perf_counter", lambda: 1000.0 + sum(passed.values()))
    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(workloads, "hold", hold)
    return passed


@pytest.mark.parametrize("name", CYCLES)
def test_truth_is_what_was_held(name: str, elapsed: dict[str, float]) -> None:
    with WORKLOADS[name].setup(1) as player:
        truth = player(20.0)
    total = sum(elapsed.values())
    assert truth == pytest.approx(elapsed["held"] / total)
    assert 20 <= total < 25.1  # a cycle more at most
    assert 0.05 < truth < 1


@pytest.mark.parametrize("name", CYCLES)
def test_the_same_again_for_the_same_seed(name: str, elapsed: dict[str, float]) -> None:
    with WORKLOADS[name].setup(1) as player, WORKLOADS[name].setup(2) as other:
        first = player(20.0)
        assert player(20.0) == pytest.approx(first)
        random = name.startswith(("log-normal", "bursts", "Poisson"))
        assert (other(20.0) != pytest.approx(first)) == random


def test_names_say_what_is_played() -> None:
    for name, cycles in CYCLES.items():
        if not name.startswith("hold"):
            continue
        (_, held, held_unit), (_, free, free_unit) = (part.split() for part in name.split(","))
        units = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}
        pair = next(cycles(Random(0)))
        assert pair == pytest.approx((float(free) * units[free_unit], float(held) * units[held_unit]))


def test_union() -> None:
    assert union([]) == 0
    assert union([(0, 1), (2, 3)]) == 2
    assert union([(2, 4), (0, 3), (1, 2), (6, 7)]) == 5


@pytest.mark.parametrize("name", [name for name, workload in WORKLOADS.items() if workload.busy])
def test_busy_ones_play_and_leave_nothing_behind(name: str) -> None:
    threads = set(threading.enumerate())
    with WORKLOADS[name].setup(1) as player:
        begin = time.perf_counter()
        truth = player(0.3)
        assert time.perf_counter() - begin >= 0.29
    assert set(threading.enumerate()) <= threads
    if name in ("thread pool: JSON, zlib, NumPy", "asyncio server, handlers of 4 ms"):
        assert 0 < truth < 1
    else:
        assert truth == float("loop" in name)
