"""What follows from the results: errors, targets, tables. Nothing is measured here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean, median, quantiles
from typing import Any, NamedTuple

from benchmarks import memory
from benchmarks.contestants import INTERVALS, OURS, POISSON

MEAN_ERROR = 0.01
WORST_ERROR = 0.04
CALLBACK = 100e-6
MEMORY = 2**20
SHARE_ERROR = 0.03
WAIT_ERROR = 0.03
SLOW_DOWN = 1.003
SLOW_DOWN_KNOWN = 0.003
"""Half the 95 % interval of a slow-down that is known well enough."""

FORMER_OBSERVER = {"idle": 1.52, "hold 10 ms, free 10 ms": 1.97, "pure-Python hot loop": 2.21}
"""CPU times of the observer that there was before the recorder, in times those of `poisson` in the same run.

As in docs/accuracy.md of 2026-11-24, at commit ad6f38b: .14, .34 and .25 % of a core.
"""

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
    """What a thread or function had of the time in which the GIL was held, and what otel-gil says it had."""

    workload: str
    by: str
    name: str
    truth: float
    estimate: float
    floor: float


class Wait(NamedTuple):
    """What a workload knows of waits, and what otel-gil says.

    Attributes:
        what: `contended`, the share of time; `waiting`, the mean number of threads; or a thread, with its share of
            the time waited by all.
        off: the error, where more than one thread waits as a share of them.
    """

    workload: str
    what: str
    truth: float
    estimate: float
    off: float


class Errors(NamedTuple):
    """Absolute errors of a contestant."""

    mean: float
    worst: float
    rows: int


class Interval(NamedTuple):
    """A median with its 95 % confidence interval."""

    low: float
    median: float
    high: float
    runs: int


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


def floor(contention: float, seconds: float, interval: float = INTERVALS[OURS]) -> float:
    """The sampling error that theory allows: one standard deviation."""
    return math.sqrt(contention * (1 - contention) * interval / seconds)


def tolerance(contention: float, seconds: float, contestant: str = OURS) -> float:
    """The error that noise does not reach: four standard deviations, and what a busy machine may add."""
    return 4 * floor(contention, seconds, INTERVALS[contestant]) + 0.06


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
                lowest = floor(truth[name], answer["seconds"])
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


def waits(answers: dict[str, dict[str, Any]]) -> list[Wait]:
    """For each workload that has an answer of `benchmarks.waits`."""
    found = []
    for workload, answer in answers.items():
        if "problem" in answer:
            continue
        truth, estimate, seconds = answer["truth"], answer["estimate"], answer["seconds"]
        made, read = (each["contended"] / seconds for each in (truth, estimate))
        found.append(Wait(workload, "contended", made, read, read - made))
        all_made, all_read = (sum(each["threads"].values()) for each in (truth, estimate))
        off = (all_read - all_made) / seconds
        found.append(
            Wait(workload, "waiting", all_made / seconds, all_read / seconds, off / max(all_made / seconds, 1.0))
        )
        if not all_made or not all_read:
            continue
        for name in truth["threads"]:
            made, read = truth["threads"][name] / all_made, estimate["threads"].get(name, 0.0) / all_read
            found.append(Wait(workload, name, made, read, read - made))
    return found


def interval(values: Sequence[float]) -> Interval:
    """Of their median, whatever they are distributed like: six values or more; of fewer it is all of them."""
    ordered = sorted(values)
    n = len(ordered)
    # The rank up to which the binomial distribution of values below the median has less than 2.5 %.
    rank, below = 0, 0.5**n
    while below <= 0.025:
        rank += 1
        below += math.comb(n, rank) * 0.5**n
    rank = max(rank - 1, 0)
    return Interval(ordered[rank], median(ordered), ordered[n - 1 - rank], n)


def spread(values: Sequence[float]) -> Spread:
    """Of two values or more."""
    low, _, high = quantiles(values, n=4, method="inclusive")
    return Spread(low, median(values), high, len(values))


def ratios(rounds: Iterable[dict[str, float]], a: str, b: str) -> list[float]:
    """a / b of the rounds that have both."""
    return [one[a] / one[b] for one in rounds if a in one and b in one]


def verdicts(results: dict[str, Any]) -> list[Verdict]:
    """What became of each target."""
    costs = results["costs"]
    ours = errors(results["accuracy"], OURS)
    callbacks = [each["warm"] for each in costs["callback"].get(OURS, ())]
    memory = [each["Rss"] for each in costs["memory"].get(OURS, ())]
    off = [abs(share.estimate - share.truth) for share in shares(results["attribution"])]
    return [
        _at_most("mean absolute error", ours and ours.mean, MEAN_ERROR),
        _at_most("worst absolute error", ours and ours.worst, WORST_ERROR),
        *_cpu(costs["cpu"]),
        _at_most("memory", median(memory) if memory else None, MEMORY, 2**-20, "MiB"),
        _at_most("callback", max(callbacks, default=None), CALLBACK, 1e6, "µs"),
        _at_most("worst absolute error of a holder's share", max(off, default=None), SHARE_ERROR),
        *_waits(waits(results["waits"])),
        _slow_down(costs["slow-down"].get(OURS, ())),
    ]


def _at_most(name: str, value: float | None, bound: float, scale: float = 1, unit: str = "") -> Verdict:
    target = f"{name} <= {bound * scale:.4g} {unit}".rstrip()
    if value is None:
        return Verdict(target, "not measured", None)
    return Verdict(target, f"{value * scale:.3g} {unit}".rstrip(), value <= bound)


def _cpu(cpu: dict[str, list[dict[str, float]]]) -> list[Verdict]:
    found = []
    for condition, rounds in cpu.items():
        bounds = {"gilknocker": 1.0} if condition == "idle" else {}
        if condition in FORMER_OBSERVER:
            bounds[POISSON] = FORMER_OBSERVER[condition]
        for other, bound in bounds.items():
            values = ratios(rounds, OURS, other)
            whose = " (the former observer's)" if other == POISSON else ""
            verdict = _at_most(f"CPU, {condition}: ratio to {other}", median(values) if values else None, bound)
            found.append(verdict._replace(target=verdict.target + whose))
    return found


def _waits(found: Sequence[Wait]) -> list[Verdict]:
    kinds = {"contended time": ("contended",), "wait time": ("waiting",)}
    verdicts = [
        _at_most(
            f"worst absolute error of {name}",
            max((abs(each.off) for each in found if each.what in whats), default=None),
            WAIT_ERROR,
        )
        for name, whats in kinds.items()
    ]
    threads = [abs(each.off) for each in found if each.what not in ("contended", "waiting")]
    return [
        *verdicts,
        _at_most("worst absolute error of a thread's share of it", max(threads, default=None), WAIT_ERROR),
    ]


def _slow_down(pairs: Sequence[tuple[float, float]]) -> Verdict:
    """It is met where the interval contains the target, or is below it, if it is short enough to say so."""
    target = f"slow-down <= {SLOW_DOWN}"
    if len(pairs) < 2:
        return Verdict(target, "not measured", None)
    low, middle, high, runs = interval([with_it / without for with_it, without in pairs])
    measured = f"{middle:.4f} times ({low:.4f} to {high:.4f}, {runs} pairs)"
    return Verdict(target, measured, low <= SLOW_DOWN if high - low <= 2 * SLOW_DOWN_KNOWN else None)


def markdown(results: dict[str, Any]) -> str:
    """All tables."""
    machine, versions = results["machine"], results["versions"]
    conditions = ", ".join(f"{name} {version}" for name, version in versions.items())
    return "\n".join(
        [
            f"{machine['cpus']} CPUs ({machine['model']}), Linux {machine['kernel']}; {conditions}; {results['date']}. "
            f"Other processes took {100 * results['others']:.0f} % of a core.",
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
            f"the column has their mean. The floor is √(p(1−p)·{INTERVALS[OURS]:g}/T), one standard "
            f"deviation of as many independent looks as {OURS}'s.",
            "",
            *_problems(results["accuracy"]),
            *_attribution(results["attribution"]),
            *_waits_section(results["waits"]),
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
    """The section of Markdown on who is credited; nothing where that was not asked."""
    if not answers:
        return []
    return [
        "## Attribution",
        "",
        *_table(
            ["workload", "by", "holder", "truth", OURS, "floor"],
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
        "Shares of the time for which the GIL was held, estimate and (error). The truth is the CPU time of those that "
        "compute, and the time of calls of C that sleep with the GIL.",
        "",
        *(f"Not measured: {name}: {each['problem']}" for name, each in answers.items() if "problem" in each),
        "",
    ]


def _waits_section(answers: dict[str, dict[str, Any]]) -> list[str]:
    if not answers:
        return []
    return [
        "## Waits",
        "",
        *_table(
            ["workload", "what", "truth", OURS],
            [
                [
                    each.workload,
                    each.what,
                    f"{each.truth:.3f}",
                    f"{each.estimate:.3f} ({each.off:+.3f})".replace("-", "−"),
                ]
                for each in waits(answers)
            ],
        ),
        "",
        "The share of time in which a thread waited for the GIL, the mean number of those that did, and each thread's share "
        "of the time waited; estimate and (error), of a number above 1 as a share of it.",
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
            compared = ratios(rounds, contestant, "gilknocker")
            against = f"{median(compared):.2f} times gilknocker" if compared else ""
            lines.append(
                [
                    f"CPU, {condition}: {contestant}",
                    f"{100 * median(values):.2f} % of a core",
                    against,
                    f"{len(values)}",
                ]
            )
    for contestant, pairs in costs["slow-down"].items():
        low, middle, high, runs = interval([with_it / without for with_it, without in pairs])
        lines.append(
            [
                f"4 threads of Python: {contestant}",
                f"{middle:.4f} times as slow",
                f"95 %: {low:.4f} to {high:.4f}",
                f"{runs}",
            ]
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
        resident, own = (median(each[kind] for each in grown) / 2**20 for kind in memory.KINDS)
        lines.append(
            [f"memory: {contestant}", f"{resident:.2f} MiB", f"without pages of files: {own:.2f} MiB", f"{len(grown)}"]
        )
    for contestant, counts in costs["callback"].items():
        for each in counts:
            lines.append(
                [
                    f"callback, {each['threads']} threads: {contestant}",
                    f"{1e6 * each['warm']:.0f} µs warm, {1e6 * each['cold']:.0f} µs cold",
                    f"a collection: {1e6 * each['collection']:.0f} µs",
                    "1",
                ]
            )
    return _table(["cost", "median", "against, or range", "runs"], lines)


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines)]
