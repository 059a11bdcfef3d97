"""Measure how right otel-gil and its peers are, and what they cost: `python -m benchmarks`, or `make bench`.

It takes a quarter of an hour, with --quick less than three minutes, and should have the machine for itself. Written are:

results.json   all that was measured, with machine, versions and settings
results.md     tables of it
accuracy.svg   truth against every monitor

The exit code is 1 where a target was missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import attribution, costs, figures, memory, picture
from benchmarks.contestants import MONITORS, OBSERVER, OURS, UnavailableError
from benchmarks.play import Play, play
from benchmarks.workloads import WORKLOADS
from otel_gil._samplers import disabled, observer

_PACKAGES = ("otel-gil", "opentelemetry-sdk", "gilknocker", "distributed", "py-spy", "numpy")


@dataclass(frozen=True)
class Plan:
    """What is measured, and for how long: seconds of one run, and how many runs.

    Attributes:
        seconds, busy_seconds: windows of the workloads that leave the cores alone, and of those that do not; the same
            for `cpu_seconds`.
    """

    workloads: tuple[str, ...] = tuple(WORKLOADS)
    monitors: tuple[str, ...] = tuple(MONITORS)
    seconds: float = 12.0
    busy_seconds: float = 10.0
    attributions: tuple[str, ...] = tuple(attribution.WORKLOADS)
    attribution_seconds: float = 10.0
    conditions: tuple[str, ...] = costs.CONDITIONS
    cpu_seconds: float = 5.0
    busy_cpu_seconds: float = 2.5
    cpu_rounds: int = 2
    slow_down_seconds: float = 0.6
    slow_down_pairs: int = 10
    latency_seconds: float = 2.5
    latency_pairs: int = 3
    memory_seconds: float = 11.0
    memory_runs: int = 1
    callback_seconds: float = 11.0


QUICK = Plan(
    workloads=(
        "hold 1 s, free 50 ms",
        "hold 10 ms, free 10 ms",
        "log-normal, medians: hold 11 ms, free 18 ms",
        "pure-Python hot loop",
    ),
    monitors=(OURS, OBSERVER, "gilknocker", "Dask", "py-spy"),
    seconds=10.0,
    attributions=tuple(attribution.WORKLOADS)[:1],
    attribution_seconds=6.0,
    conditions=("idle", "hold 10 ms, free 10 ms"),
    cpu_seconds=3.0,
    cpu_rounds=1,
    slow_down_seconds=0.3,
    slow_down_pairs=4,
    latency_seconds=1.0,
    latency_pairs=2,
    memory_seconds=2.0,
    callback_seconds=3.0,
)


def accuracy(plan: Plan, players: costs.Players) -> list[figures.Row]:
    """A row for each workload, in the plan's order.

    Where the workload leaves the cores alone, all monitors measure it at the same time, under the same conditions;
    otherwise one after the other, and another first each time.
    """
    rows = []
    for n, workload in enumerate(plan.workloads):
        busy = WORKLOADS[workload].busy
        seconds = plan.busy_seconds if busy else plan.seconds
        plays = [Play(monitor, workload, seconds, n) for monitor in costs.rotated(plan.monitors, n)]
        answers = [players([each])[0] for each in plays] if busy else players(plays)
        readings = dict(zip((each.contestant for each in plays), answers, strict=True))
        row: figures.Row = {
            "workload": workload,
            "seed": n,
            "readings": {name: readings[name] for name in plan.monitors},
        }
        rows.append(row)
        made = figures.truth(row)
        _progress(
            f"[{n + 1:2}/{len(plan.workloads)}] {workload}: truth {'-' if made is None else f'{made:.3f}'}"
            + "".join(f", {name} {_estimate(reading)}" for name, reading in row["readings"].items())
        )
    return rows


def _estimate(reading: dict[str, Any]) -> str:
    return str(reading["problem"]) if "problem" in reading else f"{reading['estimate']:.3f}"


def measured_costs(plan: Plan) -> dict[str, Any]:
    """Everything of `benchmarks.costs`."""
    monitors = [monitor for monitor in costs.IN_PROCESS if monitor in plan.monitors]
    found: dict[str, Any] = {"cpu": {}, "slow-down": {}, "problems": []}
    for condition in plan.conditions:
        _progress(f"costs: CPU, {condition}")
        seconds = plan.busy_cpu_seconds if WORKLOADS[condition].busy else plan.cpu_seconds
        found["cpu"][condition] = costs.cpu(play, monitors, condition, seconds, plan.cpu_rounds)
    for contestant in monitors:
        _progress(f"costs: slow-down by {contestant}")
        try:
            found["slow-down"][contestant] = costs.slow_down(contestant, plan.slow_down_seconds, plan.slow_down_pairs)
        except UnavailableError as reason:
            found["problems"].append(f"slow-down by {contestant}: {reason}")
    samplers = [sampler for sampler in costs.SAMPLERS if sampler in plan.monitors]
    _progress("costs: latency of a server")
    found["latency"] = {each: costs.latency(each, plan.latency_seconds, plan.latency_pairs) for each in samplers}
    _progress("costs: memory")
    found["memory"] = {each: memory.grown(each, plan.memory_seconds, plan.memory_runs) for each in samplers}
    _progress("costs: callbacks")
    found["callback"] = {each: costs.callback(each, plan.callback_seconds) for each in samplers}
    return found


def attributions(plan: Plan) -> dict[str, dict[str, Any]]:
    """Answers of `benchmarks.attribution`; none without the observer."""
    found = {}
    for workload in plan.attributions if OBSERVER in plan.monitors else ():
        _progress(f"attribution: {workload}")
        found[workload] = attribution.played(workload, plan.attribution_seconds)
    return found


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    return {"cpus": os.cpu_count(), "model": model, "kernel": platform.release(), "architecture": platform.machine()}


def versions() -> dict[str, str]:
    found = {platform.python_implementation(): platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def run(plan: Plan, output: Path) -> int:
    """Measure, write the files, say what became of the targets, and return the exit code."""
    begin = time.monotonic()
    if OBSERVER in plan.monitors and (reason := observer.unavailable()):
        _progress(f"without {OBSERVER}: {reason}")
        plan = replace(plan, monitors=tuple(name for name in plan.monitors if name != OBSERVER))
    output.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine(),
        "versions": versions(),
        "settings": asdict(plan),
        "accuracy": accuracy(plan, play),
        "attribution": attributions(plan),
        "costs": measured_costs(plan),
    }
    results["minutes"] = (time.monotonic() - begin) / 60
    verdicts = figures.verdicts(results)
    results["targets"] = [verdict._asdict() for verdict in verdicts]
    (output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (output / "results.md").write_text(figures.markdown(results))
    picture.draw(results["accuracy"], plan.monitors, output / "accuracy.svg")
    for verdict in verdicts:
        print(f"{verdict.target:60} {verdict.measured:40} {figures.said(verdict)}")
    print(f"{results['minutes']:.1f} minutes; results.json, results.md and accuracy.svg are in {output}")
    return 1 if any(verdict.met is False for verdict in verdicts) else 0


def _progress(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer workloads, and shorter runs")
    parser.add_argument("--output", type=Path, default=Path("build/bench"), help="directory (default: %(default)s)")
    arguments = parser.parse_args()
    if disabled.unavailable() is None:
        sys.exit("The GIL is disabled: there is nothing to measure.")
    return run(QUICK if arguments.quick else Plan(), arguments.output)


if __name__ == "__main__":
    sys.exit(main())
