"""Errors, targets and tables, from results that are made up."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from benchmarks import figures, picture
from benchmarks.figures import Errors, Spread, Verdict, verdicts


def reading(truth: float, estimate: float, seconds: float = 10.0) -> dict[str, Any]:
    return {"truth": truth, "estimate": estimate, "seconds": seconds, "cpu": 0.01}


def cpu(ours: float, gilknocker: float, bare: float) -> dict[str, float]:
    return {
        "otel-gil": ours,
        "gilknocker": gilknocker,
        "bare thread": bare,
        "otel-gil observer": 2.4 * ours,
        "otel-gil observer, holders none": 1.4 * ours,
    }


ROWS: list[figures.Row] = [
    {
        "workload": "half",
        "readings": {
            "otel-gil": reading(0.5, 0.51),
            "otel-gil observer": reading(0.5, 0.48),
            "gilknocker": reading(0.5, 0.9),
            "Dask": reading(0.52, 0.22),
            "py-spy": {"problem": "could not attach: it is not allowed"},
        },
    },
    {
        "workload": "all",
        "readings": {
            "otel-gil": reading(1.0, 1.0),
            "otel-gil observer": reading(1.0, 1.0),
            "gilknocker": reading(1.0, 0.8),
            "Dask": reading(1.0, 0.9),
            "py-spy": {"problem": "could not attach: it is not allowed"},
        },
    },
]

SAMPLERS = ("otel-gil", "otel-gil observer")

ATTRIBUTION: dict[str, Any] = {
    "two": {
        "truth": [["a", "m.f", 1.0], ["a", "m.g", 2.0], ["b", "m.f", 1.0], ["b", "", 0.0]],
        "held": [["a", "m.f", 2.0], ["a", "m.g", 4.0], ["b", "m.f", 1.9], ["_other", "_other", 0.1]],
        "seconds": 5.0,
    },
    "gone": {"problem": "ended with 1"},
}

RESULTS: dict[str, Any] = {
    "date": "2025-01-01",
    "machine": {"cpus": 2, "model": "a model", "kernel": "6.1", "architecture": "x86_64"},
    "versions": {"CPython": "3.13.0", "otel-gil": "0.1"},
    "settings": {"monitors": ["otel-gil", "otel-gil observer", "gilknocker", "Dask", "py-spy"]},
    "accuracy": ROWS,
    "attribution": ATTRIBUTION,
    "costs": {
        "cpu": {
            "idle": [
                cpu(0.003, 0.004, 0.003),
                cpu(0.009, 0.010, 0.008),
                cpu(0.003, 0.004, 0.003),
            ]
        },
        "slow-down": dict.fromkeys(SAMPLERS, [(1.0, 1.0), (1.1, 1.0), (0.95, 1.0), (1.02, 1.0)]),
        "latency": {"otel-gil": {"p99": [(0.002, 0.001), (0.001, 0.001)]}},
        "memory": {"otel-gil": [900_000.0, 1_000_000.0], "otel-gil observer": [3_000_000.0]},
        "callback": {name: [{"threads": 1, "warm": 20e-6, "cold": 1e-4, "nothing": 1e-5}] for name in SAMPLERS},
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
    assert [verdict.met for verdict in verdicts(RESULTS)] == [True] * 17


def _missed(change: Any) -> list[str]:
    results = copy.deepcopy(RESULTS)
    change(results)
    return [verdict.target for verdict in verdicts(results) if verdict.met is False]


def _estimate(results: dict[str, Any], row: int, estimate: float) -> None:
    results["accuracy"][row]["readings"]["otel-gil"]["estimate"] = estimate


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        (lambda r: _estimate(r, 0, 0.535), ["mean absolute error <= 0.015"]),
        (
            lambda r: _estimate(r, 0, 0.545),
            [
                "mean absolute error <= 0.015",
                "worst absolute error <= 0.04",
                "mean absolute error / that of Dask <= 0.1",
            ],
        ),
        (
            lambda r: [row["readings"].update(gilknocker=reading(0.5, 0.54)) for row in r["accuracy"]],
            [
                "mean absolute error / that of gilknocker <= 0.1",
                "observer: mean absolute error / that of gilknocker <= 0.1",
            ],
        ),
        (lambda r: r["costs"]["cpu"]["idle"][0].update({"otel-gil": 0.0041}), []),
        (
            lambda r: [one.update({"otel-gil": 0.0101}) for one in r["costs"]["cpu"]["idle"][:2]],
            ["CPU, idle: ratio to gilknocker <= 1"],
        ),
        (
            lambda r: [one.update({"bare thread": 0.001}) for one in r["costs"]["cpu"]["idle"]],
            ["CPU, idle: ratio to bare thread <= 1.5"],
        ),
        (
            lambda r: r["costs"]["slow-down"].update({"otel-gil": [(1.02, 1.0), (1.03, 1.0), (1.04, 1.0)]}),
            ["slow-down <= half the range between its quartiles"],
        ),
        (lambda r: r["costs"]["callback"]["otel-gil"].append({"warm": 2e-4}), ["callback, warm <= 100 µs"]),
        (lambda r: r["costs"]["memory"].update({"otel-gil": [3e6]}), ["memory <= 2 MiB"]),
        (lambda r: r["costs"]["memory"].update({"otel-gil observer": [6e6]}), ["observer: memory <= 5 MiB"]),
        (
            lambda r: [one.update({"otel-gil observer": 2.6 * one["otel-gil"]}) for one in r["costs"]["cpu"]["idle"]],
            ["observer: CPU, idle: ratio to otel-gil <= 2.5"],
        ),
        (
            lambda r: r["costs"]["cpu"].update(
                hot=[{"otel-gil": 1.0, "gilknocker": 1.0, "otel-gil observer, holders none": 1.6}]
            ),
            ["observer: CPU, hot, holders none: ratio to otel-gil <= 1.5"],
        ),
        (
            lambda r: r["attribution"]["two"]["held"].append(["c", "m.h", 1.0]),
            ["observer: worst absolute error of a holder's share <= 0.05"],
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
    results["attribution"] = {}
    assert {verdict.met for verdict in verdicts(results)} == {None}
    assert Verdict("memory <= 2 MiB", "not measured", None) in verdicts(results)


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


def test_without_the_observer() -> None:
    results = copy.deepcopy(RESULTS)
    results["settings"]["monitors"].remove("otel-gil observer")
    results["attribution"] = {}
    assert [verdict.target for verdict in verdicts(results)] == [verdict.target for verdict in verdicts(RESULTS)][:8]
    assert "## Attribution" not in figures.markdown(results)


def test_markdown() -> None:
    text = figures.markdown(RESULTS)
    lines = text.splitlines()
    assert "| workload | truth | otel-gil | otel-gil observer | gilknocker | Dask | py-spy | floor |" in lines
    assert "| half | 0.505 | 0.510 (+0.010) | 0.480 (−0.020) | 0.900 (+0.400) | 0.220 (−0.300) | - | 0.022 |" in lines
    assert "| **mean absolute error** |  | **0.005** | **0.010** | **0.300** | **0.200** | - |  |" in lines
    assert "- py-spy, half: could not attach: it is not allowed" in lines
    assert "Not measured: slow-down by Dask: No module named 'distributed'" in lines
    assert "| CPU, idle: otel-gil | 0.30 % of a core | 1.00 times a bare thread | 3 |" in lines
    assert "| two | thread | b | 0.250 | 0.237 (−0.013) | 0.014 |" in lines
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
