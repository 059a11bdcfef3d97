"""The bench as a whole: in virtual time, and a tiny real run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any
from xml.etree import ElementTree

import pytest
from simulation import Simulation
from marks import with_observer
from virtual import dask, gilknocker, recorder, trace_of

from benchmarks import attribution, costs, figures, waits
from benchmarks.__main__ import AT, PARTS, QUICK, SLOW_DOWN, Plan, accuracy, main, others_cpu, run
from benchmarks.contestants import (
    AT_INTERVALS,
    CONTESTANTS,
    INTERVALS,
    MONITORS,
    OURS,
    POISSON,
    WITHOUT_HOLDERS,
    OtelGil,
    PySpy,
    UnavailableError,
)
from benchmarks.play import Play, play
from benchmarks.workloads import WORKLOADS
from otel_gil import _samplers
from otel_gil._samplers import disabled

UNAVAILABLE = _samplers.observer.unavailable()


def simulated(plays: Sequence[Play]) -> list[dict[str, Any]]:
    """What the processes would answer, in virtual time."""
    answers: list[dict[str, Any]] = []
    for contestant, workload, seconds, seed, _ in plays:
        trace = trace_of(workload, seconds, seed)
        if contestant == POISSON:
            reading = Simulation(trace, seed=seed).run(seconds)
            estimate = reading.blocked / (reading.blocked + reading.free)
        elif contestant in (OURS, "gilknocker", "Dask"):
            estimator = {OURS: recorder, "gilknocker": gilknocker, "Dask": dask}[contestant]
            estimate = estimator(trace, seconds, Random(seed))
        else:
            answers.append({"problem": "not simulated"})
            continue
        answers.append(
            {"truth": trace.held(0, seconds) / seconds, "estimate": estimate, "seconds": seconds, "cpu": 0.0}
        )
    return answers


@with_observer
def test_quick_in_virtual_time() -> None:
    """The targets of accuracy are met there, and not by the peers. Windows are so long that chance has no say."""
    rows = accuracy(replace(QUICK, seconds=200.0), simulated)
    assert [row["workload"] for row in rows] == list(QUICK.workloads)
    peer, other = (figures.errors(rows, name) for name in ("gilknocker", "Dask"))
    assert peer and other
    for name in (OURS, POISSON):
        ours = figures.errors(rows, name)
        assert ours
        assert ours.rows == len(QUICK.workloads)
        assert ours.mean <= figures.MEAN_ERROR
        assert ours.worst <= figures.WORST_ERROR
        assert ours.mean <= min(peer.mean, other.mean) / 10
    assert min(peer.mean, other.mean) > figures.MEAN_ERROR
    assert min(peer.worst, other.worst) > figures.WORST_ERROR
    assert figures.errors(rows, "py-spy") is None


def test_order() -> None:
    """Together where no cores are needed, otherwise in turns, and another one first each time; all with one seed."""
    calls: list[list[Play]] = []

    def note(plays: Sequence[Play]) -> list[dict[str, Any]]:
        calls.append(list(plays))
        return [{"problem": each.contestant} for each in plays]

    plan = Plan(workloads=("idle", "pure-Python hot loop", "two hot loops"), monitors=("a", "b", "c"))
    rows = accuracy(plan, note)
    assert [[each.contestant for each in call] for call in calls] == [
        ["a", "b", "c"],
        *(["b"], ["c"], ["a"]),
        *(["c"], ["a"], ["b"]),
    ]
    assert [call[0].seconds for call in calls] == [12.0] + [10.0] * 6
    assert [{each.seed for each in call} for call in calls] == [{0}, *([{1}] * 3), *([{2}] * 3)]
    assert [list(row["readings"]) for row in rows] == [["a", "b", "c"]] * 3
    assert all(reading["problem"] == name for row in rows for name, reading in row["readings"].items())


def test_cpu_in_rounds() -> None:
    calls: list[list[str]] = []

    def answer(plays: Sequence[Play]) -> list[dict[str, Any]]:
        calls.append([each.contestant for each in plays])
        return [{"problem": "no"} if each.contestant == "b" else {"cpu": each.seconds} for each in plays]

    assert costs.cpu(answer, ["a", "b"], "idle", 3.0, 2) == [{"a": 3.0}] * 2
    assert calls == [["a", "b"], ["b", "a"]]
    calls.clear()
    costs.cpu(answer, ["a", "b"], "pure-Python hot loop", 3.0, 1)
    assert calls == [["a"], ["b"]]
    calls.clear()
    costs.cpu(answer, [OURS, POISSON], "idle", 3.0, 1)
    assert calls == [[OURS, POISSON, WITHOUT_HOLDERS]]


def test_plans() -> None:
    assert Plan().workloads == tuple(WORKLOADS)
    assert Plan().monitors == tuple(MONITORS)
    assert set(QUICK.monitors) < set(MONITORS)
    for plan in (Plan(), QUICK, SLOW_DOWN, AT):
        assert set(plan.parts) <= set(PARTS)
        assert set(plan.monitors) <= set(CONTESTANTS)
        assert min(plan.seconds, plan.busy_seconds) >= figures.SHORTEST_WINDOW
        assert set(plan.workloads) <= set(WORKLOADS)
        assert set(plan.attributions) <= set(attribution.WORKLOADS)
        assert set(plan.waits) <= set(waits.WORKLOADS)
        assert set(plan.conditions) <= set(WORKLOADS)
        assert plan.slow_down_pairs >= 2 and plan.latency_pairs >= 2
    assert set(costs.CONDITIONS) >= set(figures.FORMER_OBSERVER)


def test_defaults() -> None:
    """Those of the theory are those of the samplers."""
    assert INTERVALS == {OURS: _samplers.observer.INTERVAL, POISSON: _samplers.poisson.INTERVAL}
    assert 1000 * INTERVALS[OURS] in AT_INTERVALS.values()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], Plan()),
        (["--quick"], QUICK),
        (["--slow-down"], SLOW_DOWN),
        (["--intervals"], AT),
        (["--quick", "--only", "memory", "waits"], replace(QUICK, parts=("memory", "waits"))),
    ],
)
def test_arguments(arguments: list[str], expected: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[Plan] = []
    monkeypatch.setattr("sys.argv", ["bench", *arguments])
    monkeypatch.setattr(disabled, "unavailable", lambda: "it is not")

    def note(plan: Plan, _: Path) -> int:
        plans.append(plan)
        return 0

    monkeypatch.setattr("benchmarks.__main__.run", note)
    assert main() == 0
    assert plans == [expected]


def test_a_program_that_may_not_attach_is_no_silent_skip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "py-spy"
    program.write_text("#!/bin/sh\necho 'Error: Permission denied'\necho 'try sudo' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda *_, **__: str(program))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(UnavailableError, match="could not attach: Error: Permission denied try sudo"):
        PySpy().begin()
    assert os.listdir(tmp_path) == ["py-spy"]


@pytest.mark.parametrize("sampler", ["auto", "observer"])
def test_another_sampler_is_no_recorder(sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none, `auto` takes another one, which would be measured for it."""
    monkeypatch.setitem(_samplers.UNAVAILABLE, "observer", lambda: "there is no compiler")
    with pytest.raises(UnavailableError, match="no compiler"):
        OtelGil(sampler).start()


