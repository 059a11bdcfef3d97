"""Measure how right otel-gil and its peers are, and what they cost: `python -m benchmarks`, or `make bench`.

It takes half an hour or more, with --quick some five minutes, and should have the machine for itself. --slow-down and
--intervals measure something else. Written are:

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
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import attribution, costs, figures, memory, picture, waits
from benchmarks.contestants import AT_INTERVALS, MONITORS, OURS, POISSON, UnavailableError
from benchmarks.play import Play, play
from benchmarks.workloads import CYCLES, WORKLOADS
from otel_gil._samplers import disabled, observer

_PACKAGES = ("otel-gil", "opentelemetry-sdk", "gilknocker", "distributed", "py-spy", "numpy")


PARTS = ("accuracy", "attribution", "waits", "cpu", "slow-down", "latency", "memory", "callback")


@dataclass(frozen=True)
class Plan:
    """What is measured, and for how long: seconds of one run, and how many runs.

    Attributes:
        parts: those of `PARTS` that are measured.
        seconds, busy_seconds: windows of the workloads that leave the cores alone, and of those that do not; the same
            for `cpu_seconds`.
    """

    parts: tuple[str, ...] = PARTS
    workloads: tuple[str, ...] = tuple(WORKLOADS)
    monitors: tuple[str, ...] = tuple(MONITORS)
    seconds: float = 12.0
    busy_seconds: float = 10.0
    attributions: tuple[str, ...] = tuple(attribution.WORKLOADS)
    attribution_seconds: float = 30.0
    waits: tuple[str, ...] = tuple(waits.WORKLOADS)
    waits_seconds: float = 20.0
    conditions: tuple[str, ...] = costs.CONDITIONS
    cpu_seconds: float = 5.0
    busy_cpu_seconds: float = 2.5
    cpu_rounds: int = 2
    slow_down_seconds: float = 0.6
    slow_down_pairs: int = 10
    latency_seconds: float = 2.5
    latency_pairs: int = 3
    memory_seconds: float = 5.0
    memory_runs: int = 5
    callback_seconds: float = 11.0


QUICK = Plan(
    workloads=(
        "hold 1 s, free 50 ms",
        "hold 10 ms, free 10 ms",
        "log-normal, medians: hold 11 ms, free 18 ms",
        "pure-Python hot loop",
    ),
    monitors=(OURS, POISSON, "gilknocker", "Dask", "py-spy"),
    seconds=10.0,
    attributions=tuple(attribution.WORKLOADS)[:1],
    attribution_seconds=10.0,
    waits=("four hot loops", "hold 30 ms, sleep 60 ms, beside a hot loop"),
    waits_seconds=6.0,
    conditions=("idle", "hold 10 ms, free 10 ms"),
    cpu_seconds=3.0,
    cpu_rounds=1,
    slow_down_seconds=0.3,
    slow_down_pairs=4,
    latency_seconds=1.0,
    latency_pairs=2,
    memory_seconds=1.0,
    memory_runs=3,
    callback_seconds=3.0,
)

SLOW_DOWN = Plan(parts=("slow-down",), monitors=(OURS,), slow_down_seconds=1.0, slow_down_pairs=300)

AT = Plan(
    parts=("accuracy", "cpu"),
    workloads=tuple(CYCLES) * 3,
    monitors=(*AT_INTERVALS, POISSON, "gilknocker"),
    conditions=costs.CONDITIONS[:3],
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
    monitors = [monitor for monitor in plan.monitors if monitor in costs.IN_PROCESS]
    samplers = [sampler for sampler in plan.monitors if sampler in costs.SAMPLERS]
    found: dict[str, Any] = {part: {} for part in PARTS[3:]}
    found["problems"] = []
    for condition in plan.conditions if "cpu" in plan.parts else ():
        _progress(f"costs: CPU, {condition}")
        seconds = plan.busy_cpu_seconds if WORKLOADS[condition].busy else plan.cpu_seconds
        found["cpu"][condition] = costs.cpu(play, monitors, condition, seconds, plan.cpu_rounds)
    for contestant in monitors if "slow-down" in plan.parts else ():
        _progress(f"costs: slow-down by {contestant}")
        try:
            found["slow-down"][contestant] = costs.slow_down(contestant, plan.slow_down_seconds, plan.slow_down_pairs)
        except UnavailableError as reason:
            found["problems"].append(f"slow-down by {contestant}: {reason}")
    measure: dict[str, Callable[[str], Any]] = {
        "latency": lambda sampler: costs.latency(sampler, plan.latency_seconds, plan.latency_pairs),
        "memory": lambda sampler: memory.grown(sampler, plan.memory_seconds, plan.memory_runs),
        "callback": lambda sampler: costs.callback(sampler, plan.callback_seconds),
    }
    for part in (part for part in measure if part in plan.parts):
        _progress(f"costs: {part}")
        found[part] = {sampler: measure[part](sampler) for sampler in samplers}
    return found


def answers(
    plan: Plan, part: str, workloads: Iterable[str], played: Callable[[str, float], dict[str, Any]], seconds: float
) -> dict[str, dict[str, Any]]:
    """Of `benchmarks.attribution` or `benchmarks.waits`; none without the monitor that is asked."""
    found = {}
    for workload in workloads if part in plan.parts and OURS in plan.monitors else ():
        _progress(f"{part}: {workload}")
        found[workload] = played(workload, seconds)
    return found


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    return {"cpus": os.cpu_count(), "model": model, "kernel": platform.release(), "architecture": platform.machine()}


def others_cpu() -> float:
    """CPU seconds of all that is not this process, or a child of it that has ended."""
    _, user, nice, system, _, _, interrupts, soft, *_ = Path("/proc/stat").read_text().splitlines()[0].split()
    ticks = sum(map(int, (user, nice, system, interrupts, soft)))
    return ticks / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


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
    begin, others = time.monotonic(), others_cpu()
    if reason := observer.unavailable():
        _progress(f"without {OURS}: {reason}")
        plan = replace(plan, monitors=tuple(name for name in plan.monitors if name not in (OURS, *AT_INTERVALS)))
    output.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine(),
        "versions": versions(),
        "settings": asdict(plan),
        "accuracy": accuracy(plan, play) if "accuracy" in plan.parts else [],
        "attribution": answers(plan, "attribution", plan.attributions, attribution.played, plan.attribution_seconds),
        "waits": answers(plan, "waits", plan.waits, waits.played, plan.waits_seconds),
        "costs": measured_costs(plan),
    }
    results["minutes"] = (time.monotonic() - begin) / 60
    results["others"] = (others_cpu() - others) / (time.monotonic() - begin)
    verdicts = figures.verdicts(results)
    results["targets"] = [verdict._asdict() for verdict in verdicts]
    (output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (output / "results.md").write_text(figures.markdown(results))
    if results["accuracy"]:
        picture.draw(results["accuracy"], plan.monitors, output / "accuracy.svg")
    for verdict in verdicts:
        print(f"{verdict.target:60} {verdict.measured:40} {figures.said(verdict)}")
    print(
        f"Other processes took {100 * results['others']:.0f} % of a core: more than a few, and nothing here is exact."
    )
    print(f"{results['minutes']:.1f} minutes; results.json, results.md and accuracy.svg are in {output}")
    return 1 if any(verdict.met is False for verdict in verdicts) else 0


def _progress(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer workloads, and shorter runs")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--slow-down", action="store_true", help="nothing but that, so often that it is known to .003")
    other.add_argument("--intervals", action="store_true", help="error and CPU at sampling intervals of 5 to 20 ms")
    parser.add_argument("--output", type=Path, default=Path("build/bench"), help="directory (default: %(default)s)")
    arguments = parser.parse_args()
    if disabled.unavailable() is None:
        sys.exit("The GIL is disabled: there is nothing to measure.")
    plan = SLOW_DOWN if arguments.slow_down else AT if arguments.intervals else QUICK if arguments.quick else Plan()
    return run(replace(plan, parts=tuple(arguments.only)) if arguments.only else plan, arguments.output)


if __name__ == "__main__":
    sys.exit(main())
