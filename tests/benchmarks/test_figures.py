"""Errors, targets and tables, from results that are made up."""

from __future__ import annotations

import copy
from pathlib import Path
from random import Random
from typing import Any

import pytest

from benchmarks import figures, picture
from benchmarks.figures import Errors, Interval, Spread, Verdict, verdicts


def reading(truth: float, estimate: float, seconds: float = 10.0) -> dict[str, Any]:
    return {"truth": truth, "estimate": estimate, "seconds": seconds, "cpu": 0.01}


def cpu(ours: float, poisson: float, gilknocker: float) -> dict[str, float]:
    return {"otel-gil": ours, "otel-gil poisson": poisson, "gilknocker": gilknocker}


ROWS: list[figures.Row] = [
    {
        "workload": "half",
        "readings": {
            "otel-gil": reading(0.5, 0.51),
            "otel-gil poisson": reading(0.5, 0.48),
            "gilknocker": reading(0.5, 0.9),
            "Dask": reading(0.52, 0.22),
            "py-spy": {"problem": "could not attach: it is not allowed"},
        },
    },
    {
        "workload": "all",
        "readings": {
            "otel-gil": reading(1.0, 1.0),
            "otel-gil poisson": reading(1.0, 1.0),
            "gilknocker": reading(1.0, 0.8),
            "Dask": reading(1.0, 0.9),
            "py-spy": {"problem": "could not attach: it is not allowed"},
        },
    },
]

SAMPLERS = ("otel-gil", "otel-gil poisson")

ATTRIBUTION: dict[str, Any] = {
    "two": {
        "truth": [["a", "m.f", 1.0], ["a", "m.g", 2.0], ["b", "m.f", 1.0], ["b", "", 0.0]],
        "held": [["a", "m.f", 2.0], ["a", "m.g", 4.0], ["b", "m.f", 1.9], ["_other", "_other", 0.1]],
        "seconds": 5.0,
    },
    "gone": {"problem": "ended with 1"},
}

WAITS: dict[str, Any] = {
    "three": {
        "seconds": 10.0,
        "truth": {"contended": 10.0, "threads": {"a": 10.0, "b": 5.0, "c": 5.0}},
        "estimate": {"contended": 9.8, "threads": {"a": 9.9, "b": 4.95, "_other": 4.75}},
    },
    "none": {
        "seconds": 10.0,
        "truth": {"contended": 0.0, "threads": {"a": 0.0}},
        "estimate": {"contended": 0.1, "threads": {"a": 0.1}},
    },
    "gone": {"problem": "ended with 1"},
}

RESULTS: dict[str, Any] = {
    "date": "2025-01-01",
    "machine": {"cpus": 2, "model": "a model", "kernel": "6.1", "architecture": "x86_64"},
    "versions": {"CPython": "3.13.0", "otel-gil": "0.1"},
    "settings": {"monitors": ["otel-gil", "otel-gil poisson", "gilknocker", "Dask", "py-spy"]},
    "others": 0.012,
    "accuracy": ROWS,
    "attribution": ATTRIBUTION,
    "waits": {"two": {**WAITS["three"], "estimate": WAITS["three"]["truth"]}, "gone": {"problem": "ended with 1"}},
    "costs": {
        "cpu": {
            "idle": [cpu(0.003, 0.002, 0.004), cpu(0.009, 0.007, 0.010), cpu(0.003, 0.002, 0.004)],
            "pure-Python hot loop": [cpu(0.003, 0.002, 0.001)],
            "two hot loops": [cpu(0.003, 0.001, 0.001)],
        },
        "slow-down": dict.fromkeys(SAMPLERS, [(1.0 + n / 1e4, 1.0) for n in range(50)]),
        "latency": {"otel-gil": {"p99": [(0.002, 0.001), (0.001, 0.001)]}},
        "memory": {
            "otel-gil": [{"Rss": 900_000.0, "Anonymous": 500_000.0}, {"Rss": 1_000_000.0, "Anonymous": 500_000.0}],
            "otel-gil poisson": [{"Rss": 800_000.0, "Anonymous": 500_000.0}],
        },
        "callback": {
            name: [{"threads": 1, "warm": 20e-6, "cold": 1e-4, "nothing": 1e-5, "collection": 4e-4}]
            for name in SAMPLERS
        },
        "problems": ["slow-down by Dask: No module named 'distributed'"],
    },
}


