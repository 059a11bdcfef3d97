"""What Prometheus is told about the GIL of Dask's workers, before and after: the torture test of dask/distributed#8557.

Needs the `prometheus` server, and gilknocker for the first column: `make dask` has both where there are packages of
them. Each phase is played in a worker process of its own, scraped every 5 s. About three minutes.

The truth has the seconds of quiet in it that there are before and after a phase. On a machine that has no core to spare
for the hot loop it is known between two bounds only.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from end_to_end.torture import PRELOAD, Contention, Phase, torture

SECONDS = 50
INTERVAL = 5

PHASES = {
    "holds of 1 s, 0.3 s free": Phase(1, 0.3),
    "holds of 4 s, 0.2 s free": Phase(4, 0.2),
    "holds of 15 s, 2.4 s free": Phase(15, 2.4),
    "pure-Python hot loop": Phase(0, 0),
}


def truth(seen: Contention) -> str:
    """As a range where the hot loop had to wait for a core."""
    low, high = f"{seen.at_least:.2f}", f"{seen.at_most:.2f}"
    return high if seen.at_most - seen.at_least < 0.02 else f"{low}-{high}"


if __name__ == "__main__":
    before = torture(PHASES, SECONDS, INTERVAL)
    after = torture(PHASES, SECONDS, INTERVAL, **PRELOAD)
    print(f"distributed {version('distributed')}, CPython {sys.version.split()[0]}")
    print(f"{'':<26} {'truth':>9} {'Dask before':>12} {'truth':>11} {'Dask after':>11} {'cpython.gil.time':>17}")
    for name in PHASES:
        was, now = before[name], after[name]
        print(f"{name:<26} {truth(was):>9} {was.dask:>12.2f} {truth(now):>11} {now.dask:>11.2f} {now.ours or 0:>17.2f}")
