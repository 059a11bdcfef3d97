"""Dask's workers in the torture test, seen by Prometheus. `benchmarks/dask_torture.py` is the same at full length."""

from __future__ import annotations

import pytest

from .torture import PRELOAD, Contention, Phase, torture

PHASES = {
    "holds of 1 s": Phase(1, 0.3),
    "holds of 4 s": Phase(4, 0.2),
    "holds of 7 s": Phase(7, 0.5),
    "hot loop": Phase(0, 0),
}


@pytest.fixture(scope="module")
def seen() -> dict[str, Contention]:
    """Plays all phases at the same time, in a worker process each."""
    return torture(PHASES, seconds=7, interval=1, **PRELOAD)


@pytest.mark.parametrize("phase", PHASES)
def test_both_counters_tell_the_truth(seen: dict[str, Contention], phase: str) -> None:
    print(seen[phase])
    assert seen[phase].at_most > 0.5
    assert seen[phase].right