def test_errors() -> None:
    assert figures.errors(ROWS, "otel-gil") == pytest.approx(Errors(0.005, 0.01, 2))
    assert figures.errors(ROWS, "Dask") == pytest.approx(Errors(0.2, 0.3, 2))
    assert figures.errors(ROWS, "py-spy") is None
    short = [{"workload": "half", "readings": {"otel-gil": reading(0.5, 0.9, seconds=9.0)}}]
    assert figures.errors(short, "otel-gil") is None
    assert figures.truth(ROWS[0]) == pytest.approx(0.505)
    assert figures.truth({"workload": "none", "readings": {"py-spy": {"problem": ""}}}) is None


def test_spread() -> None:
    assert figures.spread([1.0, 2.0, 3.0, 4.0, 5.0]) == Spread(2.0, 3.0, 4.0, 5)


def test_all_targets_are_met() -> None:
    assert [(verdict.target, verdict.met) for verdict in verdicts(RESULTS)] == [
        ("mean absolute error <= 0.01", True),
        ("worst absolute error <= 0.04", True),
        ("CPU, idle: ratio to gilknocker <= 1", True),
        ("CPU, idle: ratio to otel-gil poisson <= 1.52 (the former observer's)", True),
        ("CPU, pure-Python hot loop: ratio to otel-gil poisson <= 2.21 (the former observer's)", True),
        ("memory <= 1 MiB", True),
        ("callback <= 100 µs", True),
        ("worst absolute error of a holder's share <= 0.03", True),
        ("worst absolute error of contended time <= 0.03", True),
        ("worst absolute error of wait time <= 0.03", True),
        ("worst absolute error of a thread's share of it <= 0.03", True),
        ("slow-down <= 1.003", True),
    ]


def _missed(change: Any) -> list[str]:
    results = copy.deepcopy(RESULTS)
    change(results)
    return [verdict.target for verdict in verdicts(results) if verdict.met is False]


def _estimate(results: dict[str, Any], row: int, estimate: float) -> None:
    results["accuracy"][row]["readings"]["otel-gil"]["estimate"] = estimate


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        (lambda r: _estimate(r, 0, 0.525), ["mean absolute error <= 0.01"]),
        (lambda r: _estimate(r, 0, 0.545), ["mean absolute error <= 0.01", "worst absolute error <= 0.04"]),
        (lambda r: r["costs"]["cpu"]["idle"][0].update({"otel-gil": 0.0041}), []),
        (
            lambda r: [one.update({"gilknocker": 0.0029}) for one in r["costs"]["cpu"]["idle"][::2]],
            ["CPU, idle: ratio to gilknocker <= 1"],
        ),
        (
            lambda r: r["costs"]["cpu"].update({"hold 10 ms, free 10 ms": [cpu(0.002, 0.001, 0.001)]}),
            ["CPU, hold 10 ms, free 10 ms: ratio to otel-gil poisson <= 1.97 (the former observer's)"],
        ),
        (lambda r: r["costs"]["callback"]["otel-gil"].append({"warm": 2e-4}), ["callback <= 100 µs"]),
        (lambda r: r["costs"]["memory"].update({"otel-gil": [{"Rss": 3e6}]}), ["memory <= 1 MiB"]),
        (
            lambda r: r["attribution"]["two"]["held"].append(["c", "m.h", 0.3]),
            ["worst absolute error of a holder's share <= 0.03"],
        ),
        (
            lambda r: r["waits"]["two"].update(estimate={"contended": 9.6, "threads": {"a": 10.0, "b": 5.0, "c": 5.0}}),
            ["worst absolute error of contended time <= 0.03"],
        ),
        (
            lambda r: r["waits"]["two"].update(estimate={"contended": 10.0, "threads": {"a": 9.0, "b": 4.5, "c": 4.5}}),
            ["worst absolute error of wait time <= 0.03"],
        ),
        (
            lambda r: r["waits"]["two"].update(estimate={"contended": 10.0, "threads": {"a": 9.0, "b": 6.0, "c": 5.0}}),
            ["worst absolute error of a thread's share of it <= 0.03"],
        ),
        (
            lambda r: r["costs"]["slow-down"].update({"otel-gil": [(1.004 + n / 1e4, 1.0) for n in range(50)]}),
            ["slow-down <= 1.003"],
        ),
    ],
)
def test_a_target_is_missed(change: Any, missed: list[str]) -> None:
    assert _missed(change) == missed


