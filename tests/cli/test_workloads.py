from __future__ import annotations

import json
import subprocess
import sys
import threading
import time

import pytest

from otel_gil._cli import workloads
from otel_gil._samplers import disabled
from otel_gil._cli.workloads import WORKLOADS, Workload, holds

needs_gil = pytest.mark.skipif(disabled.unavailable() is None, reason="the GIL is disabled")


def test_they_are_told_apart() -> None:
    assert len({workload.name for workload in WORKLOADS}) == len(WORKLOADS)
    assert all(workload.seconds > 0 for workload in WORKLOADS)


@pytest.mark.parametrize(
    ("name", "truth"), [("idle", 0.0), ("pure-Python hot loop", 1.0), ("hashing, GIL released", 0.0)]
)
@needs_gil
def test_truth_by_definition(name: str, truth: float) -> None:
    (workload,) = (workload for workload in WORKLOADS if workload.name == name)
    begun = time.perf_counter()
    assert workload.play(0.05) == truth
    assert time.perf_counter() - begun >= 0.045


@needs_gil
def test_truth_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0

    def pass_by(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    monkeypatch.setattr(time, "sleep", pass_by)
    monkeypatch.setattr(workloads, "hold", lambda seconds: pass_by(2 * seconds))
    assert Workload("holds that take twice as long", 1.0, holds(0.25, 0.5)).play(1.5) == 0.5
    assert now == 102.0  # whole cycles


@needs_gil
def test_hold_keeps_other_threads_out() -> None:
    seen: list[float] = []

    def look() -> None:
        while len(seen) < 10_000:
            seen.append(time.perf_counter())
            time.sleep(0.005)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    time.sleep(0.02)
    before = time.perf_counter()
    workloads.hold(0.2)
    after = time.perf_counter()
    seen.extend([0.0] * 10_000)
    thread.join()
    # The clock is read with the GIL: not within the hold, but for a thread that had it as the hold began or ended.
    assert not [moment for moment in seen if before + 0.05 < moment < after - 0.05]
    assert after - before > 0.15


def test_no_gil_no_contention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disabled, "unavailable", lambda: None)
    assert Workload("hot", 1.0, lambda _: 1.0).play(1.0) == 0.0


def test_plays_on_request_until_its_input_ends() -> None:
    command = [sys.executable, "-m", "otel_gil._cli.workloads"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin and process.stdout
        process.stdin.write("0 0.01\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        assert answer["truth"] == 0.0
        assert answer["gilknocker"] is None or 0 <= answer["gilknocker"] <= 1
        process.stdin.write("0 60\n")
        process.stdin.close()
        assert process.wait(10) == 0
        assert process.stdout.read() == ""