@with_observer
def test_one_that_can_not_start_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a thread can't be started")

    monkeypatch.setattr(_samplers.observer.ObserverSampler, "start", fail)
    monitor = OtelGil()
    monitor.start()
    try:
        with pytest.raises(UnavailableError, match="nothing"):
            monitor.begin()
    finally:
        monitor.stop()


def test_cpu_of_others() -> None:
    """Not that of children, once they have ended."""
    code = "import time\nwhile time.process_time() < {}: pass"
    begin, before = time.perf_counter(), others_cpu()
    subprocess.run([sys.executable, "-c", code.format(0.5)], check=True)
    with_child = others_cpu() - before
    elapsed = time.perf_counter() - begin
    assert -0.1 < with_child < elapsed * (os.cpu_count() or 1) - 0.4


def test_cpu_is_that_of_the_monitor() -> None:
    """Not that of the workload's threads."""
    (answer,) = play([Play("nothing", "two hot loops", 0.5, 0)])
    assert abs(answer["cpu"]) < 0.02


def test_what_goes_wrong_in_a_process_is_in_its_answer() -> None:
    (answer,) = play([Play("nobody", "idle", 0.1, 0)])
    assert answer == {"problem": "ended with 1: KeyError: 'nobody'"}


def test_tiny_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plan = Plan(
        workloads=("hold 10 ms, free 10 ms",),
        monitors=(OURS, POISSON),
        seconds=1.0,
        attributions=tuple(attribution.WORKLOADS)[:1],
        attribution_seconds=1.0,
        waits=tuple(waits.WORKLOADS)[:1],
        waits_seconds=1.0,
        conditions=("idle",),
        cpu_seconds=1.0,
        cpu_rounds=1,
        slow_down_seconds=0.05,
        slow_down_pairs=2,
        latency_seconds=0.3,
        latency_pairs=2,
        memory_seconds=0.2,
        memory_runs=1,
        callback_seconds=0.2,
    )
    code = run(plan, tmp_path / "new" / "bench")
    results = json.loads((tmp_path / "new" / "bench" / "results.json").read_text())
    (row,) = results["accuracy"]
    there = [POISSON] if UNAVAILABLE else [OURS, POISSON]
    assert list(row["readings"]) == there
    for reading in row["readings"].values():
        assert 0.3 < reading["truth"] < 0.7
        assert 0 <= reading["estimate"] <= 1
    assert len(results["attribution"]) == len(results["waits"]) == len(there) - 1
    assert len(results["costs"]["cpu"]["idle"][0]) == len(there) + (OURS in there)
    assert results["versions"]["otel-gil"] and results["machine"]["cpus"] == os.cpu_count()
    assert code == int(any(target["met"] is False for target in results["targets"]))
    met = {target["target"]: target["met"] for target in results["targets"]}
    assert met["mean absolute error <= 0.01"] is None  # the window is too short
    assert (met["callback <= 100 µs"] is None) == bool(UNAVAILABLE)
    for sampler in there:
        callbacks = results["costs"]["callback"][sampler]
        assert [each["threads"] for each in callbacks] == list(costs.THREADS)
        assert all(each["warm"] > 0 for each in callbacks)
        assert results["costs"]["memory"][sampler][0]["Rss"] > 0
        assert len(results["costs"]["latency"][sampler]["p99"]) == 2
        assert len(results["costs"]["slow-down"][sampler]) == 2
    assert "| hold 10 ms, free 10 ms |" in (tmp_path / "new" / "bench" / "results.md").read_text()
    assert ElementTree.parse(tmp_path / "new" / "bench" / "accuracy.svg").getroot().tag.endswith("svg")
    said = capfd.readouterr()
    assert "mean absolute error <= 0.01" in said.out
    assert (f"without {OURS}: {UNAVAILABLE}" in said.err) == bool(UNAVAILABLE)
    assert "[ 1/1] hold 10 ms, free 10 ms: truth 0." in said.err