def test_what_was_not_measured_is_not_met() -> None:
    results = copy.deepcopy(RESULTS)
    for row in results["accuracy"]:
        row["readings"] = {name: {"problem": "gone"} for name in row["readings"]}
    results["costs"] |= {"cpu": {"idle": []}, "slow-down": {}, "memory": {}, "callback": {}}
    results["attribution"] = results["waits"] = {}
    assert {verdict.met for verdict in verdicts(results)} == {None}
    assert Verdict("memory <= 1 MiB", "not measured", None) in verdicts(results)
    # A slow-down that is hardly known is neither met nor missed.
    results["costs"]["slow-down"] = {"otel-gil": [(1.0, 1.0), (1.05, 1.0), (1.02, 1.0)]}
    assert {verdict.met for verdict in verdicts(results)} == {None}


def test_shares() -> None:
    """By thread and by function, of all that was held. What the truth does not name is the rest."""
    shares = {(each.by, each.name): each[3:5] for each in figures.shares(ATTRIBUTION)}
    assert shares == {
        ("thread", "a"): pytest.approx((0.75, 0.75)),
        ("thread", "b"): pytest.approx((0.25, 0.2375)),
        ("thread", "(the rest)"): pytest.approx((0.0, 0.0125)),
        ("function", "m.f"): pytest.approx((0.5, 0.4875)),
        ("function", "m.g"): pytest.approx((0.5, 0.5)),
        ("function", "(the rest)"): pytest.approx((0.0, 0.0125)),
    }
    assert {each.workload for each in figures.shares(ATTRIBUTION)} == {"two"}


def test_waits() -> None:
    """Of more than one thread that waits, the error is a share of them."""
    found = {(each.workload, each.what): each[2:] for each in figures.waits(WAITS)}
    assert found == {
        ("three", "contended"): pytest.approx((1.0, 0.98, -0.02)),
        ("three", "waiting"): pytest.approx((2.0, 1.96, -0.02)),
        ("three", "a"): pytest.approx((0.5, 0.505, 0.005), abs=0.001),
        ("three", "b"): pytest.approx((0.25, 0.2525, 0.0025), abs=0.001),
        ("three", "c"): pytest.approx((0.25, 0.0, -0.25)),
        ("none", "contended"): pytest.approx((0.0, 0.01, 0.01)),
        ("none", "waiting"): pytest.approx((0.0, 0.01, 0.01)),
    }


def test_interval_of_a_median() -> None:
    """It has the true one in it in 95 % of all cases, or some more."""
    assert figures.interval([3.0, 1.0, 2.0]) == Interval(1.0, 2.0, 3.0, 3)
    assert figures.interval([float(n) for n in range(100)]) == Interval(39.0, 49.5, 60.0, 100)
    random = Random(0)
    found = [figures.interval([random.gauss(1, 0.1) for _ in range(30)]) for _ in range(1000)]
    assert 0.945 <= sum(each.low <= 1 <= each.high for each in found) / 1000 <= 0.975


def test_without_the_recorder() -> None:
    results = copy.deepcopy(RESULTS)
    results["settings"]["monitors"].remove("otel-gil")
    results["attribution"] = results["waits"] = {}
    text = figures.markdown(results)
    assert "## Attribution" not in text
    assert "## Waits" not in text


def test_markdown() -> None:
    text = figures.markdown(RESULTS)
    lines = text.splitlines()
    assert "| workload | truth | otel-gil | otel-gil poisson | gilknocker | Dask | py-spy | floor |" in lines
    half = "| half | 0.505 | 0.510 (+0.010) | 0.480 (−0.020) | 0.900 (+0.400) | 0.220 (−0.300) | - |"
    assert f"{half} {figures.floor(0.505, 10):.3f} |" in lines
    assert "| **mean absolute error** |  | **0.005** | **0.010** | **0.300** | **0.200** | - |  |" in lines
    assert "- py-spy, half: could not attach: it is not allowed" in lines
    assert "Not measured: slow-down by Dask: No module named 'distributed'" in lines
    assert "| CPU, idle: otel-gil | 0.30 % of a core | 0.75 times gilknocker | 3 |" in lines
    assert f"| two | thread | b | 0.250 | 0.237 (−0.013) | {figures.floor(0.25, 5):.3f} |" in lines
    assert "| two | waiting | 2.000 | 2.000 (+0.000) |" in lines
    assert "| memory: otel-gil | 0.91 MiB | without pages of files: 0.48 MiB | 2 |" in lines
    assert "Not measured: gone: ended with 1" in lines
    tables = [line for line in lines if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)


def test_picture_is_the_same_again(tmp_path: Path) -> None:
    pictures = []
    for name in ("a.svg", "b.svg"):
        picture.draw(ROWS, RESULTS["settings"]["monitors"], tmp_path / name)
        pictures.append((tmp_path / name).read_text())
    assert pictures[0] == pictures[1]
    assert "<svg" in pictures[0]
    assert "dc:date" not in pictures[0]
