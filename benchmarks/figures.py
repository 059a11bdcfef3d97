"""What follows from the results: errors, targets, tables. Nothing is measured here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean, median, quantiles
from typing import Any, NamedTuple

from benchmarks import attribution
from benchmarks.contestants import INTERVAL, OBSERVER, OURS, PEERS, WITHOUT_HOLDERS

MEAN_ERROR = 0.015
WORST_ERROR = 0.04
SHARE_OF_PEER = 0.1
BARE_THREADS = 1.5
CALLBACK = 100e-6
MEMORY = {OURS: 2 * 2**20, OBSERVER: 5 * 2**20}
RATIOS_TO_OURS = {OBSERVER: 2.5, WITHOUT_HOLDERS: 1.5}
"""Of CPU times, at most."""

SHARE_ERROR = 0.05
SHORTEST_WINDOW = 10.0
"""Seconds; the targets are for windows as long as this, or longer."""

Row = dict[str, Any]
"""A workload: its `workload`, and its `readings`, the answer of `benchmarks.play` for each contestant."""


class Verdict(NamedTuple):
    """Was a target met? `met` is None where what it takes was not measured."""

    target: str
    measured: str
    met: bool | None


class Share(NamedTuple):
    """What a thread or function had of the time in which the GIL was held, and what the observer says it had."""

    workload: str
    by: str
    name: str
    truth: float
    estimate: float
    floor: float


class Errors(NamedTuple):
    """Absolute errors of a contestant."""

    mean: float
    worst: float
    rows: int


class Spread(NamedTuple):
    """A median with its quartiles."""

    low: float
    median: float
    high: float
    runs: int


def error(reading: dict[str, Any]) -> float | None:
    """Estimate - truth of its own process; None where there is no estimate."""
    return None if "problem" in reading else float(reading["estimate"] - reading["truth"])


def truth(row: Row) -> float | None:
    """The mean of what the processes made; None where nobody measured."""
    truths = [reading["truth"] for reading in row["readings"].values() if "problem" not in reading]
    return fmean(truths) if truths else None


def floor(contention: float, seconds: float, interval: float = INTERVAL) -> float:
    """The sampling error that theory allows: one standard deviation."""
    return math.sqrt(contention * (1 - contention) * interval / seconds)


def tolerance(contention: float, seconds: float) -> float:
    """The error that noise does not reach: four standard deviations, and what a busy machine may add."""
    return 4 * floor(contention, seconds) + 0.06


def errors(rows: Iterable[Row], contestant: str) -> Errors | None:
    """Over windows that are long enough; None without any."""
    found = [
        abs(deviation)
        for row in rows
        if (reading := row["readings"].get(contestant)) is not None
        and (deviation := error(reading)) is not None
        and reading["seconds"] >= SHORTEST_WINDOW
    ]
    return Errors(fmean(found), max(found), len(found)) if found else None


def shares(answers: dict[str, dict[str, Any]]) -> list[Share]:
    """By thread, and by function, for each workload that has an answer of `benchmarks.attribution`."""
    found = []
    for workload, answer in answers.items():
        if "problem" in answer:
            continue
        for k, by in enumerate(("thread", "function")):
            names = dict.fromkeys(row[k] for row in answer["truth"] if row[k])
            truth, held = (_shares(answer[rows], k, names) for rows in ("truth", "held"))
            for name in (*names, _REST):
                lowest = floor(truth[name], answer["seconds"], attribution.INTERVAL)
                found.append(Share(workload, by, name, truth[name], held[name], lowest))
    return found


_REST = "(the rest)"


def _shares(rows: Sequence[Sequence[Any]], k: int, names: Iterable[str]) -> dict[str, float]:
    """Of all seconds; what has none of the names is the rest."""
    seconds = dict.fromkeys((*names, _REST), 0.0)
    for row in rows:
        seconds[row[k] if row[k] in seconds else _REST] += row[2]
    total = sum(seconds.values())
    return {name: held / total if total else 0.0 for name, held in seconds.items()}


def spread(values: Sequence[float]) -> Spread:
    """Of two values or more."""
    low, _, high = quantiles(values, n=4, method="inclusive")
    return Spread(low, median(values), high, len(values))


def ratios(rounds: Iterable[dict[str, float]], a: str, b: str) -> list[float]:
    """a / b of the rounds that have both."""
    return [one[a] / one[b] for one in rounds if a in one and b in one]


def verdicts(results: dict[str, Any]) -> list[Verdict]:
    """What became of each target."""
    rows, costs = results["accuracy"], results["costs"]
    found = []
    for contestant in (OURS, OBSERVER):
        if contestant not in results["settings"]["monitors"]:
            continue
        warm = [each["warm"] for each in costs["callback"].get(contestant, ())]
        memory = costs["memory"].get(contestant)
        targets = [
            *_accuracy(rows, contestant),
            *(_cpu(costs["cpu"]) if contestant == OURS else _cpu_of_observer(costs["cpu"])),
            *_slow_down(costs["slow-down"], contestant),
            _at_most("callback, warm", max(warm, default=None), CALLBACK, 1e6, "µs"),
            _at_most("memory", median(memory) if memory else None, MEMORY[contestant], 2**-20, "MiB"),
        ]
        found += [each._replace(target=_of(contestant) + each.target) for each in targets]
    if OBSERVER in results["settings"]["monitors"]:
        off = [abs(share.estimate - share.truth) for share in shares(results["attribution"])]
        name = "worst absolute error of a holder's share"
        found.append(_at_most(_of(OBSERVER) + name, max(off, default=None), SHARE_ERROR, 1, ""))
    return found


def _of(contestant: str) -> str:
    return "" if contestant == OURS else f"{contestant.removeprefix(OURS).strip()}: "


def _at_most(name: str, value: float | None, bound: float, scale: float, unit: str) -> Verdict:
    target = f"{name} <= {bound * scale:.4g} {unit}".rstrip()
    if value is None:
        return Verdict(target, "not measured", None)
    return Verdict(target, f"{value * scale:.3g} {unit}".rstrip(), value <= bound)


def _accuracy(rows: Sequence[Row], contestant: str) -> list[Verdict]:
    ours = errors(rows, contestant)
    found = {peer: each.mean for peer in PEERS if (each := errors(rows, peer))}
    best = min(found, key=lambda peer: found[peer], default=None)
    share = ours.mean / found[best] if ours and best else None
    return [
        _at_most("mean absolute error", ours and ours.mean, MEAN_ERROR, 1, ""),
        _at_most("worst absolute error", ours and ours.worst, WORST_ERROR, 1, ""),
        _at_most(f"mean absolute error / that of {best or 'a peer'}", share, SHARE_OF_PEER, 1, ""),
    ]


def _cpu(cpu: dict[str, list[dict[str, float]]]) -> list[Verdict]:
    found = []
    for condition, rounds in cpu.items():
        bounds = {"gilknocker": 1.0} | ({"bare thread": BARE_THREADS} if condition == "idle" else {})
        for peer, bound in bounds.items():
            values = ratios(rounds, OURS, peer)
            found.append(
                _at_most(f"CPU, {condition}: ratio to {peer}", median(values) if values else None, bound, 1, "")
            )
    return found


def _cpu_of_observer(cpu: dict[str, list[dict[str, float]]]) -> list[Verdict]:
    return [
        _at_most(f"CPU, {condition}{holders}: ratio to {OURS}", median(values) if values else None, bound, 1, "")
        for condition, rounds in cpu.items()
        for (contestant, bound), holders in zip(RATIOS_TO_OURS.items(), ("", ", holders none"), strict=True)
        for values in [ratios(rounds, contestant, OURS)]
    ]


def _slow_down(pairs: dict[str, list[tuple[float, float]]], contestant: str) -> list[Verdict]:
    target = "slow-down <= half the range between its quartiles"
    if len(pairs.get(contestant, ())) < 2:
        return [Verdict(target, "not measured", None)]
    low, middle, high, runs = spread([with_it / without for with_it, without in pairs[contestant]])
    measured = f"{middle:.3f} times ({low:.3f} to {high:.3f}, {runs} pairs)"
    return [Verdict(target, measured, middle - 1 <= (high - low) / 2)]


def markdown(results: dict[str, Any]) -> str:
    """All tables."""
    machine, versions = results["machine"], results["versions"]
    conditions = ", ".join(f"{name} {version}" for name, version in versions.items())
    return "\n".join(
        [
            f"{machine['cpus']} CPUs ({machine['model']}), Linux {machine['kernel']}; {conditions}; {results['date']}.",
            "",
            "## Targets",
            "",
            *_table(
                ["target", "measured", ""],
                [[each.target, each.measured, said(each)] for each in verdicts(results)],
            ),
            "",
            "## Accuracy",
            "",
            *accuracy_table(results["accuracy"], results["settings"]["monitors"]),
            "",
            "Contention, estimate and (error). Each monitor has a process of its own and is compared with the truth in it; "
            "the column has their mean. The floor is √(p(1−p)·0.02/T), one standard deviation.",
            "",
            *_problems(results["accuracy"]),
            *_attribution(results["attribution"]),
            "## Costs",
            "",
            *costs_table(results["costs"]),
            "",
            *(f"Not measured: {problem}" for problem in results["costs"]["problems"]),
        ]
    )


def said(verdict: Verdict) -> str:
    return {True: "met", False: "MISSED", None: "not measured"}[verdict.met]


def accuracy_table(rows: Sequence[Row], contestants: Sequence[str]) -> list[str]:
    """Lines of Markdown: a workload each, and the errors of all."""
    lines = []
    for row in rows:
        readings = [row["readings"].get(contestant, {"problem": ""}) for contestant in contestants]
        made = truth(row)
        seconds = min((reading["seconds"] for reading in readings if "problem" not in reading), default=None)
        lowest = "-" if made is None or seconds is None else f"{floor(made, seconds):.3f}"
        lines.append([row["workload"], _number(made), *map(_cell, readings), lowest])
    for name in ("mean", "worst"):
        found = [errors(rows, contestant) for contestant in contestants]
        lines.append(
            [
                f"**{name} absolute error**",
                "",
                *(f"**{getattr(each, name):.3f}**" if each else "-" for each in found),
                "",
            ]
        )
    return _table(["workload", "truth", *contestants, "floor"], lines)


def _cell(reading: dict[str, Any]) -> str:
    deviation = error(reading)
    return "-" if deviation is None else f"{reading['estimate']:.3f} ({deviation:+.3f})".replace("-", "−")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _problems(rows: Sequence[Row]) -> list[str]:
    lines = [
        f"- {contestant}, {row['workload']}: {reading['problem']}"
        for row in rows
        for contestant, reading in row["readings"].items()
        if "problem" in reading
    ]
    return ["Not measured:", "", *lines, ""] if lines else []


def _attribution(answers: dict[str, dict[str, Any]]) -> list[str]:
    """The section of Markdown on whom the observer credits; nothing where that was not asked."""
    if not answers:
        return []
    return [
        "## Attribution",
        "",
        *_table(
            ["workload", "by", "holder", "truth", OBSERVER, "floor"],
            [
                [
                    each.workload,
                    each.by,
                    each.name,
                    f"{each.truth:.3f}",
                    _cell({"truth": each.truth, "estimate": each.estimate}),
                    f"{each.floor:.3f}",
                ]
                for each in shares(answers)
            ],
        ),
        "",
        f"Shares of the time for which the GIL was held, estimate and (error), at {1000 * attribution.INTERVAL:g} ms. The "
        "truth is the CPU time of those that compute, and the time of calls of C that sleep with the GIL.",
        "",
        *(f"Not measured: {name}: {each['problem']}" for name, each in answers.items() if "problem" in each),
        "",
    ]


def costs_table(costs: dict[str, Any]) -> list[str]:
    """Lines of Markdown: CPU of each contestant, slow-down, and the costs that only otel-gil is asked for."""
    lines = []
    for condition, rounds in costs["cpu"].items():
        for contestant in dict.fromkeys(name for one in rounds for name in one):
            values = [one[contestant] for one in rounds if contestant in one]
            compared = ratios(rounds, contestant, "bare thread")
            against = f"{median(compared):.2f} times a bare thread" if compared else ""
            lines.append(
                [
                    f"CPU, {condition}: {contestant}",
                    f"{100 * median(values):.2f} % of a core",
                    against,
                    f"{len(values)}",
                ]
            )
    for contestant, pairs in costs["slow-down"].items():
        low, middle, high, runs = spread([with_it / without for with_it, without in pairs])
        lines.append(
            [f"4 threads of Python: {contestant}", f"{middle:.3f} times as slow", f"{low:.3f} to {high:.3f}", f"{runs}"]
        )
    for contestant, quantiles_of in costs["latency"].items():
        for quantile, pairs in quantiles_of.items():
            low, middle, high, runs = spread([with_it / without for with_it, without in pairs])
            without = median(without for _, without in pairs)
            lines.append(
                [
                    f"asyncio echo, {quantile}: {contestant}",
                    f"{middle:.3f} times",
                    f"{low:.3f} to {high:.3f} of {1e3 * without:.2f} ms",
                    f"{runs}",
                ]
            )
    for contestant, grown in costs["memory"].items():
        lines.append([f"memory: {contestant}", f"{median(grown) / 2**20:.2f} MiB", "", f"{len(grown)}"])
    for contestant, counts in costs["callback"].items():
        for each in counts:
            lines.append(
                [
                    f"callback, {each['threads']} idle threads: {contestant}",
                    f"{1e6 * each['warm']:.0f} µs warm, {1e6 * each['cold']:.0f} µs cold",
                    f"one that does nothing: {1e6 * each['nothing']:.0f} µs cold",
                    "1",
                ]
            )
    return _table(["cost", "median", "against, or quartiles", "runs"], lines)


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines)]
